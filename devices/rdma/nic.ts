/**
 * The RDMA NIC: registers on one side, a wire on the other, memory behind it. registers.ts says what it
 * does; this file takes doorbells, packets, timers and answers of the memory to the queue pair that they
 * concern, and says by the interrupt line what there is to know.
 */
import type { Clock, DmaPort, IrqLine, MmioDevice } from '#emu';
import { COMMAND_PENDING, deregMrDone, regMrDone, runCommand } from './commands.ts';
import { isResponse, type RdmaPacket } from './packet.ts';
import { enterFatal, flushQueues, reap, stopTimers } from './queues.ts';
import type { RdmaRegionClient, RdmaRegions } from './regions.ts';
import {
  QPS_ERR,
  QPS_RESET,
  QPS_RTR,
  QPS_RTS,
  RDMA_ARG,
  RDMA_ARM_SOLICITED,
  RDMA_CMD_DEREG_MR,
  RDMA_CMD_MODIFY_QP,
  RDMA_CMD_REG_MR,
  RDMA_CMD_STATUS,
  RDMA_COMMAND,
  RDMA_COMPLETIONS,
  RDMA_CONTROL,
  RDMA_CONTROL_ENABLE,
  RDMA_CONTROL_IRQ,
  RDMA_CONTROL_RESET,
  RDMA_COUNTERS,
  RDMA_CQ_ARM,
  RDMA_CQ_DOORBELL,
  RDMA_EVENT,
  RDMA_EVENT_PORT_ACTIVE,
  RDMA_EVENT_PORT_ERR,
  RDMA_ID,
  RDMA_ID_VALUE,
  RDMA_IRQ_COMMAND,
  RDMA_IRQ_COMPLETION,
  RDMA_IRQ_EVENT,
  RDMA_IRQ_STATUS,
  RDMA_MAX_EVENTS,
  RDMA_NR_ARGS,
  RDMA_RESULT,
  RDMA_RQ_DOORBELL,
  RDMA_SQ_DOORBELL,
  RDMA_STATUS,
  RDMA_STATUS_COMMAND,
  RDMA_STATUS_EVENTS_LOST,
  RDMA_STATUS_LINK,
  RDMA_VERSION,
} from './registers.ts';
import { receiveResponse, receiverMayBeReady, send, timedOut } from './requester.ts';
import { answer, receiveRequest } from './responder.ts';
import {
  ARM_ANY,
  ARM_SOLICITED,
  createNicState,
  EVENT_TIMEOUT,
  type NicContext,
  type RdmaNicState,
  type RdmaQp,
} from './state.ts';
import type { RdmaEndpoint, RdmaLink } from './wire.ts';
import { type Completion, SQ_ENTRY_BYTES } from './work.ts';

export interface RdmaNicConfig {
  clock: Clock;
  irq: IrqLine;
  /** Queues in memory, by bus addresses. */
  port: DmaPort;
  /** What memory regions reach. */
  regions: RdmaRegions;
  /** One end of a wire. */
  link: RdmaLink;
  /** Name for the clock's events, when a machine has more than one NIC. */
  name?: string;
}

export class RdmaNic implements MmioDevice, RdmaEndpoint, RdmaRegionClient, NicContext {
  s: RdmaNicState;
  readonly clock: Clock;
  readonly name: string;
  readonly port: DmaPort;
  readonly regions: RdmaRegions;
  readonly link: RdmaLink;
  readonly scratch: Uint8Array;
  readonly done: Completion;
  readonly old: Uint32Array;
  private readonly irq: IrqLine;
  /** The queue pairs there are. */
  private live: RdmaQp[];

  constructor(config: RdmaNicConfig) {
    this.s = createNicState();
    this.clock = config.clock;
    this.name = config.name ?? 'rdma';
    this.port = config.port;
    this.regions = config.regions;
    this.link = config.link;
    this.irq = config.irq;
    this.live = [];
    this.scratch = new Uint8Array(SQ_ENTRY_BYTES);
    this.old = new Uint32Array(2);
    this.done = {
      wrIdLo: 0,
      wrIdHi: 0,
      status: 0,
      opcode: 0,
      lenBytes: 0,
      immediate: 0,
      qpn: 0,
      withImm: false,
      solicited: false,
    };
    config.clock.receive(this.name, (kind, qpn) => this.timer(kind, qpn));
    this.link.attach(this);
    this.regions.attach(this);
    this.port.onReady?.(() => this.ready());
  }

  get enabled(): boolean {
    return (this.s.control & RDMA_CONTROL_ENABLE) !== 0;
  }

