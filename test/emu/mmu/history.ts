/**
 * What an access may see of page tables that change: the versions of every PTE, the fences so far, and
 * the plain walker over all choices that they leave open. Priv 1.13, 12.2.1 (SFENCE.VMA), 15.3.2 (HFENCE).
 */
import type { TranslationRegs } from '#emu';
import {
  type PlainAccess,
  type PlainEnv,
  type PlainResult,
  plainTranslate,
  type Stage,
} from '../../support/plain-walker.ts';

interface Version {
  since: number;
  value: bigint;
}

/** Operands of a fence; undefined names everything. */
export interface Fence {
  stage: Stage;
  address?: bigint | undefined;
  asid?: number | undefined;
  vmid?: number | undefined;
}

/** A choice of versions that led to an update of A or D: the update made a version of its own. */
class DeadEnd extends Error {}

const MAX_RUNS = 5000;

export class History {
  readonly bytes: Uint8Array;
  private readonly view: DataView;
  private readonly base: bigint;
  /** Counts edits and fences. */
  private now: number;
  private readonly versions: Map<bigint, Version[]>;
  /** Latest fence by what it names: "stage vmid asid" and "stage vmid asid level page". */
  private readonly fences: Map<string, number>;
  private readonly asids: readonly number[];
  private readonly vmids: readonly number[];

  /** @param bytes RAM as the test believes it to be; `base` is its physical address */
  constructor(bytes: Uint8Array, base: bigint, asids: readonly number[], vmids: readonly number[]) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.base = base;
    this.now = 0;
    this.versions = new Map();
    this.fences = new Map();
    this.asids = asids;
    this.vmids = vmids;
  }

  isRam(pa: bigint): boolean {
    return pa >= this.base && pa < this.base + BigInt(this.bytes.length);
  }

  pte(pa: bigint): bigint {
    return this.view.getBigUint64(Number(pa - this.base), true);
  }

  /** A PTE gets another value, by software or by hardware. */
  edit(pa: bigint, value: bigint): void {
    const list = this.versions.get(pa) ?? [{ since: 0, value: this.pte(pa) }];
    this.versions.set(pa, list);
    list.push({ since: ++this.now, value });
    this.view.setBigUint64(Number(pa - this.base), value, true);
  }

  fence(f: Fence): void {
    const time = ++this.now;
    const vmids = f.stage === 'S' ? [0] : f.vmid === undefined ? this.vmids : [f.vmid];
    const asids = f.stage === 'G' ? [0] : f.asid === undefined ? this.asids : [f.asid];
    for (const vmid of vmids)
      for (const asid of asids) {
        const name = `${f.stage} ${vmid} ${asid}`;
        if (f.address === undefined) this.fences.set(name, time);
        else
          for (let level = 0; level < 3; level++)
            this.fences.set(`${name} ${level} ${f.address >> BigInt(12 + 9 * level)}`, time);
      }
  }

  /** What the tables say now. Changes nothing, A and D neither. */
  fresh(r: TranslationRegs, va: bigint, access: PlainAccess): PlainResult {
    const env: PlainEnv = {
      isRam: (pa) => this.isRam(pa),
      readPte: (pa) => this.pte(pa),
      updatePte: () => true,
    };
    return plainTranslate(env, r, va, access);
  }

  /** Is `result` one that the fences so far leave open, for an access that has just been made? */
  allows(
    r: TranslationRegs,
    va: bigint,
    access: PlainAccess,
    same: (x: PlainResult) => boolean,
  ): boolean {
    // Depth first over the choices: `script` says which version each read takes, newest first.
    const script: number[] = [];
    const widths: number[] = [];
    for (let run = 0; run < MAX_RUNS; run++) {
      let reads = 0;
      const env: PlainEnv = {
        isRam: (pa) => this.isRam(pa),
        readPte: (pa, stage, level, address) => {
          const values = this.visible(pa, stage, level, address, r);
          if (reads === script.length) {
            script.push(0);
            widths.push(values.length);
          }
          const value = values[script[reads++] ?? 0];
          if (value === undefined) throw new Error('history: no version');
          return value;
        },
        updatePte: () => {
          throw new DeadEnd();
        },
      };
      try {
        if (same(plainTranslate(env, r, va, access))) return true;
      } catch (e) {
        if (!(e instanceof DeadEnd)) throw e;
      }
      let last = script.pop();
      let width = widths.pop();
      while (last !== undefined && width !== undefined && last + 1 >= width) {
        last = script.pop();
        width = widths.pop();
      }
      if (last === undefined || width === undefined) return false;
      script.push(last + 1);
      widths.push(width);
    }
    throw new Error('history: too many versions without a fence');
  }

  /** Values that a read of a PTE may give, newest first. */
  private visible(
    pa: bigint,
    stage: Stage,
    level: number,
    address: bigint,
    r: TranslationRegs,
  ): bigint[] {
    const list = this.versions.get(pa);
    if (list === undefined) return [this.pte(pa)];
    const vmid = stage === 'S' ? 0 : r.hgatpVmid;
    const asid = stage === 'G' ? 0 : stage === 'S' ? r.satpAsid : r.vsatpAsid;
    const name = `${stage} ${vmid} ${asid}`;
    const all = this.fences.get(name) ?? 0;
    // A fence with an address orders leaves only (12.2.1).
    const leaf = Math.max(
      all,
      this.fences.get(`${name} ${level} ${address >> BigInt(12 + 9 * level)}`) ?? 0,
    );
    const values: bigint[] = [];
    for (let i = list.length - 1; i >= 0; i--) {
      const v = list[i] as Version;
      const replaced = list[i + 1]?.since ?? Number.POSITIVE_INFINITY;
      const pointer = (v.value & 0xfn) === 1n;
      if (replaced > (pointer ? all : leaf) && !values.includes(v.value)) values.push(v.value);
      if (replaced <= all) break;
    }
    return values;
  }
}
