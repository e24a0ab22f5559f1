/** TLB coherence: random accesses, PTE edits, fences and switches against the plain walker and a history of PTEs. */
import { describe, expect, it } from 'vitest';
import { ATP_MODE_SV39, Mmu, PAGE_SIZE, PhysMemory, PRIV_S, PRIV_U, RAM_OFFSET } from '#emu';
import { accessResult, show } from '../../support/mmu-access.ts';
import type { PlainAccess } from '../../support/plain-walker.ts';
import { type Rng, rng } from '../../support/rng.ts';
import { type Fence, History } from './history.ts';

/*
 * RAM, in pages. Three first-stage spaces serve HS-mode and both guests; both guests see RAM at its own
 * addresses, through tables of their own.
 */
const PAGES = 64;
const G_ROOTS = [0, 4];
const G_MIDDLE = [8, 10]; // two each
const G_LEAVES = [12, 14]; // two each
const ROOT = 16; // one for each space
const MIDDLE = 19; // two for each space
const LEAVES = 25; // four for each space
const DATA = 40; // up to the end
const SPACES = [1, 2, 3];
const VMIDS = [1, 2];
const RAM = 0x8000_0000n;
const PFN = 0x8_0000;

const V = 0x01;
const RWX = 0x0e;
const U = 0x10;
const A = 0x40;
const D = 0x80;

const pte = (page: number, flags: number): bigint => (BigInt(PFN + page) << 10n) | BigInt(flags);
const place = (page: number, index: number): bigint => RAM + BigInt(page * 4096 + index * 8);

/** First-stage addresses in use: 2 gigabytes, 2 two-megabyte regions in each, 3 pages in each. */
const VAS: bigint[] = [];
for (const vpn2 of [0, 1])
  for (const vpn1 of [3, 4])
    for (const vpn0 of [5, 6, 7])
      VAS.push(BigInt(vpn2) * 0x4000_0000n + BigInt(vpn1) * 0x20_0000n + BigInt(vpn0) * 0x1000n);

/** An edit: where, what, and the fence that it calls for. */
interface Edit {
  at: bigint;
  value: bigint;
  fences: Fence[];
}

const leafFlags = (random: Rng, user: number): number => {
  let flags = V | user | (random.chance(0.8) ? RWX : random.pick([0x2, 0x6, 0x8, 0xa]));
  if (random.chance(0.8)) flags |= A;
  if (random.chance(0.7)) flags |= D;
  if (random.chance(0.05)) flags &= ~V;
  return flags;
};

/** A change to a first-stage space: leaf, superpage or pointer. */
const firstStageEdit = (random: Rng, now: (pa: bigint) => bigint): Edit => {
  const space = random.chance(0.6) ? 1 : random.pick(SPACES);
  const va = random.pick(VAS);
  const vpn2 = Number(va >> 30n);
  const vpn1 = Number((va >> 21n) & 511n);
  const vpn0 = Number((va >> 12n) & 511n);
  const middle = MIDDLE + (space - 1) * 2;
  const leaves = LEAVES + (space - 1) * 4;
  const user = random.chance(0.8) ? U : 0;
  // Every stage that may use the space has to be told.
  const all = (address?: bigint): Fence[] => [
    { stage: 'S', asid: space, address },
    ...VMIDS.map((vmid): Fence => ({ stage: 'VS', asid: space, vmid, address })),
  ];
  switch (random.below(10)) {
    case 0: // another table for a gigabyte
      return {
        at: place(ROOT + space - 1, vpn2),
        value: random.chance(0.8)
          ? pte(middle + random.below(2), V)
          : pte(0, leafFlags(random, user)),
        fences: all(),
      };
    case 1:
    case 2: {
      // Another table for 2 MiB, or a superpage. A change from one superpage to another is one of a
      // leaf: a fence with any address in it will do. All others are changes of a non-leaf entry.
      const leaf = random.chance(0.5);
      const at = place(middle + random.below(2), vpn1);
      const was = now(at);
      return {
        at,
        value: leaf ? pte(0, leafFlags(random, user)) : pte(leaves + random.below(4), V),
        fences: all(leaf && (was & 0xfn) > 1n ? va ^ 0x3000n : undefined),
      };
    }
    default:
      return {
        at: place(leaves + random.below(4), vpn0),
        value: pte(DATA + random.below(PAGES - DATA), leafFlags(random, user)),
        fences: all(va),
      };
  }
};

