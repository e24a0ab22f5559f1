/**
 * Who uses the door: the operations by which users of secondary MMUs are told of changes, and the
 * look at their entries by which the sanitizer judges them. Every user gives both under one name.
 */
import { mapSet } from '#cells';
import { mmuNotifierRegister, mmuNotifierUnregister } from '../notifier/notifier.ts';
import type {
  IntervalNotifierOps,
  Kernel,
  MmStruct,
  NotifierOps,
  SecondaryUser,
} from '../types.ts';

/** What a user of MMU notifiers provides. */
export type SecondaryOps = NotifierOps & Pick<SecondaryUser, 'visitEntries'>;

/** The same of interval notifiers. */
export type SecondaryIntervalOps = IntervalNotifierOps & Pick<SecondaryUser, 'visitEntries'>;

/** Makes a kind of subscriber known, by name. Once per kernel, also after a restore. */
export const registerSecondaryOps = (k: Kernel, ops: string, operations: SecondaryOps): void => {
  k.notifierOps.set(ops, operations);
  k.secondaryUsers.set(ops, {
    visitEntries: operations.visitEntries,
    walksPrimary: operations.archInvalidateSecondaryTlbs !== undefined,
  });
};

/** The same for a subscriber to parts of address spaces. */
export const registerSecondaryIntervalOps = (
  k: Kernel,
  ops: string,
  operations: SecondaryIntervalOps,
): void => {
  k.intervalOps.set(ops, operations);
  k.secondaryUsers.set(ops, { visitEntries: operations.visitEntries, walksPrimary: false });
};

/**
 * What a user keeps beside its entries: plain data, saved with the kernel. Made when it is asked for first.
 * @param ops the user's name
 */
export const secondaryState = <State>(k: Kernel, ops: string, create: () => State): State => {
  const { secondaryStates } = k.state;
  if (!secondaryStates.has(ops)) mapSet(secondaryStates, ops, create());
  return secondaryStates.get(ops) as State;
};

/** Subscribes to an address space. @param owner passed to every operation: which VM. @returns as mmuNotifierRegister */
export const registerSecondary = (k: Kernel, mm: MmStruct, ops: string, owner: number): number =>
  mmuNotifierRegister(k, mm, ops, owner);

export const unregisterSecondary = (mm: MmStruct, ops: string, owner: number): void =>
  mmuNotifierUnregister(mm, ops, owner);
