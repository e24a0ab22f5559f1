#include "txlog.h"

#define SEED 0x7478UL

void txlog_begin(u64 *balance)
{
    for (u64 i = 0; i < TXLOG_ACCOUNTS; i++)
        balance[i] = TXLOG_BALANCE;
}

/* Two transfers, each from one account to another; what is moved does not exceed what is there. */
void txlog_plan(u64 number, u64 *balance, struct txlog_change *change)
{
    for (u64 i = 0; i < TXLOG_CHANGES; i += 2) {
        u64 random = mix64(SEED + number * TXLOG_CHANGES + i);
        u64 from = random % TXLOG_ACCOUNTS;
        u64 to = (from + 1 + (random >> 16) % (TXLOG_ACCOUNTS - 1)) % TXLOG_ACCOUNTS;
        u64 amount = 1 + (random >> 32) % 100;
        if (amount > balance[from])
            amount = balance[from];
        balance[from] -= amount;
        balance[to] += amount;
        change[i] = (struct txlog_change){ from, balance[from] };
        change[i + 1] = (struct txlog_change){ to, balance[to] };
    }
}

u64 txlog_check(u64 number, const volatile struct txlog_change *change)
{
    u64 check = mix64(number);
    for (u64 i = 0; i < TXLOG_CHANGES; i++)
        check = mix64(mix64(check ^ change[i].account) ^ change[i].balance);
    return check;
}

void txlog_format(volatile struct txlog *log, txlog_persist *persist)
{
    log->magic = 0;
    persist(&log->magic, sizeof log->magic);
    log->applied = 0;
    for (u64 i = 0; i < TXLOG_RECORDS; i++)
        log->record[i].commit = 0;
    for (u64 i = 0; i < TXLOG_ACCOUNTS; i++)
        log->balance[i] = TXLOG_BALANCE;
    persist(log, TXLOG_BYTES);
    log->magic = TXLOG_MAGIC;
    persist(&log->magic, sizeof log->magic);
}

const char *txlog_recover(volatile struct txlog *log, u64 *last, txlog_persist *persist)
{
    *last = 0;
    if (log->magic != TXLOG_MAGIC)
        return 0;
    u64 applied = log->applied, next = applied + 1;
    for (;; next++) {
        volatile struct txlog_record *record = &log->record[next % TXLOG_RECORDS];
        if (record->commit != next)
            break;
        if (record->check != txlog_check(next, record->change))
            return "a committed record is torn";
        for (u64 i = 0; i < TXLOG_CHANGES; i++) {
            if (record->change[i].account >= TXLOG_ACCOUNTS)
                return "a committed record names no account";
            log->balance[record->change[i].account] = record->change[i].balance;
        }
    }
    *last = next - 1;
    if (*last != applied) {
        persist(log->balance, sizeof log->balance);
        log->applied = *last;
        persist(&log->applied, sizeof log->applied);
    }
    return 0;
}

const char *txlog_verify(const volatile struct txlog *log, u64 last, u64 *balance)
{
    struct txlog_change change[TXLOG_CHANGES];
    txlog_begin(balance);
    for (u64 number = 1; number <= last; number++)
        txlog_plan(number, balance, change);
    for (u64 i = 0; i < TXLOG_ACCOUNTS; i++)
        if (log->balance[i] != balance[i])
            return "a balance is not that of the last transaction";
    return 0;
}
