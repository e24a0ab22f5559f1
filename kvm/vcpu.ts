/**
 * A vCPU: a hart in VS- and VU-mode, entered by SRET and left by traps to HS-mode, which is this.
 *
 * What can be done at once is done at once (most SBI calls, exceptions given back to the guest) and
 * only ends the turn; the rest comes out of run() as an exit that somebody has to finish. Compare arch/riscv/kvm/vcpu.c and vcpu_exit.c. A vCPU stays
 * on its hart, so guest registers and CSRs live there. Left out: nested guests.
 */
import { setField } from '#cells';
import {
  CSR_HTINST,
  CSR_HTVAL,
  CSR_HVIP,
  CSR_SCAUSE,
  CSR_SEPC,
  CSR_SSTATUS,
  CSR_STVAL,
  CSR_VSCAUSE,
  CSR_VSEPC,
  CSR_VSTVEC,
  EXIT_BUDGET,
  EXIT_TRAP_LOOP,
  EXIT_WFI,
  type Hart,
  type IrqLine,
} from '#emu';
import { createSecondaryPfn, type Path, type SecondaryPfn } from '#mm/secondary';
import {
  type BudgetExit,
  createExitRecords,
  type ErrorExit,
  type ExitRecords,
  type VcpuExit,
  type WfiExit,
} from './exit.ts';
import {
  createMmioAccess,
  decodeTrappingAccess,
  finishLoad,
  INSTRUCTION_GONE,
  type MmioAccess,
} from './exit-mmio.ts';
import { dirtyRingFull } from './dirty-ring.ts';
import { mapGuestPage } from './fault.ts';
import { startVcpuOnHart } from './hart-setup.ts';
import { slotAt, slotReadOnly } from './memslot.ts';
import {
  createSbiRet,
  type GuestConsole,
  REG_A0,
  REG_A1,
  REG_A6,
  REG_A7,
  SBI_DONE,
  SBI_ERR_NOT_SUPPORTED,
  SBI_NEEDS_PATH,
  SBI_REDIRECT,
  SBI_RESTART,
  SBI_SHUTDOWN,
  SBI_STOP,
  SBI_WAIT,
  type SbiCaller,
  type SbiRet,
} from './sbi/sbi.ts';
import { extensionOf } from './sbi/table.ts';
import { countExit, countIn, countVm } from './stat.ts';
import {
  countRepeats,
  countReturns,
  FAULT_LOOP_LIMIT,
  RETURN_LOOP_LIMIT,
  TRAP_LOOP_LIMIT,
} from './trap-loop.ts';
import {
  advancePc,
  EXC_INST_GUEST_PAGE_FAULT,
  EXC_INST_ILLEGAL,
  EXC_LOAD_ACCESS,
  EXC_LOAD_GUEST_PAGE_FAULT,
  EXC_LOAD_MISALIGNED,
  EXC_STORE_ACCESS,
  EXC_STORE_GUEST_PAGE_FAULT,
  EXC_STORE_MISALIGNED,
  EXC_SUPERVISOR_SYSCALL,
  EXC_VIRTUAL_INST_FAULT,
  exceptionName,
  redirectTrap,
} from './trap.ts';
import {
  HSM_START_PENDING,
  HSM_STARTED,
  HSM_STOPPED,
  type Kvm,
  mmioRegionOf,
  type VcpuState,
  type Vm,
} from './vm.ts';

/** What has to be done before the next run(). */
const PENDING_NONE = 0;
const PENDING_FAULT = 1;
const PENDING_MMIO = 2;
const PENDING_SBI = 3;
const PENDING_NAMES = ['nothing', 'handleFault()', 'completeMmio()', 'handleSbi()'] as const;

const SSTATUS_SPP = 1 << 8;
const INSN_WFI = 0x1050_0073;
/** htinst of implicit accesses to VS-stage tables (Priv 15.6.3). */
const HTINST_PTE_READ = 0x3000;
const HTINST_PTE_WRITE = 0x3020;
const HVIP_VSEIP = 1n << 10n;

const hex = (n: bigint | number): string => `0x${n.toString(16)}`;

