/*
 * rdma: two RDMA NICs, back to back, move bytes between each other in every way they know, and
 * every byte is checked.
 *
 * Each end has a window, one in the lower and one in the upper half of memory, and a stage that it
 * sends from and reads into. A round registers the windows, writes random ranges of the other end's
 * window from the stage, stores beside the ranges at the same time (in the same pages, never in the
 * same bytes), reads the window back, sends messages into receive buffers of several pieces, and
 * counts with atomic operations. A shadow of each window says what must be in it. At the end one
 * request is made that the other end must refuse, and the connection is made again.
 *
 * Parameter 0 = rounds (default 6).
 */
#include "fdt.h"
#include "plic.h"
#include "print.h"
#include "rdma.h"
#include "runtime.h"
#include "sbi.h"

#define DEFAULT_ROUNDS 6
#define WINDOW_BYTES (192UL << 10)
#define STAGE_BYTES (64UL << 10)
#define NR_RANGES 14
#define MAX_RANGE 9000
#define NR_MESSAGES 8
#define MESSAGE_BYTES 6000
#define NR_ADDS 16
#define COUNTER_BYTES 8 /* at the beginning of a window */
#define MAX_REPORTS 8
#define SEED 0x7264616dUL

#define WINDOW_RIGHTS                                                                              \
    (RDMA_LOCAL_WRITE | RDMA_REMOTE_WRITE | RDMA_REMOTE_READ | RDMA_REMOTE_ATOMIC |                \
     RDMA_FLUSH_GLOBAL)

struct end {
    struct rdma_nic nic;
    struct rdma_qp qp;
    struct rdma_mr window, stage;
    u8 *shadow; /* of the window */
    u64 counter; /* what the atomics have made of it */
};

/* A range of a window that a write is going to fill. */
struct range {
    u32 offset, len, source;
};

static struct end ends[2];
static u64 hart, random_state = SEED;
static volatile u64 interrupts;
static u64 mismatches, bytes_written, bytes_read, bytes_sent, pokes;

static u32 pick(u32 bound) { return random_below(&random_state, bound); }

static void mismatch(const char *what, u64 expected, u64 got)
{
    if (mismatches++ < MAX_REPORTS)
        print("rdma: MISMATCH: %s: expected 0x%x got 0x%x\n", what, expected, got);
}

static void expect(const char *what, u64 expected, u64 got)
{
    if (expected != got)
        mismatch(what, expected, got);
}

void trap_handler(struct trap_frame *frame)
{
    if (frame->scause == CAUSE_LOAD_ACCESS && frame->stval == RDMA_BASE(0)) {
        print("rdma: no RDMA NIC at 0x%x\n", RDMA_BASE(0));
        guest_exit(1);
    }
    if (frame->scause != CAUSE_EXTERNAL_INTERRUPT)
        trap_unexpected(frame);
    u32 source = plic_claim(hart);
    for (u32 e = 0; e < 2; e++)
        if (source == ends[e].nic.irq) {
            rdma_acknowledge(&ends[e].nic);
            interrupts++;
        }
    if (source != 0)
        plic_complete(hart, source);
}

/* The next completion of an end, which may take a while: sleeps until there is one. */
static struct rdma_completion await(struct end *end)
{
    struct rdma_completion done;
    while (!rdma_poll(&end->qp, &done)) {
        rdma_arm(&end->qp);
        csr_clear(sstatus, SSTATUS_SIE);
        int there = rdma_poll(&end->qp, &done);
        if (!there)
            wait_for_interrupt();
        csr_set(sstatus, SSTATUS_SIE);
        if (there)
            break;
    }
    return done;
}

static void await_ok(struct end *end, const char *what, u64 id, u64 len)
{
    struct rdma_completion done = await(end);
    expect(what, RDMA_OK, done.status);
    expect(what, id, done.id);
    expect(what, len, done.len);
}

static struct rdma_send *request(struct end *end, u64 id, u32 opcode, u32 flags)
{
    struct rdma_send *send = rdma_next_send(&end->qp);
    send->id = id;
    send->opcode = opcode;
    send->flags = flags | RDMA_SIGNALED;
    return send;
}

