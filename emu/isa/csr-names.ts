/**
 * CSR numbers and names: Privileged ISA 1.13, chapter 2 (tables of CSR numbers), for RV64, with H and
 * Sstc. The high halves that only RV32 has, the debug-mode CSRs and those of AIA are left out.
 */

/* unprivileged counters and floating-point state */
export const CSR_FFLAGS = 0x001;
export const CSR_FRM = 0x002;
export const CSR_FCSR = 0x003;
export const CSR_CYCLE = 0xc00;
export const CSR_TIME = 0xc01;
export const CSR_INSTRET = 0xc02;

/* supervisor (with Sstc, Smstateen) */
export const CSR_SSTATUS = 0x100;
export const CSR_SIE = 0x104;
export const CSR_STVEC = 0x105;
export const CSR_SCOUNTEREN = 0x106;
export const CSR_SENVCFG = 0x10a;
export const CSR_SSTATEEN0 = 0x10c;
export const CSR_SSCRATCH = 0x140;
export const CSR_SEPC = 0x141;
export const CSR_SCAUSE = 0x142;
export const CSR_STVAL = 0x143;
export const CSR_SIP = 0x144;
export const CSR_STIMECMP = 0x14d;
export const CSR_SATP = 0x180;
export const CSR_SCONTEXT = 0x5a8;
export const CSR_SCOUNTOVF = 0xda0;

/* hypervisor */
export const CSR_HSTATUS = 0x600;
export const CSR_HEDELEG = 0x602;
export const CSR_HIDELEG = 0x603;
export const CSR_HIE = 0x604;
export const CSR_HTIMEDELTA = 0x605;
export const CSR_HCOUNTEREN = 0x606;
export const CSR_HGEIE = 0x607;
export const CSR_HENVCFG = 0x60a;
export const CSR_HSTATEEN0 = 0x60c;
export const CSR_HTVAL = 0x643;
export const CSR_HIP = 0x644;
export const CSR_HVIP = 0x645;
export const CSR_HTINST = 0x64a;
export const CSR_HGATP = 0x680;
export const CSR_HCONTEXT = 0x6a8;
export const CSR_HGEIP = 0xe12;

/* virtual supervisor */
export const CSR_VSSTATUS = 0x200;
export const CSR_VSIE = 0x204;
export const CSR_VSTVEC = 0x205;
export const CSR_VSSCRATCH = 0x240;
export const CSR_VSEPC = 0x241;
export const CSR_VSCAUSE = 0x242;
export const CSR_VSTVAL = 0x243;
export const CSR_VSIP = 0x244;
export const CSR_VSTIMECMP = 0x24d;
export const CSR_VSATP = 0x280;

/* machine */
export const CSR_MSTATUS = 0x300;
export const CSR_MISA = 0x301;
export const CSR_MEDELEG = 0x302;
export const CSR_MIDELEG = 0x303;
export const CSR_MIE = 0x304;
export const CSR_MTVEC = 0x305;
export const CSR_MCOUNTEREN = 0x306;
export const CSR_MENVCFG = 0x30a;
export const CSR_MSTATEEN0 = 0x30c;
export const CSR_MCOUNTINHIBIT = 0x320;
export const CSR_MSCRATCH = 0x340;
export const CSR_MEPC = 0x341;
export const CSR_MCAUSE = 0x342;
export const CSR_MTVAL = 0x343;
export const CSR_MIP = 0x344;
export const CSR_MTINST = 0x34a;
export const CSR_MTVAL2 = 0x34b;
export const CSR_MSECCFG = 0x747;
export const CSR_TSELECT = 0x7a0;
export const CSR_TDATA1 = 0x7a1;
export const CSR_TDATA2 = 0x7a2;
export const CSR_TDATA3 = 0x7a3;
export const CSR_MCONTEXT = 0x7a8;
export const CSR_MCYCLE = 0xb00;
export const CSR_MINSTRET = 0xb02;
export const CSR_MVENDORID = 0xf11;
export const CSR_MARCHID = 0xf12;
export const CSR_MIMPID = 0xf13;
export const CSR_MHARTID = 0xf14;
export const CSR_MCONFIGPTR = 0xf15;

/* numbered families: the constant is the one of the lowest index */
export const CSR_PMPCFG0 = 0x3a0; // pmpcfg0, 2, .. 14: RV64 has the even ones
export const CSR_PMPADDR0 = 0x3b0; // pmpaddr0 .. 63
export const CSR_MHPMEVENT3 = 0x323; // mhpmevent3 .. 31
export const CSR_MHPMCOUNTER3 = 0xb03; // mhpmcounter3 .. 31
export const CSR_HPMCOUNTER3 = 0xc03; // hpmcounter3 .. 31

/** Lowest privilege that may access a CSR: 0 U, 1 S, 2 hypervisor and VS, 3 M (Priv 2.1). */
export const csrPrivilege = (csr: number): number => (csr >>> 8) & 3;
/** Whether every write to it is illegal (Priv 2.1: bits 11..10 are 11). */
export const csrReadOnly = (csr: number): boolean => ((csr >>> 10) & 3) === 3;

