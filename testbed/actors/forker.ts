/**
 * Forks the guest's host process, lets the child live for a while and scribble on its copy of the
 * guest's private memory, and ends it. What the child writes must never reach the guest, and what
 * the guest or a device writes after the fork must never reach the child.
 */
import { PAGE_SIZE } from '#emu';
import { fork, HostProcess, type MmStruct, mmExit, type Path } from '#mm';
import { Activity } from './activity.ts';

/** Pages the child writes to, at most. */
const SCRIBBLES = 4;

export class Forker extends Activity {
  /** `memory` holds the child's mm id and then pairs: an hva that the child wrote to, and what. */
  protected act(): Path<void> | null {
    return this.memory.length === 0 ? this.forkChild() : this.endChild();
  }

  protected override windUp(): Path<void> | null {
    return this.memory.length === 0 ? null : this.endChild();
  }

  private child(): MmStruct {
    const child = this.victim.k.state.mms.get(this.memory[0]!);
    if (child === undefined) throw new Error(`forker: address space ${this.memory[0]} is gone`);
    return child;
  }

  private *forkChild(): Path<void> {
    const { k, mm } = this.victim;
    const child = yield* fork(k, mm);
    if (typeof child === 'number') {
      this.count('failed');
      return;
    }
    this.count('forked');
    this.memory = [child.id];
    yield* this.scribble(child);
  }

  /** The child writes to pages of its own, and remembers what it wrote. */
  private *scribble(child: MmStruct): Path<void> {
    const process = new HostProcess(this.victim.k, child, this.victim.hostMmu);
    const ranges = this.victim.ranges.filter((r) => r.mappingId === null);
    if (ranges.length === 0) return;
    const word = new Uint8Array(8);
    for (let i = 0; i < SCRIBBLES; i++) {
      const range = ranges[this.rng.below(ranges.length)]!;
      const hva = range.hva + this.rng.below(range.lenBytes / PAGE_SIZE) * PAGE_SIZE;
      const value = this.rng.next();
      new DataView(word.buffer).setUint32(0, value, true);
      new DataView(word.buffer).setUint32(4, ~value >>> 0, true);
      const error = yield* process.copyInPath(hva, word);
      if (error === 0) this.memory.push(hva, value);
    }
  }

  private *endChild(): Path<void> {
    const { k } = this.victim;
    const child = this.child();
    const process = new HostProcess(k, child, this.victim.hostMmu);
    const word = new Uint8Array(8);
    const view = new DataView(word.buffer);
    for (const [hva, value] of this.scribbles()) {
      yield* process.copyOutPath(hva, word);
      if (view.getUint32(0, true) !== value || view.getUint32(4, true) !== ~value >>> 0)
        this.count('childCorrupted');
    }
    yield* mmExit(k, child);
    this.memory = [];
    this.count('ended');
  }

  /** What the child wrote last, by hva. */
  private scribbles(): Map<number, number> {
    const last = new Map<number, number>();
    for (let i = 1; i < this.memory.length; i += 2) last.set(this.memory[i]!, this.memory[i + 1]!);
    return last;
  }
}
