/*
 * smp: harts that share one set of page tables. One of them remaps pages and fences the others; they
 * read through their own TLBs, and must never see what a page was after the fence that ended it.
 *
 *   window    8 pages of gva, each with two frames that take turns. The word in a frame is its generation,
 *             and 0 as soon as the fence has returned after which nobody may read it any more.
 *   readers   load the generation that is fenced, then the word: it must be as new, and never 0.
 *   counts    every hart adds to one word by AMOs, and to one of its own: none may be lost.
 *   ring      an IPI goes from hart to hart, each of which counts it and passes it on.
 *
 * Parameter 0 = remaps (default 400), 1 = hops of the IPI (default 200), 2 = 1: forget the fences of the
 * other harts, and be found out.
 */
#include "print.h"
#include "runtime.h"
#include "sbi.h"
#include "sv39.h"

#define MAX_HARTS 8
#define STACK_BYTES 4096
#define NR_PAGES 8
#define WINDOW 0x1000000000UL
#define MAX_REPORTS 8

#define SBI_EXT_IPI 0x735049UL
#define SBI_EXT_RFENCE 0x52464e43UL
#define RFENCE_SFENCE_VMA 1UL

#define CAUSE_SOFTWARE_INTERRUPT (CAUSE_INTERRUPT | 1)
#define SIP_SSIP (1UL << 1)

#define LEAF_FLAGS (PTE_R | PTE_W | PTE_A | PTE_D)

static sv39_table root, image_middle, window_middle, window_last;
static u8 frames[NR_PAGES][2][PAGE_SIZE] __attribute__((aligned(4096)));
static u8 stacks[MAX_HARTS][STACK_BYTES] __attribute__((aligned(16)));

/* By page: the generation whose fence has returned. */
static u64 fenced[NR_PAGES];
static u64 stop, mismatches, shared_count, hops_left;
static u64 ready[MAX_HARTS], finished[MAX_HARTS], own_count[MAX_HARTS], ipis[MAX_HARTS];
static u64 boot_hart, started_mask;

static inline u64 this_hart(void)
{
    u64 hart;
    __asm__("mv %0, tp" : "=r"(hart));
    return hart;
}

#define load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define add(p, v) __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL)

/* remote_sfence_vma(mask, base, start, size): SBI chapter 8. Four arguments, unlike other calls here. */
static void remote_sfence_vma(u64 mask, u64 gva, u64 len)
{
    register u64 a0 __asm__("a0") = mask;
    register u64 a1 __asm__("a1") = 0;
    register u64 a2 __asm__("a2") = gva;
    register u64 a3 __asm__("a3") = len;
    register u64 a6 __asm__("a6") = RFENCE_SFENCE_VMA;
    register u64 a7 __asm__("a7") = SBI_EXT_RFENCE;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a2), "r"(a3), "r"(a6), "r"(a7) : "memory");
}

static void mismatch(u64 page, u64 expected, u64 got)
{
    if (add(&mismatches, 1) < MAX_REPORTS)
        print("smp: MISMATCH page %u expected %u or later, got %u\n", page, expected, got);
}

/* The next hart of the ring. */
static u64 next_hart(u64 hart)
{
    do
        hart = (hart + 1) % MAX_HARTS;
    while ((started_mask >> hart & 1) == 0);
    return hart;
}

static void pass_on(void)
{
    sbi_call(SBI_EXT_IPI, 0, 1UL << next_hart(this_hart()), 0, 0);
}

void trap_handler(struct trap_frame *frame)
{
    if (frame->scause != CAUSE_SOFTWARE_INTERRUPT)
        trap_unexpected(frame);
    csr_clear(sip, SIP_SSIP);
    ipis[this_hart()]++;
    if (add(&hops_left, -1UL) > 1)
        pass_on();
}

/* One look at every page, and one count. */
static void look(u64 hart)
{
    for (u64 page = 0; page < NR_PAGES; page++) {
        u64 expected = load_acquire(&fenced[page]);
        u64 got = *(volatile u64 *)(WINDOW + page * PAGE_SIZE);
        if (got < expected || got == 0)
            mismatch(page, expected, got);
    }
    own_count[hart]++;
    add(&shared_count, 1);
}

/* The tables of all harts; software interrupts from here on. */
static void enter(void)
{
    sv39_enable(root, 0);
    csr_write(sie, SIP_SSIP);
    csr_set(sstatus, SSTATUS_SIE);
}

void secondary_main(u64 hart)
{
    enter();
    look(hart);
    store_release(&ready[hart], 1);
    while (load_acquire(&stop) == 0)
        look(hart);
    csr_clear(sstatus, SSTATUS_SIE);
    store_release(&finished[hart], 1);
}

/* A new generation of a page: the other frame, a fence, and the old frame is nobody's. */
static void remap(u64 page, u64 generation)
{
    u64 *now = (u64 *)frames[page][generation & 1], *old = (u64 *)frames[page][~generation & 1];
    u64 gva = WINDOW + page * PAGE_SIZE;
    *(volatile u64 *)now = generation;
    store_release(&window_last[sv39_index(gva, 0)], sv39_leaf((u64)now, LEAF_FLAGS));
    fence_all();
    sfence_vma_page(gva);
    if (started_mask != 1UL << boot_hart && parameter(2, 0) == 0)
        remote_sfence_vma(started_mask & ~(1UL << boot_hart), gva, PAGE_SIZE);
    store_release(&fenced[page], generation);
    *(volatile u64 *)old = 0;
}

static void start_others(void)
{
    for (u64 hart = 0; hart < MAX_HARTS; hart++) {
        if (hart == boot_hart || sbi_hart_start(hart, stacks[hart] + STACK_BYTES) != 0)
            continue;
        while (load_acquire(&ready[hart]) == 0)
            ;
        started_mask |= 1UL << hart;
    }
}

int main(u64 hart, const void *fdt)
{
    u64 remaps = parameter(0, 400), hops = parameter(1, 200), harts = 0, counts = 0, got_ipis = 0;
    (void)fdt;
    boot_hart = hart;
    started_mask = 1UL << hart;
    sv39_map_image(root, image_middle);
    root[sv39_index(WINDOW, 2)] = sv39_pointer(window_middle);
    window_middle[sv39_index(WINDOW, 1)] = sv39_pointer(window_last);
    for (u64 page = 0; page < NR_PAGES; page++)
        remap(page, 1);
    enter();
    start_others();

    hops_left = hops;
    pass_on();
    u64 seed = 0x67757062;
    for (u64 i = 0; i < remaps; i++) {
        u64 page = random_below(&seed, NR_PAGES);
        remap(page, fenced[page] + 1);
        look(hart);
    }
    while ((s64)load_acquire(&hops_left) > 0)
        look(hart);
    csr_clear(sstatus, SSTATUS_SIE);

    store_release(&stop, 1);
    for (u64 other = 0; other < MAX_HARTS; other++) {
        if ((started_mask >> other & 1) == 0)
            continue;
        while (other != hart && load_acquire(&finished[other]) == 0)
            ;
        harts++;
        counts += own_count[other];
        got_ipis += ipis[other];
    }
    if (counts != shared_count || got_ipis != hops)
        mismatches++;
    print("smp: %u harts, %u remaps, %u of %u IPIs, counts %s, %u mismatches\n", harts, remaps,
          got_ipis, hops, counts == shared_count ? "agree" : "DIFFER", mismatches);
    return mismatches != 0;
}
