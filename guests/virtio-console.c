/*
 * virtio-console: lines out through transmit buffers of every shape, what is typed back as a checksum,
 * and, where the console has more ports, bytes through the second one that come back.
 *
 *   - a first character by emergency write, before the device is set up;
 *   - NR_LINES lines of hexadecimal digits, cut into segments at random, many buffers at a time; the
 *     same lines are summed up, and the sum printed through SBI;
 *   - a line of input, in receive buffers of a few bytes;
 *   - with F_MULTIPORT the handshake of the control queues (virtio 1.2, 5.3.6.2); port 1 is sent
 *     ECHO_BYTES, which an echoing host sends back.
 *
 * Parameter 0 = features of the rings that are left alone, as in virtio-rng.c. Parameter 1 = 1: there
 * is input to be waited for. Parameter 2 = 1: port 1 sends back what it is sent.
 */
#include "print.h"
#include "runtime.h"
#include "virtio-irq.h"

#define F_SIZE (1UL << 0)
#define F_MULTIPORT (1UL << 1)
#define F_EMERG_WRITE (1UL << 2)

#define CONFIG_MAX_NR_PORTS 4
#define CONFIG_EMERG_WR 8

#define DEVICE_READY 0
#define DEVICE_ADD 1
#define PORT_READY 3
#define CONSOLE_PORT 4
#define PORT_OPEN 6

#define NR_LINES 200
#define LINE_BYTES 60
#define NR_OUT 16
#define NR_IN 4
#define IN_BYTES 16
#define ECHO_BYTES 1000
#define SEED 0x636f6e73UL

/* Queues in the order of the specification; those of other ports than 0 and 1 are not used. */
enum { RECEIVE, TRANSMIT, CONTROL_IN, CONTROL_OUT, RECEIVE1, TRANSMIT1, NR_QUEUES };

struct control {
    u32 id;
    u16 event, value;
    u8 text[56];
};

static struct virtio_device device;
static struct virtq queues[NR_QUEUES];
static u8 lines[NR_OUT][LINE_BYTES + 1];
static u8 typed[2][NR_IN][IN_BYTES];
static struct control heard[NR_IN], said;
static u8 sent[ECHO_BYTES];
static u64 hart, random_state = SEED;

static void offer_input(struct virtq *queue, void *bytes, u32 len)
{
    struct virtq_segment segment = { bytes, len, 1 };
    virtq_add(queue, &segment, 1, bytes);
}

/* ---- output ---- */

/* A line of random digits; its number first. Returns its length. */
static u32 make_line(u8 *line, u32 number)
{
    static const char digits[] = "0123456789abcdef";
    u32 len = 8 + random_below(&random_state, LINE_BYTES - 8);
    for (u32 i = 0; i < len; i++)
        line[i] = (u8)digits[i < 4 ? number >> (12 - 4 * i) & 15 : random_below(&random_state, 16)];
    line[len] = '\n';
    return len + 1;
}

/* Makes it available in up to three pieces. */
static void send_line(struct virtq *queue, const u8 *line, u32 len)
{
    u32 cut[4] = { 0, random_below(&random_state, len), random_below(&random_state, len), len };
    if (cut[1] > cut[2]) {
        u32 swap = cut[1];
        cut[1] = cut[2];
        cut[2] = swap;
    }
    struct virtq_segment segments[3];
    u32 count = 0;
    for (u32 i = 0; i < 3; i++)
        if (cut[i + 1] > cut[i])
            segments[count++] = (struct virtq_segment){ line + cut[i], cut[i + 1] - cut[i], 0 };
    virtq_add(queue, segments, count, (void *)line);
}

/* Returns the sum of all lines. */
static u64 send_lines(struct virtq *queue)
{
    u64 sum = 0;
    u32 out = 0, written;
    for (u32 number = 0; number < NR_LINES; number++) {
        u8 *line = out < NR_OUT ? lines[out++] : virtq_wait(queue, &written);
        u32 len = make_line(line, number);
        for (u32 i = 0; i < len; i++)
            sum = mix64(sum ^ line[i]);
        send_line(queue, line, len); /* NR_OUT times three descriptors always fit */
        if ((number & 3) == 3)
            virtq_kick(queue);
    }
    virtq_kick(queue);
    for (; out > 0; out--)
        virtq_wait(queue, &written);
    return sum;
}

/* ---- input ---- */

static void read_line(struct virtq *queue)
{
    u64 sum = 0, len = 0;
    for (int more = 1; more;) {
        u32 written;
        u8 *bytes = virtq_wait(queue, &written);
        for (u32 i = 0; i < written && more; i++) {
            more = bytes[i] != '\n';
            if (more) {
                sum = mix64(sum ^ bytes[i]);
                len++;
            }
        }
        offer_input(queue, bytes, IN_BYTES);
        virtq_kick(queue);
    }
    print("virtio-console: read %u bytes, sum %p\n", len, sum);
}

