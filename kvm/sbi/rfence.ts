/**
 * SBI RFNC: fences on other harts. RISC-V SBI 2.0, chapter 8.
 *
 * FENCE.I needs nothing: a store to decoded instructions drops them on every hart at once. The
 * HFENCE functions are for guests with an H extension of their own, which ours do not have.
 */
import type { VcpuState } from '../vm.ts';
import {
  argOf,
  hartList,
  hartOf,
  REG_A2,
  REG_A3,
  REG_A4,
  SBI_DONE,
  SBI_ERR_INVALID_PARAM,
  SBI_ERR_NOT_SUPPORTED,
  SBI_EXT_RFENCE,
  type SbiCaller,
  type SbiExtension,
  sbiError,
} from './sbi.ts';

const ALL = 0xffff_ffff_ffff_ffffn;
const PAGE_BYTES = 4096n;
/** More pages than this are fenced as a whole address space. */
const FENCE_PAGES_MAX = 64n;

/**
 * SFENCE.VMA of the guest on these vCPUs: HFENCE.VVMA as HS-mode executes it, under the VMID in
 * each hart's hgatp.
 * @param asid undefined for all
 */
export const remoteSfenceVma = (
  caller: SbiCaller,
  vcpus: readonly VcpuState[],
  startGva: bigint,
  sizeBytes: bigint,
  asid: number | undefined,
): void => {
  const whole = (startGva === 0n && sizeBytes === 0n) || sizeBytes === ALL;
  const first = startGva & ~(PAGE_BYTES - 1n);
  const pages = (startGva + sizeBytes - first + PAGE_BYTES - 1n) / PAGE_BYTES;
  for (const vcpu of vcpus) {
    const { mmu } = hartOf(caller, vcpu);
    if (whole || pages > FENCE_PAGES_MAX) {
      mmu.hfenceVvma(undefined, undefined, asid);
      continue;
    }
    for (let page = 0n; page < pages; page++) {
      const gva = first + page * PAGE_BYTES;
      mmu.hfenceVvma(Number(BigInt.asIntN(32, gva)), Number(BigInt.asIntN(32, gva >> 32n)), asid);
    }
  }
};

export const rfence: SbiExtension = {
  name: 'RFENCE',
  firstEid: SBI_EXT_RFENCE,
  lastEid: SBI_EXT_RFENCE,
  call(caller, _eid, fid, ret) {
    if (fid > 2) return sbiError(ret, SBI_ERR_NOT_SUPPORTED);
    const vcpus = hartList(caller);
    if (vcpus === undefined) return sbiError(ret, SBI_ERR_INVALID_PARAM);
    if (fid === 0) return SBI_DONE;
    // ASIDs have 16 bits (satp.ASID); the bits above are not an ASID's.
    const asid = fid === 2 ? Number(argOf(caller, REG_A4) & 0xffffn) : undefined;
    remoteSfenceVma(caller, vcpus, argOf(caller, REG_A2), argOf(caller, REG_A3), asid);
    return SBI_DONE;
  },
};