  read(offset: number, sizeBytes: number): number {
    if (sizeBytes !== 4 || (offset & 3) !== 0) return 0;
    const s = this.s;
    if (offset >= RDMA_ARG && offset < RDMA_ARG + 4 * RDMA_NR_ARGS)
      return s.args[(offset - RDMA_ARG) >>> 2] ?? 0;
    switch (offset) {
      case RDMA_ID:
        return RDMA_ID_VALUE;
      case RDMA_VERSION:
        return 1;
      case RDMA_CONTROL:
        return s.control;
      case RDMA_STATUS:
        return (
          (this.link.up ? RDMA_STATUS_LINK : 0) |
          (s.command !== 0 ? RDMA_STATUS_COMMAND : 0) |
          (s.eventsLost ? RDMA_STATUS_EVENTS_LOST : 0)
        );
      case RDMA_IRQ_STATUS:
        return this.irqStatus();
      case RDMA_EVENT:
        return s.events[0] ?? 0;
      case RDMA_COMPLETIONS:
        return s.completionsLo;
      case RDMA_COMPLETIONS + 4:
        return s.completionsHi;
      case RDMA_CMD_STATUS:
        return s.commandStatus;
      case RDMA_RESULT:
        return s.resultLo;
      case RDMA_RESULT + 4:
        return s.resultHi;
      default:
        return this.readCounter((offset - RDMA_COUNTERS) >> 2);
    }
  }

  private readCounter(n: number): number {
    const { sent, received, retries, notReady, waits } = this.s.counters;
    return ([sent, received, retries, notReady, waits][n] ?? 0) >>> 0;
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (sizeBytes !== 4 || (offset & 3) !== 0) return;
    const s = this.s;
    if (offset >= RDMA_ARG && offset < RDMA_ARG + 4 * RDMA_NR_ARGS) {
      s.args[(offset - RDMA_ARG) >>> 2] = value >>> 0;
      return;
    }
    switch (offset) {
      case RDMA_CONTROL:
        if ((value & RDMA_CONTROL_RESET) !== 0) this.reset();
        else s.control = value & (RDMA_CONTROL_ENABLE | RDMA_CONTROL_IRQ);
        break;
      case RDMA_IRQ_STATUS:
        s.irqStatus &= ~value;
        break;
      case RDMA_EVENT:
        s.events.shift();
        s.eventsLost = false;
        break;
      case RDMA_COMPLETIONS:
        s.completionsLo = (s.completionsLo & ~value) >>> 0;
        break;
      case RDMA_COMPLETIONS + 4:
        s.completionsHi = (s.completionsHi & ~value) >>> 0;
        break;
      case RDMA_COMMAND:
        this.command(value >>> 0);
        break;
      default:
        if (this.enabled) this.doorbell(offset, value >>> 16, value & 0xffff);
    }
    this.updateIrq();
  }

  /** Back to the state after power-on; regions are released, requests given up. */
  reset(): void {
    const { mrs, qps } = this.s;
    for (const qp of qps) if (qp) stopTimers(this, qp);
    // The names of what is being released are not used again.
    this.s = createNicState(this.s);
    this.findLive();
    for (const mr of mrs) if (mr) this.regions.release(mr.handle);
    this.link.resume();
    this.updateIrq();
  }

  /* ---- doorbells and commands ---- */

  private doorbell(offset: number, number: number, count: number): void {
    const s = this.s;
    if (offset === RDMA_CQ_DOORBELL) {
      const cq = s.cqs[number];
      if (cq) cq.consumer = count;
      return;
    }
    if (offset === RDMA_CQ_ARM) {
      const cq = s.cqs[count];
      if (cq) cq.armed = ((number << 16) & RDMA_ARM_SOLICITED) !== 0 ? ARM_SOLICITED : ARM_ANY;
      return;
    }
    const qp = s.qps[number];
    if (!qp || qp.state === QPS_RESET) return;
    if (offset === RDMA_SQ_DOORBELL) {
      // The queue holds what is not over yet; what was read is not taken back.
      const onWay = (qp.sqRead - qp.sqDone) & 0xffff;
      if (((count - qp.sqRead) & 0xffff) + onWay > 1 << qp.sqShift) enterFatal(this, qp);
      else qp.sqPosted = count;
    } else if (offset === RDMA_RQ_DOORBELL) {
      if (((count - qp.rqRead) & 0xffff) > 1 << qp.rqShift) enterFatal(this, qp);
      else qp.rqPosted = count;
    }
    this.run(qp);
  }

