/*
 * memwalk: fills 32 MiB through its own page tables and reads them back, again and again, while
 * whoever owns the memory underneath moves it about.
 *
 * Half of the memory is mapped by 4 KiB pages, half by 2 MiB pages, both in a scrambled order, and
 * pages are visited in another one. What a page must hold is arithmetic and never read from it:
 *
 *   words 0..510   colour(content) + generation * GENERATION + word * STEP
 *   word  511      colour(content) ^ STAMP ^ number of touches
 *
 * `content` names the page wherever it is mapped, `generation` counts how often it was rewritten,
 * and `touches` how often its last word was changed. So a page that is somebody else's, an old copy
 * of itself, or a page that has lost a single store, all show up as a mismatch. Each pass visits
 * every page, checks all of its words, rewrites a changing quarter of the pages, and touches pages it
 * has visited shortly before, whose translations the hart is likely to remember still.
 */
#include "fdt.h"
#include "print.h"
#include "runtime.h"
#include "sbi.h"
#include "sv39.h"

#define DATA_BYTES (32UL << 20)
#define NR_PAGES (DATA_BYTES / PAGE_SIZE)
#define NR_SMALL (NR_PAGES / 2)
#define NR_BLOCKS (DATA_BYTES / LARGE_PAGE_SIZE)
#define PAGES_PER_BLOCK (LARGE_PAGE_SIZE / PAGE_SIZE)

/* Windows of gva: pages 0..NR_SMALL-1 by 4 KiB, the others by 2 MiB. */
#define SMALL_BASE 0x1000000000UL
#define LARGE_BASE 0x2000000000UL

#define NR_PASSES 3
#define REWRITE_EVERY 4
#define SWAPS_PER_PASS 64
#define MAX_REPORTS 8

#define SEED 0x67757062656421UL
#define STEP 0x9e3779b97f4a7c15UL
#define GENERATION 0xd1b54a32d192ed03UL
#define STAMP 0x5354414d50UL

/* Words of a page that carry the pattern; the last one carries the stamp. */
#define WORDS 511UL
#define STAMP_WORD 511
/* The loops over them do this many a turn: 511 = 7 * 73. */
#define UNROLLED 73

static sv39_table root, image_middle, small_middle, large_middle;
static sv39_table small_last[NR_SMALL / 512];

/* By page of the windows: which content is mapped there. By content: its history. */
static u16 content_of[NR_PAGES];
static u32 generation[NR_PAGES];
static u32 touches[NR_PAGES];
static u16 order[NR_PAGES];
static u16 scramble[NR_SMALL];

static u64 mismatches;
static u64 rewritten;
static u64 accessed_faults;

static u64 gva_of(u32 page)
{
    return page < NR_SMALL ? SMALL_BASE + page * PAGE_SIZE
                           : LARGE_BASE + (page - NR_SMALL) * PAGE_SIZE;
}

static u64 colour(u32 content)
{
    return mix64(SEED + content);
}

/* Value of word 0; word i is i * STEP more. */
static u64 first_word(u32 content)
{
    return colour(content) + generation[content] * GENERATION;
}

static u64 stamp_value(u32 content)
{
    return colour(content) ^ STAMP ^ touches[content];
}

static void mismatch(u64 gva, u64 expected, u64 got)
{
    if (mismatches++ < MAX_REPORTS)
        print("memwalk: MISMATCH at gva 0x%x expected 0x%x got 0x%x\n", gva, expected, got);
}

