/*
 * A driver for the RDMA NIC in the terms of verbs: regions, and queue pairs with one completion
 * queue each, of sizes that are fixed here.
 */
#ifndef GUEST_RDMA_LIB_H
#define GUEST_RDMA_LIB_H

#include "../include/rdma.h"
#include "runtime.h"

#define RDMA_QUEUE_SHIFT 5
#define RDMA_QUEUE_SIZE (1U << RDMA_QUEUE_SHIFT)
#define RDMA_CQ_SHIFT 7
#define RDMA_CQ_SIZE (1U << RDMA_CQ_SHIFT)

struct rdma_nic {
    u64 base;
    u32 irq;
    u32 pd;
    volatile u32 events; /* types of asynchronous events so far, a bit each */
};

/* A memory region: the bytes at `bytes` are known by their own addresses. */
struct rdma_mr {
    u8 *bytes;
    u64 len;
    u32 lkey, rkey;
};

struct rdma_qp {
    struct rdma_nic *nic;
    u32 number, cq_number;
    struct rdma_send send[RDMA_QUEUE_SIZE];
    struct rdma_recv recv[RDMA_QUEUE_SIZE];
    struct rdma_completion cq[RDMA_CQ_SIZE];
    u32 sent, received, taken;
};

/* Resets a NIC and makes its protection domain. 0 = there is none. */
int rdma_open(struct rdma_nic *nic, u32 number);
/* Waits for the end of the command. Returns its errno. */
u32 rdma_command(struct rdma_nic *nic, u32 command, const u32 *args, u32 nr_args);
/* 0 = registered, or the errno. */
u32 rdma_register(struct rdma_nic *nic, struct rdma_mr *mr, void *bytes, u64 len, u32 access);
u32 rdma_deregister(struct rdma_nic *nic, struct rdma_mr *mr);
/* Makes a queue pair. `qp` is zeroed, as it is in .bss. 0 = made, or the errno. */
u32 rdma_create_qp(struct rdma_nic *nic, struct rdma_qp *qp);
/* From any state to ready to send, to the other end's queue pair; queues begin anew. 0 = done. */
u32 rdma_connect(struct rdma_qp *qp, const struct rdma_qp *to);

/* The next place of the send queue, zeroed; rdma_ring() hands over all that were filled since. */
struct rdma_send *rdma_next_send(struct rdma_qp *qp);
void rdma_ring(struct rdma_qp *qp);
/* Posts a receive request of up to three pieces. */
void rdma_post_recv(struct rdma_qp *qp, u64 id, const struct rdma_sge *sge, u32 nr_sge);
/* Takes the next completion. 0 = there is none. */
int rdma_poll(struct rdma_qp *qp, struct rdma_completion *done);
/* The next completion interrupts; look again after this before going to sleep. */
void rdma_arm(struct rdma_qp *qp);
/* Acknowledges an interrupt, whatever it is for: notes events in `nic->events`. */
void rdma_acknowledge(struct rdma_nic *nic);

#endif