static struct rdma_sge piece(const struct rdma_mr *mr, u64 offset, u32 len)
{
    return (struct rdma_sge){ (u64)mr->bytes + offset, len, mr->lkey };
}

static void fill_stage(struct end *end, u64 seed)
{
    for (u64 i = 0; i < STAGE_BYTES / 8; i++)
        ((u64 *)end->stage.bytes)[i] = mix64(seed + i);
}

static void compare(const char *what, const u8 *expected, const u8 *got, u64 len)
{
    for (u64 i = 0; i < len; i++)
        expect(what, expected[i], got[i]);
}

/* ---- writes, with stores beside them, and reads ---- */

static u32 plan_ranges(struct range *range)
{
    u32 offset = COUNTER_BYTES, n = 0;
    while (n < NR_RANGES) {
        u32 len = 1 + pick(MAX_RANGE);
        offset += 1 + pick(4000);
        if (offset + len + 1 >= WINDOW_BYTES)
            break;
        range[n++] = (struct range){ offset, len, pick((u32)STAGE_BYTES - len) };
        offset += len;
    }
    return n;
}

static void poke(struct end *end, u32 offset)
{
    u8 value = (u8)++pokes;
    ((volatile u8 *)end->window.bytes)[offset] = value;
    end->shadow[offset] = value;
}

static void write_ranges(struct end *from, struct end *to)
{
    struct range range[NR_RANGES];
    u32 n = plan_ranges(range);
    for (u32 i = 0; i < n; i++) {
        u32 first = pick(range[i].len + 1); /* of two pieces */
        struct rdma_send *send = request(from, i, RDMA_WR_WRITE, 0);
        send->remote = (u64)to->window.bytes + range[i].offset;
        send->rkey = to->window.rkey;
        send->nr_sge = 2;
        send->sge[0] = piece(&from->stage, range[i].source, first);
        send->sge[1] = piece(&from->stage, range[i].source + first, range[i].len - first);
        bytes_written += range[i].len;
    }
    rdma_ring(&from->qp);
    for (u32 i = 0; i < n; i++) {
        poke(to, range[i].offset - 1);
        poke(to, range[i].offset + range[i].len);
        memcpy(to->shadow + range[i].offset, from->stage.bytes + range[i].source, range[i].len);
        await_ok(from, "write", i, range[i].len);
    }
    struct rdma_send *flush = request(from, n, RDMA_WR_FLUSH, 0);
    flush->remote = (u64)to->window.bytes;
    flush->rkey = to->window.rkey;
    flush->flush = 1;
    flush->flush_len = (u32)WINDOW_BYTES;
    rdma_ring(&from->qp);
    await_ok(from, "flush", n, WINDOW_BYTES);
    compare("window", to->shadow + COUNTER_BYTES, to->window.bytes + COUNTER_BYTES,
            WINDOW_BYTES - COUNTER_BYTES);
}

static void read_window(struct end *to, struct end *from)
{
    for (u32 offset = COUNTER_BYTES, id = 0; offset < WINDOW_BYTES; id++) {
        u32 len = 1 + pick((u32)STAGE_BYTES);
        if (len > WINDOW_BYTES - offset)
            len = (u32)WINDOW_BYTES - offset;
        struct rdma_send *send = request(to, id, RDMA_WR_READ, 0);
        send->remote = (u64)from->window.bytes + offset;
        send->rkey = from->window.rkey;
        send->nr_sge = 1;
        send->sge[0] = piece(&to->stage, 0, len);
        rdma_ring(&to->qp);
        await_ok(to, "read", id, len);
        compare("what was read", from->shadow + offset, to->stage.bytes, len);
        bytes_read += len;
        offset += len;
    }
}

/* ---- messages ---- */

