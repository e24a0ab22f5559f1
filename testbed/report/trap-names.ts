/** Exception codes of a bare machine in words. Privileged ISA 1.13, table 3.6 (mcause). */
import { exceptionName } from '#kvm';

/** Environment calls, which name the mode they came from: without a hypervisor, others than a guest's. */
const CALLS: Record<number, string> = {
  8: 'environment call from U-mode',
  9: 'environment call from S-mode',
  11: 'environment call from M-mode',
};

/** An exception code of a machine without a hypervisor. */
export const trapName = (cause: number): string => CALLS[cause] ?? exceptionName(cause);