export class Vcpu implements SbiCaller {
  readonly kvm: Kvm;
  readonly vm: Vm;
  readonly state: VcpuState;
  readonly hart: Hart;
  readonly console: GuestConsole;
  /** The guest's external interrupt: hvip.VSEIP. For the S-mode output of an interrupt controller. */
  readonly externalIrq: IrqLine;
  private pending: number;
  private readonly exits: ExitRecords;
  private readonly access: MmioAccess;
  private readonly ret: SbiRet;
  private readonly pfn: SecondaryPfn;
  /** Retired by the run() under way. */
  private retired: number;

  /**
   * Changes nothing of the hart: a fresh vCPU is set up when it starts, a restored one goes on.
   * @throws RangeError when the VM has no vCPU of that number
   */
  constructor(kvm: Kvm, vm: Vm, id: number, console: GuestConsole) {
    const state = vm.vcpus[id];
    const hart = state === undefined ? undefined : kvm.harts[state.hartIndex];
    if (state === undefined || hart === undefined) throw new RangeError(`no vcpu ${id}`);
    this.kvm = kvm;
    this.vm = vm;
    this.state = state;
    this.hart = hart;
    this.console = console;
    this.externalIrq = { set: (level) => this.setExternalIrq(level) };
    this.pending = PENDING_NONE;
    this.exits = createExitRecords();
    this.access = createMmioAccess();
    this.ret = createSbiRet();
    this.pfn = createSecondaryPfn();
    this.retired = 0;
  }

  /** Starts it at `pc` (a gpa: translation is off) with `opaque` in a1, as sbi_hart_start does. */
  boot(pc: number, opaque: number): void {
    setField(this.state, 'startPc', BigInt(pc));
    setField(this.state, 'startOpaque', BigInt(opaque));
    setField(this.state, 'hsm', HSM_START_PENDING);
  }

  /** Would run() get anywhere? Not while it is stopped, has ended, or waits for an interrupt or its dirty ring. */
  get runnable(): boolean {
    const { state } = this;
    if (state.ended || state.hsm === HSM_STOPPED || this.ringFull) return false;
    return state.hsm === HSM_START_PENDING || !state.waiting || this.hart.interruptPending;
  }

  /** The dirty ring has to be reset before it goes on. */
  private get ringFull(): boolean {
    return this.state.dirtyRing !== null && dirtyRingFull(this.state.dirtyRing);
  }

  /** pc of the guest, for reports. */
  get guestPc(): bigint {
    return this.hart.virt ? this.hart.pc : this.hart.readCsr(CSR_SEPC);
  }

  /**
   * Runs the guest for at most `budget` instructions, and no further than its next trap to HS-mode:
   * whoever calls then has machine time right before devices or timers are looked at.
   * @returns why it stopped; the record is good until the next call
   * @throws Error when the last exit has not been finished, or the vCPU has ended
   */
  run(budget: number): VcpuExit {
    const { state, hart } = this;
    if (state.ended) throw new Error(`vcpu ${state.id}: run() after its end`);
    if (this.pending !== PENDING_NONE)
      throw new Error(`vcpu ${state.id}: run() before ${PENDING_NAMES[this.pending]}`);
    this.retired = 0;
    if (this.ringFull) return this.leave(this.exits.dirtyRing);
    if (state.hsm === HSM_START_PENDING) {
      startVcpuOnHart(hart, this.vm, state.id, state.startPc, state.startOpaque);
      setField(state, 'hsm', HSM_STARTED);
      setField(state, 'waiting', false);
    } else if (state.hsm === HSM_STOPPED) {
      return this.leave(this.exits.stop);
    }
    if (state.waiting && !hart.interruptPending) return this.leave(this.exits.wfi);
    setField(state, 'waiting', false);

    if (!hart.virt) hart.hostSret();
    const why = hart.run(budget);
    this.retired = hart.sliceRetired;
    setField(state, 'retired', state.retired + hart.sliceRetired);
    if (why === EXIT_BUDGET) return this.leave(this.exits.budget);
    if (why === EXIT_TRAP_LOOP) return this.leave(this.trapLoop());
    return this.leave(why === EXIT_WFI ? this.wait() : this.handleTrap());
  }

  private leave(exit: VcpuExit): VcpuExit {
    exit.retired = this.retired;
    countExit(this.vm.stat, exit.kind);
    return exit;
  }

