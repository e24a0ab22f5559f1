/* The one question guests ask their device tree: where memory ends. */
#ifndef GUEST_FDT_H
#define GUEST_FDT_H

#include "runtime.h"

/*
 * First gpa after the RAM that begins at 0x80000000, from the `reg` of the `memory` node of the
 * flattened tree at `fdt` (Devicetree Specification 0.4, chapter 5; two address and two size
 * cells). 0 when there is no tree or no such node.
 */
u64 fdt_memory_end(const void *fdt);

#endif
