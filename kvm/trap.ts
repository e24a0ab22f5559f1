/**
 * Traps that the hypervisor takes from a guest: their codes, and how one is given back to it.
 * Privileged ISA 1.13, 15.6.1 (codes), 15.6.2 (trap entry).
 */
import {
  CSR_SEPC,
  CSR_SSTATUS,
  CSR_VSCAUSE,
  CSR_VSEPC,
  CSR_VSSTATUS,
  CSR_VSTVAL,
  CSR_VSTVEC,
  type Hart,
} from '#emu';

export const EXC_INST_MISALIGNED = 0;
export const EXC_INST_ACCESS = 1;
export const EXC_INST_ILLEGAL = 2;
export const EXC_BREAKPOINT = 3;
export const EXC_LOAD_MISALIGNED = 4;
export const EXC_LOAD_ACCESS = 5;
export const EXC_STORE_MISALIGNED = 6;
export const EXC_STORE_ACCESS = 7;
export const EXC_SYSCALL = 8;
export const EXC_SUPERVISOR_SYSCALL = 10; // ECALL from VS-mode
export const EXC_INST_PAGE_FAULT = 12;
export const EXC_LOAD_PAGE_FAULT = 13;
export const EXC_STORE_PAGE_FAULT = 15;
export const EXC_HARDWARE_ERROR = 19;
export const EXC_INST_GUEST_PAGE_FAULT = 20;
export const EXC_LOAD_GUEST_PAGE_FAULT = 21;
export const EXC_VIRTUAL_INST_FAULT = 22;
export const EXC_STORE_GUEST_PAGE_FAULT = 23;

const NAMES: Readonly<Record<number, string>> = {
  [EXC_INST_MISALIGNED]: 'instruction address misaligned',
  [EXC_INST_ACCESS]: 'instruction access fault',
  [EXC_INST_ILLEGAL]: 'illegal instruction',
  [EXC_BREAKPOINT]: 'breakpoint',
  [EXC_LOAD_MISALIGNED]: 'load address misaligned',
  [EXC_LOAD_ACCESS]: 'load access fault',
  [EXC_STORE_MISALIGNED]: 'store address misaligned',
  [EXC_STORE_ACCESS]: 'store access fault',
  [EXC_SYSCALL]: 'environment call from VU-mode',
  [EXC_SUPERVISOR_SYSCALL]: 'environment call from VS-mode',
  [EXC_INST_PAGE_FAULT]: 'instruction page fault',
  [EXC_LOAD_PAGE_FAULT]: 'load page fault',
  [EXC_STORE_PAGE_FAULT]: 'store page fault',
  [EXC_HARDWARE_ERROR]: 'hardware error',
  [EXC_INST_GUEST_PAGE_FAULT]: 'instruction guest-page fault',
  [EXC_LOAD_GUEST_PAGE_FAULT]: 'load guest-page fault',
  [EXC_VIRTUAL_INST_FAULT]: 'virtual instruction',
  [EXC_STORE_GUEST_PAGE_FAULT]: 'store guest-page fault',
};

/** An exception code in words. */
export const exceptionName = (cause: number): string => NAMES[cause] ?? `exception ${cause}`;

/** Fields of vsstatus and sstatus, which are laid out alike. */
const SSTATUS_SIE = 1 << 1;
const SSTATUS_SPIE = 1 << 5;
const SSTATUS_SPP = 1 << 8;
/** vstvec.BASE without the mode: exceptions go to BASE in both modes. */
const TVEC_MODE_MASK = 3;

/**
 * Gives the guest an exception, as if hedeleg had delegated it: VS-mode's trap entry, done by hand
 * on the state that the trap to HS-mode has left. The guest goes on at vstvec.
 * Compare arch/riscv/kvm/vcpu_exit.c:kvm_riscv_vcpu_trap_redirect().
 */
export const redirectTrap = (hart: Hart, cause: number, stvalLo: number, stvalHi: number): void => {
  const sstatus = hart.csrLo(CSR_SSTATUS);
  const vsstatus = hart.csrLo(CSR_VSSTATUS);
  let entered = vsstatus & ~(SSTATUS_SPP | SSTATUS_SPIE | SSTATUS_SIE);
  if ((sstatus & SSTATUS_SPP) !== 0) entered |= SSTATUS_SPP;
  if ((vsstatus & SSTATUS_SIE) !== 0) entered |= SSTATUS_SPIE;
  hart.writeCsrParts(CSR_VSSTATUS, entered, hart.csrHi(CSR_VSSTATUS));
  hart.writeCsrParts(CSR_VSCAUSE, cause, 0);
  hart.writeCsrParts(CSR_VSEPC, hart.csrLo(CSR_SEPC), hart.csrHi(CSR_SEPC));
  hart.writeCsrParts(CSR_VSTVAL, stvalLo, stvalHi);
  hart.writeCsrParts(CSR_SEPC, hart.csrLo(CSR_VSTVEC) & ~TVEC_MODE_MASK, hart.csrHi(CSR_VSTVEC));
  // SRET goes to VS-mode, whatever mode the exception came from.
  hart.writeCsrParts(CSR_SSTATUS, sstatus | SSTATUS_SPP, hart.csrHi(CSR_SSTATUS));
};

/** Moves the guest past the instruction that trapped. */
export const advancePc = (hart: Hart, lenBytes: number): void => {
  const lo = hart.csrLo(CSR_SEPC) >>> 0;
  const next = lo + lenBytes;
  const hi = hart.csrHi(CSR_SEPC) + (next > 0xffff_ffff ? 1 : 0);
  hart.writeCsrParts(CSR_SEPC, next | 0, hi | 0);
};