/** A change to a guest's G-stage. */
const gStageEdit = (random: Rng): Edit => {
  const vm = random.below(2);
  const vmid = VMIDS[vm];
  if (random.chance(0.15))
    return {
      at: place(G_ROOTS[vm] as number, 2),
      value: pte((G_MIDDLE[vm] as number) + random.below(2), V),
      fences: [{ stage: 'G', vmid }],
    };
  if (random.chance(0.25))
    return {
      at: place((G_MIDDLE[vm] as number) + random.below(2), 0),
      value: random.chance(0.5)
        ? pte(0, leafFlags(random, U))
        : pte((G_LEAVES[vm] as number) + random.below(2), V),
      fences: [{ stage: 'G', vmid }],
    };
  const page = random.chance(0.3)
    ? ROOT + random.below(DATA - ROOT)
    : DATA + random.below(PAGES - DATA);
  // Data moves; tables stay where they are, or one of a kind takes another's place.
  const target =
    page >= DATA
      ? DATA + random.below(PAGES - DATA)
      : page >= LEAVES && random.chance(0.3)
        ? LEAVES + random.below(12)
        : page;
  return {
    at: place((G_LEAVES[vm] as number) + random.below(2), page),
    value: pte(
      target,
      page >= DATA ? leafFlags(random, U) : V | RWX | U | (random.chance(0.8) ? A | D : A),
    ),
    fences: [{ stage: 'G', vmid, address: RAM + BigInt(page * 4096) }],
  };
};

class Bed {
  readonly mmu: Mmu;
  readonly history: History;
  readonly ram: Uint8Array;
  readonly random: Rng;
  /** The page that many accesses go to. */
  focus: bigint;
  /** Results that are not what the tables say at that moment. */
  stale: number;
  accesses: number;

  constructor(seed: number) {
    const memory = new PhysMemory(PAGES * PAGE_SIZE);
    this.random = rng(seed);
    this.ram = memory.u8.subarray(RAM_OFFSET, RAM_OFFSET + PAGES * PAGE_SIZE);
    this.mmu = new Mmu(memory, 0);
    this.history = new History(this.ram.slice(), RAM, SPACES, [0, ...VMIDS]);
    this.focus = VAS[0] as bigint;
    this.stale = 0;
    this.accesses = 0;
    this.fillTables();
    this.switchRegs();
  }

  private write(at: bigint, value: bigint): void {
    this.history.edit(at, value);
    new DataView(this.ram.buffer, this.ram.byteOffset).setBigUint64(Number(at - RAM), value, true);
  }

  private fillTables(): void {
    for (const vm of [0, 1]) {
      this.write(place(G_ROOTS[vm] as number, 2), pte(G_MIDDLE[vm] as number, V));
      for (const n of [0, 1]) {
        this.write(place((G_MIDDLE[vm] as number) + n, 0), pte((G_LEAVES[vm] as number) + n, V));
        for (let page = 0; page < PAGES; page++)
          this.write(place((G_LEAVES[vm] as number) + n, page), pte(page, V | RWX | U | A | D));
      }
    }
    for (const space of [0, 1, 2])
      for (const m of [0, 1]) {
        this.write(place(ROOT + space, m), pte(MIDDLE + space * 2 + m, V));
        for (const n of [0, 1]) {
          this.write(place(MIDDLE + space * 2 + m, 3 + n), pte(LEAVES + space * 4 + m * 2 + n, V));
          for (const vpn0 of [5, 6, 7])
            this.write(
              place(LEAVES + space * 4 + m * 2 + n, vpn0),
              pte(DATA + this.random.below(PAGES - DATA), V | RWX | A | D | (vpn0 === 5 ? 0 : U)),
            );
        }
      }
    this.fence({ stage: 'S' });
    this.fence({ stage: 'VS', vmid: 1 });
    this.fence({ stage: 'VS', vmid: 2 });
    this.fence({ stage: 'VS', vmid: 0 });
    this.fence({ stage: 'G' });
  }