const numberOfName = new Map<string, number>([
  ['fflags', CSR_FFLAGS],
  ['frm', CSR_FRM],
  ['fcsr', CSR_FCSR],
  ['cycle', CSR_CYCLE],
  ['time', CSR_TIME],
  ['instret', CSR_INSTRET],
  ['sstatus', CSR_SSTATUS],
  ['sie', CSR_SIE],
  ['stvec', CSR_STVEC],
  ['scounteren', CSR_SCOUNTEREN],
  ['senvcfg', CSR_SENVCFG],
  ['sstateen0', CSR_SSTATEEN0],
  ['sscratch', CSR_SSCRATCH],
  ['sepc', CSR_SEPC],
  ['scause', CSR_SCAUSE],
  ['stval', CSR_STVAL],
  ['sip', CSR_SIP],
  ['stimecmp', CSR_STIMECMP],
  ['satp', CSR_SATP],
  ['scontext', CSR_SCONTEXT],
  ['scountovf', CSR_SCOUNTOVF],
  ['hstatus', CSR_HSTATUS],
  ['hedeleg', CSR_HEDELEG],
  ['hideleg', CSR_HIDELEG],
  ['hie', CSR_HIE],
  ['htimedelta', CSR_HTIMEDELTA],
  ['hcounteren', CSR_HCOUNTEREN],
  ['hgeie', CSR_HGEIE],
  ['henvcfg', CSR_HENVCFG],
  ['hstateen0', CSR_HSTATEEN0],
  ['htval', CSR_HTVAL],
  ['hip', CSR_HIP],
  ['hvip', CSR_HVIP],
  ['htinst', CSR_HTINST],
  ['hgatp', CSR_HGATP],
  ['hcontext', CSR_HCONTEXT],
  ['hgeip', CSR_HGEIP],
  ['vsstatus', CSR_VSSTATUS],
  ['vsie', CSR_VSIE],
  ['vstvec', CSR_VSTVEC],
  ['vsscratch', CSR_VSSCRATCH],
  ['vsepc', CSR_VSEPC],
  ['vscause', CSR_VSCAUSE],
  ['vstval', CSR_VSTVAL],
  ['vsip', CSR_VSIP],
  ['vstimecmp', CSR_VSTIMECMP],
  ['vsatp', CSR_VSATP],
  ['mstatus', CSR_MSTATUS],
  ['misa', CSR_MISA],
  ['medeleg', CSR_MEDELEG],
  ['mideleg', CSR_MIDELEG],
  ['mie', CSR_MIE],
  ['mtvec', CSR_MTVEC],
  ['mcounteren', CSR_MCOUNTEREN],
  ['menvcfg', CSR_MENVCFG],
  ['mstateen0', CSR_MSTATEEN0],
  ['mcountinhibit', CSR_MCOUNTINHIBIT],
  ['mscratch', CSR_MSCRATCH],
  ['mepc', CSR_MEPC],
  ['mcause', CSR_MCAUSE],
  ['mtval', CSR_MTVAL],
  ['mip', CSR_MIP],
  ['mtinst', CSR_MTINST],
  ['mtval2', CSR_MTVAL2],
  ['mseccfg', CSR_MSECCFG],
  ['tselect', CSR_TSELECT],
  ['tdata1', CSR_TDATA1],
  ['tdata2', CSR_TDATA2],
  ['tdata3', CSR_TDATA3],
  ['mcontext', CSR_MCONTEXT],
  ['mcycle', CSR_MCYCLE],
  ['minstret', CSR_MINSTRET],
  ['mvendorid', CSR_MVENDORID],
  ['marchid', CSR_MARCHID],
  ['mimpid', CSR_MIMPID],
  ['mhartid', CSR_MHARTID],
  ['mconfigptr', CSR_MCONFIGPTR],
]);

/** Adds a family: `prefix` followed by the index, for each index from `first` to `last`. */
const addFamily = (prefix: string, base: number, first: number, last: number, step = 1): void => {
  for (let i = first; i <= last; i += step) numberOfName.set(`${prefix}${i}`, base + i - first);
};
addFamily('pmpcfg', CSR_PMPCFG0, 0, 14, 2);
addFamily('pmpaddr', CSR_PMPADDR0, 0, 63);
addFamily('mhpmevent', CSR_MHPMEVENT3, 3, 31);
addFamily('mhpmcounter', CSR_MHPMCOUNTER3, 3, 31);
addFamily('hpmcounter', CSR_HPMCOUNTER3, 3, 31);

const nameOfNumber = new Map<number, string>();
for (const [name, csr] of numberOfName) nameOfNumber.set(csr, name);

/** Number of a CSR by its name in lower case, or undefined. */
export const csrNumber = (name: string): number | undefined => numberOfName.get(name);
/** Name of a CSR, or undefined where this table has none. */
export const csrName = (csr: number): string | undefined => nameOfNumber.get(csr);