/* Even 2 MiB blocks of the data are mapped as they are, odd ones page by page. */
static void build_tables(u64 data_gpa)
{
    sv39_map_image(root, image_middle);
    root[sv39_index(SMALL_BASE, 2)] = sv39_pointer(small_middle);
    root[sv39_index(LARGE_BASE, 2)] = sv39_pointer(large_middle);
    for (u32 i = 0; i < NR_SMALL / 512; i++)
        small_middle[i] = sv39_pointer(small_last[i]);

    /* A and D are left to the hardware, or to trap_handler() where it does not set them. */
    shuffle(scramble, NR_SMALL, SEED);
    for (u32 page = 0; page < NR_SMALL; page++) {
        u64 block = scramble[page] / PAGES_PER_BLOCK * 2 + 1;
        u64 gpa = data_gpa + block * LARGE_PAGE_SIZE + scramble[page] % PAGES_PER_BLOCK * PAGE_SIZE;
        small_last[page / 512][page % 512] = sv39_leaf(gpa, PTE_R | PTE_W);
    }
    shuffle(scramble, NR_BLOCKS / 2, SEED + 1);
    for (u32 i = 0; i < NR_BLOCKS / 2; i++)
        large_middle[i] =
            sv39_leaf(data_gpa + scramble[i] * 2 * LARGE_PAGE_SIZE, PTE_R | PTE_W);
}

void trap_handler(struct trap_frame *frame)
{
    int store = frame->scause == CAUSE_STORE_PAGE_FAULT;
    if ((store || frame->scause == CAUSE_LOAD_PAGE_FAULT) &&
        sv39_set_accessed(root, frame->stval, store)) {
        accessed_faults++;
        return;
    }
    trap_unexpected(frame);
}

/* Keeps the compiler from working ahead, which would need more registers than there are. */
#define keep_order(value) __asm__ volatile("" : "+r"(value)::"memory")

static void write_pattern(u32 page)
{
    u64 *word = (u64 *)gva_of(page);
    u64 value = first_word(content_of[page]), step = STEP;
    for (u32 i = 0; i < WORDS / UNROLLED; i++, word += UNROLLED) {
#pragma GCC unroll 73
        for (u32 j = 0; j < UNROLLED; j++) {
            word[j] = value;
            value += step;
            keep_order(value);
        }
    }
}

/* Checks the stamp of a page and changes it: one load and one store to the page. */
static void touch(u32 page)
{
    u32 content = content_of[page];
    volatile u64 *stamp = (volatile u64 *)gva_of(page) + STAMP_WORD;
    u64 got = *stamp;
    u64 expected = stamp_value(content);
    if (got != expected)
        mismatch((u64)stamp, expected, got);
    touches[content]++;
    *stamp = stamp_value(content);
}

/* After the sums of a page were wrong: which words are. */
static void find_mismatches(u32 page)
{
    volatile const u64 *word = (volatile const u64 *)gva_of(page);
    u64 expected = first_word(content_of[page]);
    u64 before = mismatches;
    for (u32 i = 0; i < WORDS; i++, expected += STEP) {
        u64 got = word[i];
        if (got != expected)
            mismatch((u64)&word[i], expected, got);
    }
    /* The words were wrong once and are right now: no less of a failure. */
    if (mismatches == before)
        mismatch((u64)word, first_word(content_of[page]), 0);
}

/*
 * Sums of words 0..510 as Fletcher's checksum has them: s1 = sum of words, s2 = sum of all s1 on
 * the way. One wrong word changes s1, two words in each other's place change s2.
 */
struct sums {
    u64 s1, s2;
};

static struct sums sums_read(u32 page)
{
    const u64 *word = (const u64 *)gva_of(page);
    u64 s1 = 0, s2 = 0;
    for (u32 i = 0; i < WORDS / UNROLLED; i++, word += UNROLLED) {
#pragma GCC unroll 73
        for (u32 j = 0; j < UNROLLED; j++) {
            s1 += word[j];
            s2 += s1;
            keep_order(s2);
        }
    }
    return (struct sums){ s1, s2 };
}

/* The same sums by arithmetic: word i = first + i * STEP, and counts 511 - i times in s2. */
static struct sums sums_expected(u32 content)
{
    const u64 sum_i = (WORDS - 1) * WORDS / 2;
    const u64 sum_i2 = (WORDS - 1) * WORDS * (2 * WORDS - 1) / 6;
    u64 first = first_word(content);
    return (struct sums){
        WORDS * first + sum_i * STEP,
        WORDS * (WORDS + 1) / 2 * first + (WORDS * sum_i - sum_i2) * STEP,
    };
}