  /** The guest has nothing to do, unless an interrupt is pending already. */
  private wait(): WfiExit | BudgetExit {
    if (this.hart.interruptPending) return this.exits.budget;
    setField(this.state, 'waiting', true);
    return this.exits.wfi;
  }

  /** Handles the trap that the hart has taken to HS-mode; a `budget` exit when that is all. */
  private handleTrap(): VcpuExit {
    const { hart } = this;
    const cause = hart.csrLo(CSR_SCAUSE);
    if (hart.csrHi(CSR_SCAUSE) < 0)
      return this.fail(cause, -1, `interrupt ${cause} of HS-mode, which enables none`);
    countIn(this.vm.stat.traps, cause);
    const repeats = countRepeats(this.state.traps, hart, cause, this.state.retired);
    switch (cause) {
      case EXC_INST_GUEST_PAGE_FAULT:
      case EXC_LOAD_GUEST_PAGE_FAULT:
      case EXC_STORE_GUEST_PAGE_FAULT:
        return this.guestPageFault(cause, repeats);
      case EXC_SUPERVISOR_SYSCALL:
        return this.sbiCall();
      case EXC_VIRTUAL_INST_FAULT:
        return this.virtualInstruction(repeats);
      default:
        return this.redirect(cause, hart.csrLo(CSR_STVAL), hart.csrHi(CSR_STVAL), repeats);
    }
  }

  /** The hart gave up: exceptions that the guest handles itself, one at the first instruction of the other's handler. */
  private trapLoop(): ErrorExit {
    const cause = Number(this.hart.readCsr(CSR_VSCAUSE) & 0xffn);
    const exit = this.fail(cause, -1, this.handlerTraps(cause));
    exit.pc = this.hart.readCsr(CSR_VSEPC);
    return exit;
  }

  private handlerTraps(cause: number): string {
    const vstvec = hex(this.hart.readCsr(CSR_VSTVEC));
    return `${exceptionName(cause)} again and again: the guest's trap handler (vstvec ${vstvec}) raises it`;
  }

  /** Gives the exception to the guest, unless it keeps causing it. */
  private redirect(
    cause: number,
    stvalLo: number,
    stvalHi: number,
    repeats: number,
  ): ErrorExit | BudgetExit {
    if (repeats > TRAP_LOOP_LIMIT) return this.fail(cause, -1, this.handlerTraps(cause));
    const returns = countReturns(this.state.traps, this.hart, cause);
    if (returns > RETURN_LOOP_LIMIT)
      return this.fail(
        cause,
        -1,
        `${exceptionName(cause)} ${returns} times, with no register changed: the guest's trap handler returns to it`,
      );
    countVm(this.vm.stat, 'redirected');
    redirectTrap(this.hart, cause, stvalLo, stvalHi);
    return this.exits.budget;
  }

  /** WFI under hstatus.VTW; anything else is illegal for the guest (Priv 15.6.1). */
  private virtualInstruction(repeats: number): VcpuExit {
    const { hart } = this;
    const insn = hart.csrLo(CSR_STVAL);
    const fromVs = (hart.csrLo(CSR_SSTATUS) & SSTATUS_SPP) !== 0;
    if (insn === INSN_WFI && fromVs) {
      advancePc(hart, 4);
      return this.wait();
    }
    return this.redirect(EXC_INST_ILLEGAL, insn, hart.csrHi(CSR_STVAL), repeats);
  }

  private guestPageFault(cause: number, repeats: number): VcpuExit {
    const { hart, vm } = this;
    const htinst = hart.csrLo(CSR_HTINST);
    const implicit = htinst === HTINST_PTE_READ || htinst === HTINST_PTE_WRITE;
    const gpa =
      (hart.csrHi(CSR_HTVAL) >>> 0) * 2 ** 34 +
      (hart.csrLo(CSR_HTVAL) >>> 0) * 4 +
      (implicit ? 0 : hart.csrLo(CSR_STVAL) & 3);
    const exec = cause === EXC_INST_GUEST_PAGE_FAULT && !implicit;
    // The walk of VS-stage tables needs what it does itself, whatever the access behind it is.
    const write = implicit ? htinst === HTINST_PTE_WRITE : cause === EXC_STORE_GUEST_PAGE_FAULT;

    const slot = slotAt(vm.slots, gpa);
    if (slot !== undefined && !(write && slotReadOnly(slot))) {
      if (repeats > FAULT_LOOP_LIMIT)
        return this.fail(cause, gpa, `${exceptionName(cause)} at gpa ${hex(gpa)} does not go away`);
      const exit = this.exits.fault;
      exit.gpa = gpa;
      exit.write = write;
      exit.exec = exec;
      this.pending = PENDING_FAULT;
      return exit;
    }
    // A read-only slot may have registers in its place for whoever writes: flash memory.
    if (slot !== undefined && mmioRegionOf(vm, gpa) === undefined)
      return this.fail(cause, gpa, `write to gpa ${hex(gpa)} in read-only memory slot ${slot.id}`);
    if (exec) return this.fail(cause, gpa, this.nowhere('instruction fetch from', gpa));
    if (implicit) return this.fail(cause, gpa, this.nowhere('guest page table at', gpa));
    return this.mmio(cause, gpa, repeats);
  }

