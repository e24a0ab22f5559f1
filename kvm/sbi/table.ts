/** The SBI extensions a guest has, and how a call finds its own. */
import { base } from './base.ts';
import { dbcn } from './dbcn.ts';
import { hsm } from './hsm.ts';
import { ipi } from './ipi.ts';
import { legacy } from './legacy.ts';
import { rfence } from './rfence.ts';
import type { SbiExtension } from './sbi.ts';
import { srst } from './srst.ts';
import { time } from './time.ts';

// A function, because base.ts asks for the list and is on it.
const extensions = (): readonly SbiExtension[] => [
  legacy,
  base,
  time,
  ipi,
  rfence,
  hsm,
  srst,
  dbcn,
];

/** The extension that answers to an EID (a signed 32-bit number), or undefined. */
export const extensionOf = (eid: number): SbiExtension | undefined =>
  extensions().find((e) => eid >= e.firstEid && eid <= e.lastEid);

/** Probe of an EID as it stands in a register. */
export const isExtensionPresent = (eid: bigint): boolean =>
  eid <= 0x7fff_ffffn && extensionOf(Number(eid)) !== undefined;