/* Half of them are posted before there is a receive request: the sender is told to wait. */
static void send_messages(struct end *from, struct end *to)
{
    u32 len[NR_MESSAGES], place[NR_MESSAGES];
    for (u32 i = 0; i < NR_MESSAGES; i++) {
        len[i] = pick(MESSAGE_BYTES + 1);
        place[i] = pick((u32)STAGE_BYTES - MESSAGE_BYTES);
        struct rdma_send *send = request(from, i, RDMA_WR_SEND, 0);
        send->nr_sge = 1;
        send->sge[0] = piece(&from->stage, place[i], len[i]);
        bytes_sent += len[i];
    }
    rdma_ring(&from->qp);
    for (u32 i = 0; i < NR_MESSAGES; i++) {
        u64 buffer = i * (MESSAGE_BYTES + 64);
        u32 first = 1 + pick(MESSAGE_BYTES - 1);
        struct rdma_sge sge[2] = { piece(&to->stage, buffer, first),
                                   piece(&to->stage, buffer + first, MESSAGE_BYTES - first) };
        rdma_post_recv(&to->qp, 100 + i, sge, 2);
        await_ok(to, "message received", 100 + i, len[i]);
        compare("message", from->stage.bytes + place[i], to->stage.bytes + buffer, len[i]);
    }
    for (u32 i = 0; i < NR_MESSAGES; i++)
        await_ok(from, "message sent", i, len[i]);
}

/* ---- atomics ---- */

static void count_in_window(struct end *from, struct end *to)
{
    volatile u64 *was = (volatile u64 *)from->stage.bytes;
    for (u32 i = 0; i < NR_ADDS; i++) {
        u64 add = mix64(to->counter);
        struct rdma_send *send = request(from, i, RDMA_WR_FETCH_ADD, RDMA_FENCE);
        send->remote = (u64)to->window.bytes;
        send->rkey = to->window.rkey;
        send->operand = add;
        send->nr_sge = 1;
        send->sge[0] = piece(&from->stage, 8 * i, 8);
        rdma_ring(&from->qp);
        await_ok(from, "fetch and add", i, 8);
        expect("counter before", to->counter, was[i]);
        to->counter += add;
    }
    for (u32 i = 0; i < 2; i++) { /* once with what is there, once with what is not */
        struct rdma_send *send = request(from, i, RDMA_WR_COMPARE_SWAP, 0);
        send->remote = (u64)to->window.bytes;
        send->rkey = to->window.rkey;
        send->operand = to->counter + i;
        send->swap = i == 0 ? to->counter ^ SEED : 0;
        send->nr_sge = 1;
        send->sge[0] = piece(&from->stage, 0, 8);
        rdma_ring(&from->qp);
        await_ok(from, "compare and swap", i, 8);
        expect("counter before the swap", to->counter, was[0]);
        if (i == 0)
            to->counter ^= SEED;
    }
    expect("counter", to->counter, *(volatile u64 *)to->window.bytes);
}

/* ---- what the other end must refuse ---- */

static void be_refused(struct end *from, struct end *to)
{
    for (u32 i = 0; i < 2; i++) { /* a key that is over, and a request behind it */
        struct rdma_send *send = request(from, i, RDMA_WR_WRITE, RDMA_INLINE);
        send->remote = (u64)to->window.bytes;
        send->rkey = to->window.rkey;
        send->nr_sge = 8;
    }
    rdma_ring(&from->qp);
    u32 status = await(from).status;
    if (status != RDMA_RETRIES_EXCEEDED) /* the wire has lost the refusal */
        expect("refused", RDMA_REMOTE_ACCESS, status);
    expect("given back", RDMA_FLUSHED, await(from).status);
    expect("event", 1U << RDMA_EVENT_ACCESS_ERROR, to->nic.events & 1U << RDMA_EVENT_ACCESS_ERROR);
}

/* ---- all of it ---- */

static void must(const char *what, u32 error)
{
    if (error == 0)
        return;
    print("rdma: %s: error %u\n", what, (u64)error);
    guest_exit(1);
}

static void connect_ends(void)
{
    must("connect", rdma_connect(&ends[0].qp, &ends[1].qp));
    must("connect", rdma_connect(&ends[1].qp, &ends[0].qp));
}