  /** A load or store outside the slots: a device's, or an end. */
  private mmio(cause: number, gpa: number, repeats: number): VcpuExit {
    const { hart, vm, access } = this;
    const stvalLo = hart.csrLo(CSR_STVAL);
    const stvalHi = hart.csrHi(CSR_STVAL);
    const write = cause === EXC_STORE_GUEST_PAGE_FAULT;
    if (mmioRegionOf(vm, gpa) === undefined)
      return this.fail(cause, gpa, this.nowhere(write ? 'store to' : 'load from', gpa));
    const decoded = decodeTrappingAccess(hart, access);
    if (decoded === INSTRUCTION_GONE) return this.exits.budget;
    if (!decoded)
      return this.redirect(write ? EXC_STORE_ACCESS : EXC_LOAD_ACCESS, stvalLo, stvalHi, repeats);
    if (access.offsetBytes !== 0 || gpa % access.sizeBytes !== 0)
      return this.redirect(
        write ? EXC_STORE_MISALIGNED : EXC_LOAD_MISALIGNED,
        stvalLo,
        stvalHi,
        repeats,
      );
    const exit = this.exits.mmio;
    exit.gpa = gpa;
    exit.sizeBytes = access.sizeBytes;
    exit.write = access.write;
    exit.valueLo = access.write ? hart.xLo(access.reg) : 0;
    exit.valueHi = access.write ? hart.xHi(access.reg) : 0;
    this.pending = PENDING_MMIO;
    return exit;
  }

  /**
   * The access of an `mmio` exit is done: a load gets its value, and the guest goes on behind it.
   * @param valueLo, valueHi what the device answered; not looked at after a store
   */
  completeMmio(valueLo = 0, valueHi = 0): void {
    this.finish(PENDING_MMIO);
    if (!this.access.write) finishLoad(this.hart, this.access, valueLo, valueHi);
    advancePc(this.hart, this.access.lenBytes);
  }

  /** The VMM has nothing at the address of an `mmio` exit after all: an access fault for the guest. */
  failMmio(): void {
    this.finish(PENDING_MMIO);
    const cause = this.access.write ? EXC_STORE_ACCESS : EXC_LOAD_ACCESS;
    countVm(this.vm.stat, 'redirected');
    redirectTrap(this.hart, cause, this.hart.csrLo(CSR_STVAL), this.hart.csrHi(CSR_STVAL));
  }

  /**
   * Faults in the page of a `fault` exit and maps it.
   * @returns undefined to run on, or an `error` exit: the memory behind the slot is not there
   */
  *handleFault(): Path<ErrorExit | undefined> {
    const { gpa, write, exec } = this.exits.fault;
    countVm(
      this.vm.stat,
      write ? 'gstageFaultsWrite' : exec ? 'gstageFaultsExec' : 'gstageFaultsRead',
    );
    const error = yield* mapGuestPage(this.kvm, this.vm, gpa, write, this.pfn, this.state);
    this.finish(PENDING_FAULT);
    if (error === 0) return undefined;
    const exit = this.fail(
      this.hart.csrLo(CSR_SCAUSE),
      gpa,
      `no host memory behind gpa ${hex(gpa)} (errno ${-error})`,
    );
    this.leave(exit);
    return exit;
  }

  /** Does the rest of an SBI call that came out as an `sbi` exit. */
  *handleSbi(): Path<undefined> {
    const extension = extensionOf(this.hart.xLo(REG_A7));
    if (extension?.path !== undefined) yield* extension.path(this, this.hart.xLo(REG_A6), this.ret);
    this.finish(PENDING_SBI);
    this.finishSbi();
  }