  /** Another mode, address space, guest or permission. */
  switchRegs(): void {
    const { random, mmu } = this;
    const r = mmu.regs;
    r.priv = random.chance(0.5) ? PRIV_U : PRIV_S;
    r.virt = random.chance(0.7);
    r.satpMode = ATP_MODE_SV39;
    r.vsatpMode = random.chance(0.93) ? ATP_MODE_SV39 : 0;
    r.hgatpMode = random.chance(0.95) ? ATP_MODE_SV39 : 0;
    const space = random.chance(0.6) ? 1 : random.pick(SPACES);
    const vm = random.chance(0.7) ? 0 : 1;
    r.satpAsid = space;
    r.satpPpn = PFN + ROOT + space - 1;
    r.vsatpAsid = r.vsatpMode === 0 ? 0 : space;
    r.vsatpPpn = r.vsatpMode === 0 ? 0 : PFN + ROOT + space - 1;
    r.hgatpVmid = r.hgatpMode === 0 ? 0 : (VMIDS[vm] as number);
    r.hgatpPpn = r.hgatpMode === 0 ? 0 : PFN + (G_ROOTS[vm] as number);
    r.spvp = random.chance(0.5) ? PRIV_U : PRIV_S;
    // These seldom change; each combination is a context of its own.
    if (random.chance(0.1)) {
      r.sum = random.chance(0.85);
      r.vsum = random.chance(0.85);
      r.mxr = random.chance(0.2);
      r.vmxr = random.chance(0.2);
      r.adueHs = random.chance(0.85);
      r.adueVs = r.adueHs && random.chance(0.8);
    }
    mmu.contextChanged();
  }

  /** Executes a fence and notes it. VS-stage fences act on the VMID in hgatp, so that is set meanwhile. */
  fence(f: Fence): void {
    const { mmu, random } = this;
    const r = mmu.regs;
    this.history.fence(f);
    const lo = f.address === undefined ? undefined : Number(BigInt.asIntN(32, f.address));
    const hi = f.address === undefined ? undefined : Number(f.address >> 32n);
    if (f.stage === 'G') {
      mmu.hfenceGvma(f.address === undefined ? undefined : Number(f.address), f.vmid);
    } else if (f.stage === 'S') {
      if (r.virt || random.chance(0.3))
        mmu.hostSfenceVma(f.address === undefined ? undefined : Number(f.address), f.asid);
      else mmu.sfenceVma(lo, hi, f.asid);
    } else {
      const vmid = r.hgatpVmid;
      r.hgatpVmid = f.vmid ?? vmid;
      if (r.virt && r.hgatpVmid === vmid) mmu.sfenceVma(lo, hi, f.asid);
      else mmu.hfenceVvma(lo, hi, f.asid);
      r.hgatpVmid = vmid;
    }
  }

  randomFence(): Fence {
    const { random } = this;
    const stage = random.pick(['S', 'VS', 'VS', 'G', 'G'] as const);
    const address = random.chance(0.6)
      ? stage === 'G'
        ? RAM + BigInt(random.below(PAGES) * 4096)
        : random.pick(VAS)
      : undefined;
    const asid = stage !== 'G' && random.chance(0.6) ? random.pick(SPACES) : undefined;
    const vmid =
      stage === 'VS' || (stage === 'G' && random.chance(0.6)) ? random.pick(VMIDS) : undefined;
    return { stage, address, asid, vmid };
  }