static u64 checksum_add(u64 checksum, struct sums sums)
{
    return (checksum ^ sums.s1) * STEP + sums.s2;
}

static void one_pass(u32 pass)
{
    /* How many visits ago the pages were visited that are touched once more. */
    static const u32 ago[] = { 16, 256, 1024 };
    u32 stride = 2 * (mix64(SEED + pass) % (NR_PAGES / 2)) + 1; /* odd: reaches every page */
    u64 read = 0, expected = 0;
    for (u32 visit = 0; visit < NR_PAGES; visit++) {
        u32 page = order[visit * stride % NR_PAGES];
        u32 content = content_of[page];
        struct sums got = sums_read(page);
        struct sums want = sums_expected(content);
        if (got.s1 != want.s1 || got.s2 != want.s2)
            find_mismatches(page);
        read = checksum_add(read, got);
        expected = checksum_add(expected, want);
        touch(page);
        if ((visit + pass) % REWRITE_EVERY == 0) {
            generation[content]++;
            write_pattern(page);
            rewritten++;
        }
        for (u32 i = 0; i < sizeof ago / sizeof ago[0]; i++)
            if (visit >= ago[i])
                touch(order[(visit - ago[i]) * stride % NR_PAGES]);
    }
    print("memwalk: pass %u checksum %p expected %p\n", (u64)pass, read, expected);
    if (read != expected && mismatches == 0)
        mismatch(0, expected, read);
}

/* Swaps the frames of pairs of 4 KiB pages in the page tables: the contents change places. */
static void swap_mappings(u32 pass)
{
    u64 random = SEED + pass;
    for (u32 i = 0; i < SWAPS_PER_PASS; i++) {
        u32 a = random_below(&random, NR_SMALL), b = random_below(&random, NR_SMALL);
        u64 *pte_a = &small_last[a / 512][a % 512], *pte_b = &small_last[b / 512][b % 512];
        u64 pte = *pte_a;
        u16 content = content_of[a];
        *pte_a = *pte_b;
        *pte_b = pte;
        content_of[a] = content_of[b];
        content_of[b] = content;
        sfence_vma_page(gva_of(a));
        sfence_vma_page(gva_of(b));
    }
}

int main(u64 hart, const void *fdt)
{
    u64 data_gpa = ((u64)_image_end + LARGE_PAGE_SIZE - 1) & ~(LARGE_PAGE_SIZE - 1);
    u64 memory_end = fdt_memory_end(fdt);
    u64 instructions = csr_read(instret);
    (void)hart;
    if (data_gpa + DATA_BYTES > memory_end) {
        print("memwalk: needs memory up to 0x%x, there is memory up to 0x%x\n",
              data_gpa + DATA_BYTES, memory_end);
        return 1;
    }
    build_tables(data_gpa);
    sv39_enable(root, 1);
    print("memwalk: %u MiB at gpa 0x%x, %u pages of 4 KiB and %u of 2 MiB\n", DATA_BYTES >> 20,
          data_gpa, NR_SMALL, NR_BLOCKS / 2);

    for (u32 page = 0; page < NR_PAGES; page++)
        content_of[page] = (u16)page;
    shuffle(order, NR_PAGES, SEED + 2);
    for (u32 i = 0; i < NR_PAGES; i++) {
        u32 page = order[i];
        write_pattern(page);
        ((u64 *)gva_of(page))[STAMP_WORD] = stamp_value(content_of[page]);
    }
    print("memwalk: filled\n");

    for (u32 pass = 1; pass <= NR_PASSES; pass++) {
        one_pass(pass);
        swap_mappings(pass);
    }

    print("memwalk: %u pages rewritten, %u A/D faults, %u instructions\n", rewritten,
          accessed_faults, csr_read(instret) - instructions);
    if (mismatches != 0) {
        print("memwalk: FAILED, %u mismatches\n", mismatches);
        return 1;
    }
    print("memwalk: ok\n");
    return 0;
}
