/* The RDMA NIC's driver. */
#include "rdma.h"

static u32 reg_read(const struct rdma_nic *nic, u32 reg) { return mmio_read32(nic->base + reg); }
static void reg_write(const struct rdma_nic *nic, u32 reg, u32 value)
{
    mmio_write32(nic->base + reg, value);
}

static u32 low(u64 value) { return (u32)value; }
static u32 high(u64 value) { return (u32)(value >> 32); }

int rdma_open(struct rdma_nic *nic, u32 number)
{
    nic->base = RDMA_BASE(number);
    nic->irq = RDMA_IRQ(number);
    if (reg_read(nic, RDMA_ID) != RDMA_ID_VALUE)
        return 0;
    reg_write(nic, RDMA_CONTROL, RDMA_CONTROL_RESET);
    reg_write(nic, RDMA_CONTROL, RDMA_CONTROL_ENABLE | RDMA_CONTROL_IRQ_ENABLE);
    if (rdma_command(nic, RDMA_ALLOC_PD, 0, 0) != 0)
        return 0;
    nic->pd = reg_read(nic, RDMA_RESULT);
    return 1;
}

u32 rdma_command(struct rdma_nic *nic, u32 command, const u32 *args, u32 nr_args)
{
    for (u32 i = 0; i < nr_args; i++)
        reg_write(nic, RDMA_ARG + 4 * i, args[i]);
    reg_write(nic, RDMA_COMMAND, command);
    while ((reg_read(nic, RDMA_STATUS) & RDMA_STATUS_COMMAND) != 0)
        ;
    reg_write(nic, RDMA_IRQ_STATUS, 1);
    return reg_read(nic, RDMA_CMD_STATUS);
}

u32 rdma_register(struct rdma_nic *nic, struct rdma_mr *mr, void *bytes, u64 len, u32 access)
{
    u64 at = (u64)bytes;
    u32 args[] = { nic->pd, access, low(at), high(at), low(at), high(at), low(len), high(len) };
    u32 error = rdma_command(nic, RDMA_REG_MR, args, 8);
    mr->bytes = bytes;
    mr->len = len;
    mr->lkey = reg_read(nic, RDMA_RESULT);
    mr->rkey = reg_read(nic, RDMA_RESULT + 4);
    return error;
}

u32 rdma_deregister(struct rdma_nic *nic, struct rdma_mr *mr)
{
    return rdma_command(nic, RDMA_DEREG_MR, &mr->lkey, 1);
}

u32 rdma_create_qp(struct rdma_nic *nic, struct rdma_qp *qp)
{
    u64 cq = (u64)qp->cq, send = (u64)qp->send, recv = (u64)qp->recv;
    u32 cq_args[] = { low(cq), high(cq), RDMA_CQ_SHIFT };
    u32 error = rdma_command(nic, RDMA_CREATE_CQ, cq_args, 3);
    if (error != 0)
        return error;
    qp->nic = nic;
    qp->cq_number = reg_read(nic, RDMA_RESULT);
    u32 args[] = { nic->pd,          qp->cq_number, qp->cq_number, low(send), high(send),
                   RDMA_QUEUE_SHIFT, low(recv),     high(recv),    RDMA_QUEUE_SHIFT };
    error = rdma_command(nic, RDMA_CREATE_QP, args, 9);
    qp->number = reg_read(nic, RDMA_RESULT);
    return error;
}

u32 rdma_connect(struct rdma_qp *qp, const struct rdma_qp *to)
{
    u32 rights = RDMA_REMOTE_WRITE | RDMA_REMOTE_READ | RDMA_REMOTE_ATOMIC | RDMA_FLUSH_GLOBAL;
    /*
     * MTU 2^10, 8 reads or atomics at a time; without a receive request come again after 0.64 ms,
     * without an acknowledgement after 134 ms.
     */
    u32 reset[] = { qp->number, RDMA_RESET };
    u32 init[] = { qp->number, RDMA_INIT, rights };
    u32 rtr[] = { qp->number, RDMA_RTR, to->number, 0x100 + to->number, 10, 8, 12 };
    u32 rts[] = { qp->number, RDMA_RTS, 0x100 + qp->number, 15, 7, 7, 8 };
    u32 error = rdma_command(qp->nic, RDMA_MODIFY_QP, reset, 2);
    qp->sent = qp->received = 0;
    if (error == 0)
        error = rdma_command(qp->nic, RDMA_MODIFY_QP, init, 3);
    if (error == 0)
        error = rdma_command(qp->nic, RDMA_MODIFY_QP, rtr, 7);
    if (error == 0)
        error = rdma_command(qp->nic, RDMA_MODIFY_QP, rts, 7);
    return error;
}

struct rdma_send *rdma_next_send(struct rdma_qp *qp)
{
    struct rdma_send *send = &qp->send[qp->sent++ % RDMA_QUEUE_SIZE];
    memset(send, 0, sizeof *send);
    return send;
}

void rdma_ring(struct rdma_qp *qp)
{
    fence_all();
    reg_write(qp->nic, RDMA_SQ_DOORBELL, qp->number << 16 | (qp->sent & 0xffff));
}

void rdma_post_recv(struct rdma_qp *qp, u64 id, const struct rdma_sge *sge, u32 nr_sge)
{
    struct rdma_recv *recv = &qp->recv[qp->received++ % RDMA_QUEUE_SIZE];
    recv->id = id;
    recv->nr_sge = nr_sge;
    for (u32 i = 0; i < nr_sge; i++)
        recv->sge[i] = sge[i];
    fence_all();
    reg_write(qp->nic, RDMA_RQ_DOORBELL, qp->number << 16 | (qp->received & 0xffff));
}

int rdma_poll(struct rdma_qp *qp, struct rdma_completion *done)
{
    volatile struct rdma_completion *entry = &qp->cq[qp->taken % RDMA_CQ_SIZE];
    u32 phase = (qp->taken / RDMA_CQ_SIZE & 1) == 0;
    if (entry->flags >> 31 != phase)
        return 0;
    fence_all();
    *done = *(struct rdma_completion *)entry;
    qp->taken++;
    reg_write(qp->nic, RDMA_CQ_DOORBELL, qp->cq_number << 16 | (qp->taken & 0xffff));
    return 1;
}

void rdma_arm(struct rdma_qp *qp) { reg_write(qp->nic, RDMA_CQ_ARM, qp->cq_number); }

void rdma_acknowledge(struct rdma_nic *nic)
{
    reg_write(nic, RDMA_COMPLETIONS, reg_read(nic, RDMA_COMPLETIONS));
    reg_write(nic, RDMA_COMPLETIONS + 4, reg_read(nic, RDMA_COMPLETIONS + 4));
    reg_write(nic, RDMA_IRQ_STATUS, 1);
    for (u32 event; (event = reg_read(nic, RDMA_EVENT)) != 0; reg_write(nic, RDMA_EVENT, 0))
        nic->events |= 1U << (event >> 16 & 31);
}
