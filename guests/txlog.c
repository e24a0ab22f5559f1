/*
 * txlog: transactions on persistent memory, each durable before it is promised ("committed N").
 *
 * Continues where the memory says the last run ended, after recovery. lib/txlog.h has the format, and
 * what must be durable before what. txlog-recover judges what a loss of power has left.
 *
 * Parameters: 0 = 1 the NVDIMM (default), 2 a virtio-pmem; 1 = transactions (default 32); 2 = what is left
 * out on purpose: 1 the flush of the record, 2 of the commit word, 3 of the balances, 4 of `applied`,
 * 5 the fence between record and commit word. A virtio-pmem's flush makes everything durable, and a
 * page goes to its file as a whole: there only 2 and 3 can lose anything.
 */
#include "pmem.h"
#include "print.h"
#include "runtime.h"
#include "txlog.h"

#define DEFAULT_TRANSACTIONS 32

enum step { STEP_NONE, STEP_RECORD, STEP_COMMIT, STEP_BALANCES, STEP_APPLIED, STEP_FENCE };

static u64 balance[TXLOG_ACCOUNTS]; /* after the last transaction */
static u64 left_out;

void trap_handler(struct trap_frame *frame)
{
    if (frame->scause == CAUSE_LOAD_ACCESS) {
        print("txlog: no persistent memory: nothing answers at 0x%x\n", frame->stval);
        guest_exit(1);
    }
    trap_unexpected(frame);
}

static void persist(const volatile void *from, u64 len)
{
    pmem_flush(from, len);
    pmem_drain();
}

static void persist_step(enum step step, const volatile void *from, u64 len)
{
    if (left_out != step)
        pmem_flush(from, len);
    if (left_out != step && !(step == STEP_RECORD && left_out == STEP_FENCE))
        pmem_drain();
}

static void run_transaction(volatile struct txlog *log, u64 number)
{
    volatile struct txlog_record *record = &log->record[number % TXLOG_RECORDS];
    struct txlog_change change[TXLOG_CHANGES];
    txlog_plan(number, balance, change);

    for (u64 i = 0; i < TXLOG_CHANGES; i++) {
        record->change[i].account = change[i].account;
        record->change[i].balance = change[i].balance;
    }
    record->check = txlog_check(number, change);
    persist_step(STEP_RECORD, record, sizeof *record);

    record->commit = number;
    persist_step(STEP_COMMIT, &record->commit, sizeof record->commit);
    print("txlog: committed %u\n", number);

    for (u64 i = 0; i < TXLOG_CHANGES; i++) {
        log->balance[change[i].account] = change[i].balance;
        if (left_out != STEP_BALANCES)
            pmem_flush(&log->balance[change[i].account], sizeof(u64));
    }
    if (left_out != STEP_BALANCES)
        pmem_drain();

    log->applied = number;
    persist_step(STEP_APPLIED, &log->applied, sizeof log->applied);
}

/* Recovers, or sets the log up. Returns the number of the last transaction. */
static u64 open_log(volatile struct txlog *log)
{
    u64 last;
    const char *wrong = txlog_recover(log, &last, persist);
    if (wrong == 0 && log->magic != TXLOG_MAGIC) {
        txlog_format(log, persist);
        print("txlog: a new log at 0x%x\n", (u64)log);
    } else if (wrong == 0) {
        wrong = txlog_verify(log, last, balance);
        if (wrong == 0)
            print("txlog: recovered, committed %u\n", last);
    }
    if (wrong != 0) {
        print("txlog: FAILED, %s\n", wrong);
        guest_exit(1);
    }
    return last;
}

int main(void)
{
    u64 len = 0;
    u64 kind = parameter(0, PMEM_NVDIMM);
    u64 transactions = parameter(1, DEFAULT_TRANSACTIONS);
    u64 instructions = csr_read(instret);
    volatile struct txlog *log = (volatile struct txlog *)pmem_find(kind, &len);
    if (log == 0 || len < TXLOG_BYTES) {
        print("txlog: no persistent memory of %u bytes\n", TXLOG_BYTES);
        return 1;
    }
    left_out = parameter(2, STEP_NONE);
    txlog_begin(balance);
    u64 last = open_log(log);
    for (u64 i = 1; i <= transactions; i++)
        run_transaction(log, last + i);
    print("txlog: ok, %u transactions, %u instructions\n", transactions,
          csr_read(instret) - instructions);
    return 0;
}
