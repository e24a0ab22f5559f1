/*
 * The RDMA NIC: registers, commands, and the queues in memory.
 *
 * A driver makes protection domains, memory regions, completion queues and queue pairs by commands:
 * arguments into ARG, the command into COMMAND, and the results are in RESULT when STATUS says that
 * it is over. It posts work requests into the queues of a queue pair, rings the doorbell with how
 * many there have been so far, and finds completions in the completion queue, whose entries have
 * the phase bit of the pass over the queue. All addresses in queues are those of memory regions;
 * those of regions and queues themselves are bus addresses: for a guest, guest-physical ones.
 */
#ifndef GUEST_RDMA_REGISTERS_H
#define GUEST_RDMA_REGISTERS_H

#define RDMA_BASE(nic) (0x10030000UL + 0x1000UL * (nic))
#define RDMA_IRQ(nic) (24 + (nic))

#define RDMA_ID 0x00
#define RDMA_ID_VALUE 0x6d647247
#define RDMA_CONTROL 0x08
#define RDMA_CONTROL_ENABLE (1U << 0)
#define RDMA_CONTROL_IRQ_ENABLE (1U << 1)
#define RDMA_CONTROL_RESET (1U << 31)
#define RDMA_STATUS 0x0c
#define RDMA_STATUS_COMMAND (1U << 1) /* in progress */
#define RDMA_IRQ_STATUS 0x10
#define RDMA_EVENT 0x14 /* the oldest; a write takes it off */
#define RDMA_COMPLETIONS 0x18 /* two words, write 1 to clear */
#define RDMA_SQ_DOORBELL 0x20
#define RDMA_RQ_DOORBELL 0x24
#define RDMA_CQ_DOORBELL 0x28
#define RDMA_CQ_ARM 0x2c
#define RDMA_ARG 0x40
#define RDMA_COMMAND 0x70
#define RDMA_CMD_STATUS 0x74
#define RDMA_RESULT 0x78

#define RDMA_ALLOC_PD 1
#define RDMA_REG_MR 3
#define RDMA_DEREG_MR 4
#define RDMA_CREATE_CQ 5
#define RDMA_CREATE_QP 7
#define RDMA_MODIFY_QP 8

#define RDMA_LOCAL_WRITE (1U << 0)
#define RDMA_REMOTE_WRITE (1U << 1)
#define RDMA_REMOTE_READ (1U << 2)
#define RDMA_REMOTE_ATOMIC (1U << 3)
#define RDMA_FLUSH_GLOBAL (1U << 8)

/* States of a queue pair. */
#define RDMA_RESET 0
#define RDMA_INIT 1
#define RDMA_RTR 2 /* ready to receive */
#define RDMA_RTS 3 /* and to send */

/* Events. */
#define RDMA_EVENT_ACCESS_ERROR 3

/* Opcodes of send requests, and of completions. */
#define RDMA_WR_WRITE 0
#define RDMA_WR_WRITE_IMM 1
#define RDMA_WR_SEND 2
#define RDMA_WR_READ 4
#define RDMA_WR_COMPARE_SWAP 5
#define RDMA_WR_FETCH_ADD 6
#define RDMA_WR_FLUSH 14
#define RDMA_WC_RECV 128
#define RDMA_WC_RECV_IMM 129

#define RDMA_SIGNALED (1U << 0)
#define RDMA_FENCE (1U << 2)
#define RDMA_INLINE (1U << 3)

/* Statuses of completions. */
#define RDMA_OK 0
#define RDMA_FLUSHED 5
#define RDMA_REMOTE_ACCESS 10
#define RDMA_RETRIES_EXCEEDED 12

struct rdma_sge {
    unsigned long address;
    unsigned int len;
    unsigned int lkey;
};

struct rdma_send {
    unsigned long id;
    unsigned int opcode;
    unsigned int flags;
    unsigned int immediate;
    unsigned int nr_sge; /* or bytes of inline data */
    unsigned long remote;
    unsigned int rkey;
    unsigned int flush;
    unsigned int flush_len;
    unsigned int reserved;
    unsigned long operand; /* to add, or to compare */
    unsigned long swap;
    struct rdma_sge sge[4]; /* or inline data */
} __attribute__((aligned(128)));

struct rdma_recv {
    unsigned long id;
    unsigned int nr_sge;
    unsigned int reserved;
    struct rdma_sge sge[3];
} __attribute__((aligned(64)));

struct rdma_completion {
    unsigned long id;
    unsigned int status;
    unsigned int opcode;
    unsigned int len;
    unsigned int immediate;
    unsigned int qp;
    unsigned int flags; /* bit 0 immediate data came, bit 31 phase */
} __attribute__((aligned(32)));

#endif