/* ---- more ports ---- */

static void say(u32 port, u16 event, u16 value)
{
    u32 written;
    said = (struct control){ .id = port, .event = event, .value = value };
    struct virtq_segment segment = { &said, 8, 0 };
    virtq_add(&queues[CONTROL_OUT], &segment, 1, &said);
    virtq_kick(&queues[CONTROL_OUT]);
    virtq_wait(&queues[CONTROL_OUT], &written);
}

/* Answers what the device says of its ports until those of the mask `wanted` are open. */
static void shake_hands(u32 wanted)
{
    u32 open = 0;
    say(0, DEVICE_READY, 1);
    while ((open & wanted) != wanted) {
        u32 written;
        struct control *message = virtq_wait(&queues[CONTROL_IN], &written);
        u32 port = message->id;
        if (message->event == DEVICE_ADD)
            say(port, PORT_READY, 1);
        if (message->event == CONSOLE_PORT) {
            say(port, PORT_OPEN, 1);
            open |= 1U << (port & 31); /* a console is open by its nature */
        }
        if (message->event == PORT_OPEN && message->value == 1) {
            say(port, PORT_OPEN, 1);
            open |= 1U << (port & 31);
        }
        offer_input(&queues[CONTROL_IN], message, sizeof *message);
        virtq_kick(&queues[CONTROL_IN]);
    }
}

/* Bytes to port 1 and back. Returns how many came back wrong. */
static u64 try_echo(void)
{
    u64 wrong = 0;
    u32 written, got = 0;
    for (u32 i = 0; i < ECHO_BYTES; i++)
        sent[i] = (u8)mix64(i);
    struct virtq_segment segments[2] = { { sent, 300, 0 }, { sent + 300, ECHO_BYTES - 300, 0 } };
    virtq_add(&queues[TRANSMIT1], segments, 2, sent);
    virtq_kick(&queues[TRANSMIT1]);
    while (got < ECHO_BYTES) {
        u8 *bytes = virtq_wait(&queues[RECEIVE1], &written);
        for (u32 i = 0; i < written; i++)
            wrong += got + i >= ECHO_BYTES || bytes[i] != sent[got + i];
        got += written;
        offer_input(&queues[RECEIVE1], bytes, IN_BYTES);
        virtq_kick(&queues[RECEIVE1]);
    }
    virtq_wait(&queues[TRANSMIT1], &written);
    return wrong;
}

static int set_up(u64 left_alone)
{
    u64 wanted = F_SIZE | F_MULTIPORT | F_EMERG_WRITE | virtio_ring_features(left_alone);
    if (!virtio_negotiate(&device, wanted))
        return 0;
    u32 nr_queues = (device.features & F_MULTIPORT) != 0 ? NR_QUEUES : 2;
    for (u32 i = 0; i < nr_queues; i++)
        if (!virtq_setup(&queues[i], &device, i, 0))
            return 0;
    virtio_start(&device, hart);
    for (u32 i = 0; i < NR_IN; i++) {
        offer_input(&queues[RECEIVE], typed[0][i], IN_BYTES);
        if (nr_queues > 2) {
            offer_input(&queues[CONTROL_IN], &heard[i], sizeof heard[i]);
            offer_input(&queues[RECEIVE1], typed[1][i], IN_BYTES);
        }
    }
    for (u32 i = 0; i < nr_queues; i++)
        virtq_kick(&queues[i]);
    return 1;
}

int main(u64 this_hart, const void *fdt)
{
    (void)fdt;
    hart = this_hart;
    if (!virtio_find(VIRTIO_ID_CONSOLE, &device)) {
        print("virtio-console: no device\n");
        return 1;
    }
    virtio_config_write32(&device, CONFIG_EMERG_WR, '!');
    virtio_config_write32(&device, CONFIG_EMERG_WR, '\n');
    if (!set_up(parameter(0, 0))) {
        print("virtio-console: the device does not agree\n");
        return 1;
    }
    int multiport = (device.features & F_MULTIPORT) != 0;
    print("virtio-console: %s ring, %s\n",
          virtq_has(&queues[0], VIRTIO_F_RING_PACKED) ? "packed" : "split",
          multiport ? "several ports" : "one port");
    if (multiport)
        shake_hands(parameter(2, 0) ? 3 : 1);
    print("virtio-console: %u lines, sum %p\n", (u64)NR_LINES, send_lines(&queues[TRANSMIT]));
    if (parameter(1, 0))
        read_line(&queues[RECEIVE]);
    u64 wrong = 0;
    if (multiport && parameter(2, 0)) {
        wrong = try_echo();
        print("virtio-console: %u bytes to port 1 and back, %u wrong\n", (u64)ECHO_BYTES, wrong);
    }
    if (wrong != 0 || virtio_interrupts == 0) {
        print("virtio-console: FAILED\n");
        return 1;
    }
    print("virtio-console: ok\n");
    return 0;
}
