/** userfaultfd: who is told of an address space's faults. Compare fs/userfaultfd.c, struct userfaultfd_ctx. */

/** The child of a fork has a context of its own, and what was registered stays so. */
export const UFFD_FEATURE_EVENT_FORK = 1 << 1;
/** Faults are SIGBUS, and nobody is told. */
export const UFFD_FEATURE_SIGBUS = 1 << 7;

/** A fault that waits. */
export interface UffdFault {
  /** Page-aligned. */
  hva: number;
  /** The handler has heard of it. */
  read: boolean;
  /** It may go on. */
  woken: boolean;
}

/** An address space's context. Plain data. */
export interface UffdContext {
  /** UFFD_FEATURE_*. */
  features: number;
  /** Faults that wait, oldest first. */
  pending: UffdFault[];
}

export const createUffd = (features: number): UffdContext => ({ features, pending: [] });
