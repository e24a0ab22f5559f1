/*
 * The NVDIMM: persistent memory at the address that its registers name, and what it takes to make a
 * store durable. Registers are 32 bits each; 64-bit values have their low half first.
 *
 * A range of the media that cannot be read is found by a scrub, is told as a list of records and is
 * made good by CLEAR, which zeroes it. The label area is not memory: it is read and written word by
 * word at LABEL_OFFSET, and a word is durable as soon as it is written.
 */
#ifndef GUEST_NVDIMM_H
#define GUEST_NVDIMM_H

#define NVDIMM_BASE 0x10040000UL

#define NVDIMM_ID 0x00 /* RO: NVDIMM_ID_VALUE */
#define NVDIMM_ID_VALUE 0x64766e47
#define NVDIMM_VERSION 0x04 /* RO: 1 */
#define NVDIMM_CAPABILITIES 0x08 /* RO; bits 0 and 1 as ACPI's NFIT has them */
#define NVDIMM_CAP_CACHE_FLUSH (1U << 0) /* caches survive: a fence is enough (eADR) */
#define NVDIMM_CAP_MEM_FLUSH (1U << 1) /* the memory controller's queue survives (ADR) */
#define NVDIMM_STATUS 0x0c /* RO */
#define NVDIMM_STATUS_SCRUB (1U << 0) /* a scrub is under way */
#define NVDIMM_STATUS_UNSAFE (1U << 1) /* power was lost without warning before this boot */
#define NVDIMM_GPA 0x10 /* RO, 64 bits: first byte of the memory */
#define NVDIMM_SIZE 0x18 /* RO, 64 bits: its bytes */

/* Any value written here drains the memory controller's queue: where neither capability is there. */
#define NVDIMM_FLUSH_HINT 0x20

#define NVDIMM_LABEL_SIZE 0x28 /* RO: bytes of the label area */
#define NVDIMM_LABEL_OFFSET 0x2c /* a multiple of 4; moves on with every access to LABEL_DATA */
#define NVDIMM_LABEL_DATA 0x30

#define NVDIMM_RANGE_START 0x40 /* 64 bits, from the first byte of the memory: for the commands */
#define NVDIMM_RANGE_LENGTH 0x48 /* 64 bits; after CLEAR: how many bytes were made good */
#define NVDIMM_COMMAND 0x50
#define NVDIMM_COMMAND_SCRUB 1
#define NVDIMM_COMMAND_CLEAR 2
#define NVDIMM_COMMAND_INJECT 3 /* makes the range bad: to try drivers */
#define NVDIMM_COMMAND_STATUS 0x54 /* RO: of the last command */
#define NVDIMM_COMMAND_OK 0
#define NVDIMM_COMMAND_INVALID 1
#define NVDIMM_COMMAND_BUSY 2
#define NVDIMM_RECORDS 0x58 /* RO: ranges that the last scrub has found */
#define NVDIMM_RECORD_INDEX 0x5c
#define NVDIMM_RECORD_START 0x60 /* RO, 64 bits */
#define NVDIMM_RECORD_LENGTH 0x68 /* RO, 64 bits */
#define NVDIMM_UNSAFE_SHUTDOWNS 0x70 /* RO: how often power was lost without warning */

#endif
