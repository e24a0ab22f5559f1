/* Namespaces of an NVDIMM: its label area, as a reader sees it (UEFI 2.10, 13.19; labels of version 1.2). */
#ifndef GUEST_LABELS_H
#define GUEST_LABELS_H

#include "runtime.h"

#define LABEL_FLAG_UPDATING (1U << 3)

/* 256 bytes. */
struct nvdimm_label {
    u8 uuid[16];
    char name[64];
    u32 flags;
    u16 nr_labels, position;
    u64 cookie, lba_size, dpa, raw_size;
    u32 slot;
    u8 alignment, reserved[3];
    u8 type[16], abstraction[16];
    u8 reserved2[88];
    u64 checksum;
};

/*
 * The next namespace: in a label from number *slot on that is in use, right and not being updated. *slot
 * is then the number after it; begin with 0. Returns 0 when there is none, or no index block is valid.
 */
int labels_next(u32 *slot, struct nvdimm_label *label);

#endif