  edit(): void {
    const { random } = this;
    const e = random.chance(0.6)
      ? firstStageEdit(random, (pa) => this.history.pte(pa))
      : gStageEdit(random);
    this.write(e.at, e.value);
    // Most edits are followed by their fences, some by none.
    if (random.chance(0.6)) for (const f of e.fences) this.fence(f);
  }

  access(step: number): void {
    const { random, mmu, history } = this;
    const r = mmu.regs;
    const access: PlainAccess =
      !r.virt && random.chance(0.25)
        ? random.pick(['hlv', 'hsv', 'hlvx'])
        : random.pick(['load', 'store', 'fetch']);
    const guest = r.virt || access.startsWith('h');
    // Half of the accesses go to one page for a while.
    if (random.chance(0.02)) this.focus = random.pick(VAS);
    const first = random.chance(0.5) ? this.focus : random.pick(VAS);
    const page = guest && r.vsatpMode === 0 ? RAM + BigInt(random.below(PAGES) * 4096) : first;
    const va = page + BigInt(random.below(512) * 8);
    const updates = mmu.counts().adUpdates;
    const got = accessResult(mmu, va, access, 8);
    if (mmu.counts().adUpdates !== updates) this.noteUpdates(step);
    const text = show(got);
    this.accesses++;
    const fresh = show(history.fresh(r, va, access));
    if (fresh === text) return;
    this.stale++;
    if (!history.allows(r, va, access, (x) => show(x) === text))
      expect.fail(
        `step ${step}: ${access} of 0x${va.toString(16)} gave ${text}, which no PTE since the last fence gives; now ${fresh}; ${JSON.stringify(r)}`,
      );
  }

  /** PTEs that the hardware changed: A and D are set, nothing else. */
  private noteUpdates(step: number): void {
    const view = new DataView(this.ram.buffer, this.ram.byteOffset, this.ram.byteLength);
    for (let at = 0; at < DATA * PAGE_SIZE; at += 8) {
      if (at % PAGE_SIZE === 0) {
        const page = [at, at + PAGE_SIZE] as const;
        const same = Buffer.compare(
          this.ram.subarray(...page),
          this.history.bytes.subarray(...page),
        );
        if (same === 0) {
          at += PAGE_SIZE - 8;
          continue;
        }
      }
      const now = view.getBigUint64(at, true);
      const was = this.history.pte(RAM + BigInt(at));
      if (now === was) continue;
      const set = now ^ was;
      if ((now & was) !== was || (set & ~BigInt(A | D)) !== 0n || (was & 0xfn) <= 1n)
        expect.fail(`step ${step}: PTE 0x${was.toString(16)} became 0x${now.toString(16)}`);
      this.history.edit(RAM + BigInt(at), now);
    }
  }
}

describe('TLB coherence — Priv 1.13, 12.2.1 and 15.3.2', () => {
  for (const seed of [1, 2, 3])
    it(`what a fence covers is seen, and what is stale was valid since the last one (seed ${seed})`, () => {
      const bed = new Bed(seed);
      const { random, mmu } = bed;
      for (let step = 0; step < 25_000; step++) {
        const what = random.below(100);
        if (what < 87) bed.access(step);
        else if (what < 94) bed.edit();
        else if (what < 96) bed.fence(bed.randomFence());
        else bed.switchRegs();
        if (step % 400 === 399) {
          // So that the versions to choose from stay few.
          bed.fence({ stage: 'S' });
          for (const vmid of [0, ...VMIDS]) bed.fence({ stage: 'VS', vmid });
          bed.fence({ stage: 'G' });
        }
      }
      const counts = mmu.counts();
      // The run has had of everything.
      expect(bed.accesses).toBeGreaterThan(20_000);
      expect(bed.stale).toBeGreaterThan(60);
      expect(counts.rollovers).toBeGreaterThan(3);
      expect(counts.contextsEvicted).toBeGreaterThan(100);
      expect(counts.adUpdates).toBeGreaterThan(100);
      expect(counts.gpaCacheHits).toBeGreaterThan(1000);
      expect(counts.walkCacheHits).toBeGreaterThan(1000);
    });
});