static void round_of(u32 round)
{
    for (u32 e = 0; e < 2; e++) {
        struct rdma_nic *nic = &ends[e].nic;
        struct rdma_mr *window = &ends[e].window;
        must("register", rdma_register(nic, window, window->bytes, WINDOW_BYTES, WINDOW_RIGHTS));
    }
    for (u32 e = 0; e < 2; e++) {
        struct end *from = &ends[e], *to = &ends[1 - e];
        fill_stage(from, SEED * (round + 1) + e);
        write_ranges(from, to);
        send_messages(from, to);
        read_window(from, to);
        count_in_window(from, to);
    }
    for (u32 e = 0; e < 2; e++)
        must("deregister", rdma_deregister(&ends[e].nic, &ends[e].window));
    u64 checksum = 0;
    for (u32 e = 0; e < 2; e++)
        for (u64 i = 0; i < WINDOW_BYTES / 8; i++)
            checksum = (checksum << 1 | checksum >> 63) + ((u64 *)ends[e].window.bytes)[i];
    print("rdma: round %u checksum %p\n", (u64)round + 1, checksum);
}

/* Windows, stages and shadows: of end 0 in the lower half of memory, of end 1 in the upper one. */
static void place(u64 memory_end)
{
    u64 need = 2 * WINDOW_BYTES + STAGE_BYTES;
    u64 low = ((u64)_image_end + PAGE_SIZE - 1) / PAGE_SIZE * PAGE_SIZE;
    u64 high = low + (memory_end - low) / 2 / PAGE_SIZE * PAGE_SIZE;
    if (memory_end < low || low + need > high || high + need > memory_end) {
        print("rdma: does not fit into memory up to 0x%x\n", memory_end);
        guest_exit(1);
    }
    for (u32 e = 0; e < 2; e++) {
        u8 *at = (u8 *)(e == 0 ? low : high);
        ends[e].window.bytes = at;
        ends[e].stage.bytes = at + WINDOW_BYTES;
        ends[1 - e].shadow = at + WINDOW_BYTES + STAGE_BYTES;
    }
}

int main(u64 this_hart, const void *fdt)
{
    hart = this_hart;
    u64 instructions = csr_read(instret), rounds = parameter(0, DEFAULT_ROUNDS);
    place(fdt_memory_end(fdt));
    for (u32 e = 0; e < 2; e++) {
        struct end *end = &ends[e];
        if (!rdma_open(&end->nic, e)) {
            print("rdma: no RDMA NIC at 0x%x\n", RDMA_BASE(e));
            return 1;
        }
        plic_enable(hart, end->nic.irq);
        must("queue pair", rdma_create_qp(&end->nic, &end->qp));
        must("register", rdma_register(&end->nic, &end->stage, end->stage.bytes, STAGE_BYTES,
                                       RDMA_LOCAL_WRITE));
        for (u64 i = 0; i < WINDOW_BYTES / 8; i++)
            ((u64 *)end->window.bytes)[i] = ((u64 *)end->shadow)[i] = mix64(SEED ^ e) + i;
        end->counter = *(u64 *)end->window.bytes;
    }
    print("rdma: windows at gpa 0x%x and 0x%x, %u bytes each\n", (u64)ends[0].window.bytes,
          (u64)ends[1].window.bytes, WINDOW_BYTES);
    connect_ends();
    for (u32 round = 0; round < rounds; round++)
        round_of(round);
    be_refused(&ends[0], &ends[1]);
    connect_ends();
    send_messages(&ends[1], &ends[0]);
    print("rdma: %u bytes written, %u read, %u sent, %u stores beside them, %s\n", bytes_written,
          bytes_read, bytes_sent, pokes, interrupts != 0 ? "by interrupt" : "by polling");
    print("rdma: %u instructions\n", csr_read(instret) - instructions);
    if (mismatches != 0) {
        print("rdma: FAILED, %u mismatches\n", mismatches);
        return 1;
    }
    print("rdma: ok\n");
    return 0;
}
