/** The MMU against the plain walker of test/support over random tables, modes, permissions and A/D states. */
import { describe, expect, it } from 'vitest';
import { Mmu, PAGE_SIZE, PhysMemory, PRIV_M, RAM_OFFSET, type TranslationRegs } from '#emu';
import { accessResult, show } from '../../support/mmu-access.ts';
import { bytesEnv, type PlainAccess, plainTranslate } from '../../support/plain-walker.ts';
import { rng } from '../../support/rng.ts';
import {
  type AddressKind,
  buildWorld,
  randomAddress,
  randomRegs,
  WORLD_PAGES,
} from './random-world.ts';

const WORLDS = 1000;
const PER_WORLD = 110;

/** Which stages an access goes through. */
const addressKind = (r: TranslationRegs, access: PlainAccess): AddressKind => {
  const guestAccess = access === 'hlv' || access === 'hlvx' || access === 'hsv';
  const mprv = access !== 'fetch' && r.mprv;
  const priv = guestAccess ? r.spvp : mprv ? r.mpp : r.priv;
  const virt = guestAccess || (mprv ? r.mpv : r.virt);
  if (priv === PRIV_M) return 'physical';
  if (virt) return r.vsatpMode === 0 ? 'G' : 'VS';
  return r.satpMode === 0 ? 'physical' : 'S';
};

describe('two-stage translation — Priv 1.13, 12.3.2, 12.4 to 12.6, 15.5', () => {
  it('110,000 random translations give the address or the fault of the plain walker, and its PTE bytes', () => {
    const random = rng(0x5eed_0001);
    const ramBytes = WORLD_PAGES * PAGE_SIZE;
    const memory = new PhysMemory(ramBytes);
    const ram = memory.u8.subarray(RAM_OFFSET, RAM_OFFSET + ramBytes);
    const plainRam = new Uint8Array(ramBytes);
    const env = bytesEnv(plainRam, 0x8000_0000n);
    const mmu = new Mmu(memory, 0);
    const seen = new Map<string, number>();
    let good = 0;
    let total = 0;
    for (let w = 0; w < WORLDS; w++) {
      const world = buildWorld(memory, random);
      plainRam.set(ram);
      mmu.flushAll();
      let va = 0n;
      for (let n = 0; n < PER_WORLD; n++, total++) {
        // Tables stay as they are, so neither a switch nor a missing fence may change a result.
        if (n % 10 === 0) {
          randomRegs(world, random, mmu.regs);
          mmu.contextChanged();
        }
        if (random.chance(0.02)) mmu.flushAll();
        const r = mmu.regs;
        const guestAccess = !r.virt && r.priv !== 0 && random.chance(0.3);
        const access: PlainAccess = guestAccess
          ? random.pick(['hlv', 'hlvx', 'hsv'])
          : random.pick(['load', 'store', 'fetch']);
        if (n === 0 || random.chance(0.4))
          va = randomAddress(world, random, addressKind(r, access));
        const expected = plainTranslate(env, r, va, access);
        const got = accessResult(mmu, va, access, 8);
        if (show(got) !== show(expected))
          expect.fail(
            `world ${w}, ${access} of 0x${va.toString(16)}: ${show(got)}, plain: ${show(expected)}; ${JSON.stringify(r)}`,
          );
        if (expected.kind === 'ok') good++;
        else {
          const name = `${expected.cause} ${expected.htinst.toString(16)}`;
          seen.set(name, (seen.get(name) ?? 0) + 1);
        }
      }
      if (Buffer.compare(ram, plainRam) !== 0) expect.fail(`world ${w}: PTE bytes differ`);
    }
    expect(total).toBeGreaterThanOrEqual(100_000);
    expect(good / total).toBeGreaterThan(0.3);
    // Every cause, and guest-page faults by explicit, implicit reading and implicit writing accesses.
    const causes = [1, 5, 7, 12, 13, 15, 20, 21, 23].map((c) => `${c} 0`);
    for (const c of [20, 21, 23]) causes.push(`${c} 3000`, `${c} 3020`);
    expect(causes.filter((c) => (seen.get(c) ?? 0) < 10)).toEqual([]);
    expect(mmu.counts().adUpdates).toBeGreaterThan(1000);
    // The TLB and both kinds of walk caches had their part in it.
    expect(mmu.counts().walks).toBeLessThan(total * 0.95);
    expect(mmu.counts().gpaCacheHits).toBeGreaterThan(1000);
    expect(mmu.counts().walkCacheHits).toBeGreaterThan(1000);
  });
});