  private sbiCall(): VcpuExit {
    const { hart, ret, exits } = this;
    // EIDs and FIDs are signed 32-bit numbers, sign-extended in the registers (SBI 3).
    const eid = hart.xLo(REG_A7);
    const fid = hart.xLo(REG_A6);
    const extension = extensionOf(eid);
    ret.error = 0;
    ret.value = 0n;
    ret.a0Only = false;
    ret.resetType = 0;
    ret.resetReason = 0;
    const name = extension?.name ?? 'unknown';
    const calls = this.vm.stat.sbiCalls;
    setField(calls, name, (calls[name] ?? 0) + 1);
    if (extension === undefined) {
      ret.error = SBI_ERR_NOT_SUPPORTED;
      return this.finishSbi();
    }
    switch (extension.call(this, eid, fid, ret)) {
      case SBI_DONE:
        return this.finishSbi();
      case SBI_NEEDS_PATH:
        exits.sbi.extension = name;
        exits.sbi.fid = fid;
        this.pending = PENDING_SBI;
        return exits.sbi;
      case SBI_WAIT:
        this.finishSbi();
        return this.wait();
      case SBI_STOP:
        return exits.stop;
      case SBI_SHUTDOWN:
        setField(this.state, 'ended', true);
        exits.shutdown.resetType = ret.resetType;
        exits.shutdown.resetReason = ret.resetReason;
        return exits.shutdown;
      case SBI_RESTART:
        return this.restartSbi(ret.gpa);
      case SBI_REDIRECT:
        countVm(this.vm.stat, 'redirected');
        redirectTrap(
          hart,
          ret.cause,
          Number(BigInt.asIntN(32, ret.value)),
          Number(BigInt.asIntN(32, ret.value >> 32n)),
        );
        return exits.budget;
    }
  }

  /** The call has to read `gpa` first: a fault, after which the ECALL runs again. */
  private restartSbi(gpa: number): VcpuExit {
    if (slotAt(this.vm.slots, gpa) === undefined)
      return this.fail(EXC_SUPERVISOR_SYSCALL, gpa, this.nowhere('SBI argument at', gpa));
    const exit = this.exits.fault;
    exit.gpa = gpa;
    exit.write = false;
    exit.exec = false;
    this.pending = PENDING_FAULT;
    return exit;
  }

  /** Returns from the ECALL. */
  private finishSbi(): BudgetExit {
    const { hart, ret } = this;
    hart.setXParts(REG_A0, ret.error, ret.error >> 31);
    if (!ret.a0Only) hart.setX(REG_A1, ret.value);
    advancePc(hart, 4);
    return this.exits.budget;
  }

  private finish(pending: number): void {
    if (this.pending !== pending)
      throw new Error(`vcpu ${this.state.id}: ${PENDING_NAMES[pending]} without such an exit`);
    this.pending = PENDING_NONE;
  }

  /** What a guest gets told that leaves its memory; with the trap that led there, if one did. */
  private nowhere(what: string, gpa: number): string {
    const { hart } = this;
    const message = `${what} gpa ${hex(gpa)}, outside the guest's memory and devices`;
    const vstvec = hart.readCsr(CSR_VSTVEC) & ~3n;
    if (hart.readCsr(CSR_SEPC) !== vstvec) return message;
    const cause = Number(hart.readCsr(CSR_VSCAUSE) & 0xffn);
    return `${message}: its trap handler (vstvec ${hex(vstvec)}), after ${exceptionName(cause)} at ${hex(hart.readCsr(CSR_VSEPC))}`;
  }

  private fail(cause: number, gpa: number, message: string): ErrorExit {
    const exit = this.exits.error;
    exit.pc = this.hart.readCsr(CSR_SEPC);
    exit.cause = cause;
    exit.gpa = gpa;
    exit.message = message;
    setField(this.state, 'ended', true);
    return exit;
  }

  private setExternalIrq(level: boolean): void {
    const hvip = this.hart.readCsr(CSR_HVIP);
    this.hart.writeCsr(CSR_HVIP, level ? hvip | HVIP_VSEIP : hvip & ~HVIP_VSEIP);
  }
}
