/** The kernel's state is a value: cloned, with the bytes of RAM, it is the same kernel. */
import { ATP_MODE_SV48, Mmu, PAGE_SIZE, PhysMemory, RAM_OFFSET } from '#emu';
import { assertKernel, createKernel, drive, fork, HostProcess, nrFreePages, taskSize } from '#mm';
import { describe, expect, it } from 'vitest';
import { rng } from '../support/rng.ts';
import { PlainProcess } from './plain-process.ts';
import { createProcess, createWorld, exit, mapAnon, RW } from './support.ts';

describe('save and restore', () => {
  it('a cloned KernelState over copied RAM goes on like the original', () => {
    const w = createWorld(8 << 20);
    const random = rng(3);
    const plain = new PlainProcess(createProcess(w));
    for (let i = 0; i < 300; i++) drive(plain.randomStep(random, []));
    const child = drive(fork(w.k, plain.p.mm));
    if (typeof child === 'number') throw new Error('fork');

    const memory = new PhysMemory(8 << 20);
    memory.u8.set(w.k.memory.u8.subarray(RAM_OFFSET), RAM_OFFSET);
    const mmu = new Mmu(memory, 0);
    const k = createKernel({
      memory,
      tlb: {
        flushPage: (asid, hva) => mmu.hostSfenceVma(hva, asid),
        flushRange: (asid) => mmu.hostSfenceVma(undefined, asid),
        flushAsid: (asid) => mmu.hostSfenceVma(undefined, asid),
      },
      policy: structuredClone(w.k.policy),
      state: structuredClone(w.k.state),
    });
    const [one, two] = [plain.p.mm.id, child.id].map((id) => k.state.mms.get(id));
    if (one === undefined || two === undefined) throw new Error('an address space is missing');
    assertKernel(k, { quiescent: true });
    const again = new PlainProcess(new HostProcess(k, one, mmu), plain.pages);
    again.checkAll();
    for (let i = 0; i < 300; i++) drive(again.randomStep(random, []));
    again.checkAll();
    exit(again.p);
    exit(new HostProcess(k, two, mmu));
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });
});

describe('address spaces', () => {
  it('in Sv48 reach above 2^43: rmap offsets are kept modulo 2^32 pages', () => {
    const w = createWorld(8 << 20, ATP_MODE_SV48);
    const p = createProcess(w);
    const high = taskSize(w.k) - 2 ** 30;
    mapAnon(p, 2, RW, high);
    expect(p.store32(high + PAGE_SIZE, 6)).toBe(0);
    expect(p.load32(high + PAGE_SIZE)).toBe(6);
    assertKernel(w.k, { quiescent: true });
    exit(p);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('two on one hart do not see each other: ASIDs differ', () => {
    const w = createWorld();
    const [a, b] = [createProcess(w), createProcess(w)];
    mapAnon(a, 1, RW, 0x1000_0000);
    mapAnon(b, 1, RW, 0x1000_0000);
    for (let i = 0; i < 10; i++) {
      a.store32(0x1000_0000, i);
      b.store32(0x1000_0000, 100 + i);
      expect(a.load32(0x1000_0000)).toBe(i);
    }
  });

  it("of 70,000 short-lived processes the ASIDs go round, and none keeps a dead one's entries", () => {
    const w = createWorld(8 << 20);
    const keeper = createProcess(w);
    mapAnon(keeper, 1, RW, 0x1000_0000);
    keeper.store32(0x1000_0000, 7);
    for (let i = 0; i < 70_000; i++) {
      const p = createProcess(w);
      if (p.mm.asid === keeper.mm.asid) throw new Error('an ASID in use was handed out');
      if (i % 1000 === 0) {
        mapAnon(p, 1, RW, 0x1000_0000);
        expect(p.load32(0x1000_0000)).toBe(0);
        p.store32(0x1000_0000, i);
      }
      exit(p);
    }
    expect(keeper.load32(0x1000_0000)).toBe(7);
  });
});
