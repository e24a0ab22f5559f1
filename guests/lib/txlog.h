/*
 * A transaction log on persistent memory: accounts, and transfers between them that happen as a whole or
 * not at all.
 *
 * A transaction is written to a record of the log first. When that is durable, its commit word is
 * stored: 8 aligned bytes, which are there or not. When that is durable the transaction is promised.
 * Then the balances are changed, and when they are durable `applied` says so; a record is used again
 * only after that. Recovery carries out what is committed and not applied, in order.
 *
 *   0        magic: the log has been set up
 *   64       applied: number of the last transaction whose balances are durable
 *   4096     TXLOG_RECORDS records of 128 bytes; transaction n is in record n modulo TXLOG_RECORDS
 *   8192     TXLOG_ACCOUNTS balances of 8 bytes
 *
 * Transactions are numbered from 1, and what number n does is arithmetic: so every state is known.
 */
#ifndef GUEST_TXLOG_H
#define GUEST_TXLOG_H

#include "runtime.h"

#define TXLOG_MAGIC 0x676f6c7874707567UL
#define TXLOG_RECORDS 4
#define TXLOG_ACCOUNTS 64
#define TXLOG_CHANGES 4
#define TXLOG_BALANCE 1000UL /* of every account, to begin with */
#define TXLOG_BYTES sizeof(struct txlog)

struct txlog_change {
    u64 account, balance;
};

struct txlog_record {
    u64 commit; /* the transaction's number, once it is committed */
    u64 check;  /* over the number and the changes */
    u64 unused[6];
    struct txlog_change change[TXLOG_CHANGES];
};

struct txlog {
    u64 magic;
    u64 unused0[7];
    u64 applied;
    u64 unused1[4096 / 8 - 9];
    struct txlog_record record[TXLOG_RECORDS];
    u8 unused2[4096 - TXLOG_RECORDS * sizeof(struct txlog_record)];
    u64 balance[TXLOG_ACCOUNTS];
};

/* Makes a range durable. */
typedef void txlog_persist(const volatile void *from, u64 len);

/* All balances as they are before the first transaction. */
void txlog_begin(u64 *balance);

/* What transaction `number` changes, given the balances before it, which are changed as well. */
void txlog_plan(u64 number, u64 *balance, struct txlog_change *change);

/* The check word of a record. */
u64 txlog_check(u64 number, const volatile struct txlog_change *change);

/* Sets the log up, on memory that holds anything. */
void txlog_format(volatile struct txlog *log, txlog_persist *persist);

/*
 * Brings the balances to where the log says they should be. `*last` is then the number of the last
 * transaction, 0 where the log has not been set up. Returns 0, or what is wrong with the log.
 */
const char *txlog_recover(volatile struct txlog *log, u64 *last, txlog_persist *persist);

/* Are the balances those after transaction `last`? Returns 0, or what is wrong; `balance` is scratch. */
const char *txlog_verify(const volatile struct txlog *log, u64 last, u64 *balance);

#endif