  private command(command: number): void {
    const s = this.s;
    if (s.command !== 0) return;
    s.command = command;
    s.resultLo = 0;
    s.resultHi = 0;
    const status = runCommand(this, command);
    this.findLive();
    if (status !== COMMAND_PENDING) this.commandDone(status);
    const qp = command === RDMA_CMD_MODIFY_QP ? s.qps[s.args[0] ?? 0] : undefined;
    if (qp) this.run(qp);
  }

  private findLive(): void {
    this.live = this.s.qps.filter((qp) => qp !== null);
  }

  private commandDone(status: number): void {
    const s = this.s;
    s.command = 0;
    s.commandHandle = -1;
    s.commandStatus = status;
    s.irqStatus |= RDMA_IRQ_COMMAND;
    this.updateIrq();
  }

  /* ---- for the memory of the regions ---- */

  registered(handle: number, errno: number): void {
    const s = this.s;
    if (s.command !== RDMA_CMD_REG_MR || s.commandHandle !== handle) return;
    this.commandDone(regMrDone(this, handle, errno));
  }

  released(handle: number): void {
    const s = this.s;
    if (s.command !== RDMA_CMD_DEREG_MR || s.commandHandle !== handle) return;
    deregMrDone(this, handle);
    this.commandDone(0);
  }

  ready(): void {
    this.link.resume();
    this.runAll();
  }

  /* ---- for the wire ---- */

  receive(packet: Readonly<RdmaPacket>): boolean {
    const qp = this.enabled ? this.s.qps[packet.destQpn] : undefined;
    const taken = qp ? this.receiveFor(qp, packet) : true;
    if (taken) this.s.counters.received++;
    if (qp) this.run(qp);
    this.updateIrq();
    return taken;
  }

  private receiveFor(qp: RdmaQp, packet: Readonly<RdmaPacket>): boolean {
    if (isResponse(packet.opcode)) return qp.state !== QPS_RTS || receiveResponse(this, qp, packet);
    const listens = qp.state === QPS_RTR || qp.state === QPS_RTS;
    return !listens || receiveRequest(this, qp, packet);
  }

  sendable(): void {
    this.runAll();
  }

  linkChanged(up: boolean): void {
    this.raise(up ? RDMA_EVENT_PORT_ACTIVE : RDMA_EVENT_PORT_ERR, 1);
    if (up) this.runAll();
  }

  /* ---- what there is to do, and to say ---- */

  private timer(kind: number, qpn: number): void {
    const qp = this.s.qps[qpn];
    if (!qp) return;
    if (kind === EVENT_TIMEOUT) timedOut(this, qp);
    else receiverMayBeReady(qp);
    this.run(qp);
    this.updateIrq();
  }

  /** Goes on with a queue pair as far as it can. */
  private run(qp: RdmaQp): void {
    answer(this, qp);
    if (qp.state === QPS_RTS) send(this, qp);
    reap(this, qp);
    if (qp.state === QPS_ERR) flushQueues(this, qp);
  }

  private runAll(): void {
    for (const qp of this.live) this.run(qp);
    this.updateIrq();
  }

  raise(type: number, number: number): void {
    const s = this.s;
    if (s.events.length === RDMA_MAX_EVENTS) s.eventsLost = true;
    else s.events.push(((1 << 31) | (type << 16) | number) >>> 0);
    this.updateIrq();
  }

  notify(cqn: number): void {
    const s = this.s;
    if (cqn < 32) s.completionsLo = (s.completionsLo | (1 << cqn)) >>> 0;
    else s.completionsHi = (s.completionsHi | (1 << (cqn - 32))) >>> 0;
    this.updateIrq();
  }

  private irqStatus(): number {
    const s = this.s;
    const completion = (s.completionsLo | s.completionsHi) !== 0;
    return (
      (s.irqStatus & RDMA_IRQ_COMMAND) |
      (completion ? RDMA_IRQ_COMPLETION : 0) |
      (s.events.length > 0 ? RDMA_IRQ_EVENT : 0)
    );
  }

  private updateIrq(): void {
    this.irq.set((this.s.control & RDMA_CONTROL_IRQ) !== 0 && this.irqStatus() !== 0);
  }

  save(): RdmaNicState {
    return structuredClone(this.s);
  }

  /** Drives no line and schedules nothing: the other ends, the wire and the clock are restored too. */
  restore(state: RdmaNicState): void {
    this.s = structuredClone(state);
    this.findLive();
  }
}
