/*
 * What every guest may use: fixed-width types, CSR access, traps, memory helpers, a random
 * generator. There is no C library underneath.
 */
#ifndef GUEST_RUNTIME_H
#define GUEST_RUNTIME_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long s64;

#define PAGE_SIZE 4096UL

/* First byte of the image, and the first one after it, .bss and stack included (guest.ld). */
extern u8 _image_start[], _image_end[];

/* Numbers the loader may have stored at _start + 8 (crt0.S). 0 = use the default. */
extern const volatile u64 guest_parameters[4];

/* Parameter number `index`, or `fallback` where it is 0. */
static inline u64 parameter(int index, u64 fallback)
{
    u64 value = guest_parameters[index];
    return value ? value : fallback;
}

#define csr_read(csr) ({ u64 v_; __asm__ volatile("csrr %0, " #csr : "=r"(v_) :: "memory"); v_; })
#define csr_write(csr, v) __asm__ volatile("csrw " #csr ", %0" :: "rK"(v) : "memory")
#define csr_set(csr, v) __asm__ volatile("csrs " #csr ", %0" :: "rK"(v) : "memory")
#define csr_clear(csr, v) __asm__ volatile("csrc " #csr ", %0" :: "rK"(v) : "memory")

static inline void wait_for_interrupt(void) { __asm__ volatile("wfi" ::: "memory"); }
/* Orders everything, device registers included. */
static inline void fence_all(void) { __asm__ volatile("fence iorw, iorw" ::: "memory"); }
static inline void sfence_vma_all(void) { __asm__ volatile("sfence.vma" ::: "memory"); }
static inline void sfence_vma_page(u64 gva)
{
    __asm__ volatile("sfence.vma %0, zero" :: "r"(gva) : "memory");
}

static inline u32 mmio_read32(u64 gpa) { return *(volatile u32 *)gpa; }
static inline void mmio_write32(u64 gpa, u32 value) { *(volatile u32 *)gpa = value; }

/* scause values that guests tell apart (privileged manual, table of supervisor causes). */
#define CAUSE_INTERRUPT (1UL << 63)
#define CAUSE_EXTERNAL_INTERRUPT (CAUSE_INTERRUPT | 9)
#define CAUSE_LOAD_ACCESS 5
#define CAUSE_LOAD_PAGE_FAULT 13
#define CAUSE_STORE_PAGE_FAULT 15

#define SSTATUS_SIE (1UL << 1)
#define SIE_SEIE (1UL << 9)

/* Registers at a trap, as crt0.S stores them. A handler may change all of them. */
struct trap_frame {
    u64 x[32]; /* x[0] is not stored */
    u64 sepc, scause, stval, unused;
};

/* Called on every trap. The default says what happened and shuts the machine down. */
void trap_handler(struct trap_frame *frame);
/* What the default does, for handlers that do not know a trap either. Does not return. */
void trap_unexpected(const struct trap_frame *frame) __attribute__((noreturn));

/* Ends the run: code 0 = passed. Does not return. */
void guest_exit(int code) __attribute__((noreturn));

/* A 64-bit mixer (the finalizer of splitmix64): every bit of the result depends on every bit of x. */
static inline u64 mix64(u64 x)
{
    x += 0x9e3779b97f4a7c15UL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9UL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebUL;
    return x ^ (x >> 31);
}

/* xorshift64*: the state must not be 0. Returns a number below `bound` (at most 2^32). */
static inline u32 random_below(u64 *state, u32 bound)
{
    u64 x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return (u32)(((x * 0x2545f4914f6cdd1dUL >> 32) * bound) >> 32);
}

/* As in C's library; also what the compiler calls on its own account. */
void *memcpy(void *to, const void *from, u64 len);
void *memset(void *to, int value, u64 len);

/* Fills order[0..count) with a seeded permutation of 0..count-1 (Fisher and Yates). */
void shuffle(u16 *order, u32 count, u64 seed);

#endif
