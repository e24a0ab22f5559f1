/**
 * Signals, as far as faults and GUP look at them: is one pending for the task on whose behalf the
 * kernel runs, and does it kill? Compare include/linux/sched/signal.h.
 *
 * There is one such task, Linux's `current`. Nobody handles signals here: whoever sends one takes it
 * back (signalHandled).
 */
import { setField } from '#cells';
import type { Kernel } from './types.ts';

export const SIGNAL_NONE = 0;
/** A signal that the task has a handler for. */
export const SIGNAL_PENDING = 1;
/** SIGKILL. */
export const SIGNAL_FATAL = 2;

/** Plain data. */
export interface Task {
  /** SIGNAL_*: the worst that is pending. */
  pending: number;
  /**
   * PF_MEMALLOC_PIN, counted: its allocations are for pages that will be pinned for long, so none may
   * come from where pages have to be able to move.
   */
  memallocPin: number;
}

export const createTask = (): Task => ({ pending: SIGNAL_NONE, memallocPin: 0 });

/** memalloc_pin_save() and memalloc_pin_restore(): scopes nest. */
export const memallocPinBegin = (k: Kernel): void =>
  setField(k.task, 'memallocPin', k.task.memallocPin + 1);

export const memallocPinEnd = (k: Kernel): void =>
  setField(k.task, 'memallocPin', k.task.memallocPin - 1);

/** @param signal SIGNAL_PENDING or SIGNAL_FATAL; a fatal one stays */
export const sendSignal = (k: Kernel, signal: number): void => {
  if (signal > k.task.pending) setField(k.task, 'pending', signal);
};

/** The task has gone back to user code and handled what was pending, or has died. */
export const signalHandled = (k: Kernel): void => setField(k.task, 'pending', SIGNAL_NONE);

/** Is any signal pending? Compare signal_pending(). */
export const signalPending = (k: Kernel): boolean => k.task.pending !== SIGNAL_NONE;

/** Compare fatal_signal_pending(). */
export const fatalSignalPending = (k: Kernel): boolean => k.task.pending === SIGNAL_FATAL;
