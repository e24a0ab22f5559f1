/** Random page tables for the comparison with the plain walker: mostly sound, then damaged. */
import { type PhysMemory, PRIV_M, PRIV_S, PRIV_U, RAM_OFFSET, type TranslationRegs } from '#emu';
import type { Rng } from '../../support/rng.ts';

const RAM_PFN = 0x8_0000n;
/** Pages of tables and data; 2 MiB, so that all of RAM can be one superpage. */
export const WORLD_PAGES = 512;

const V = 1n;
const R = 2n;
const W = 4n;
const X = 8n;
const U = 16n;
const A = 64n;
const D = 128n;

export interface World {
  /** Addresses worth trying, by the first stage they belong to. */
  sAddresses: bigint[];
  vsAddresses: bigint[];
  gpas: bigint[];
  satp: { mode: number; ppn: bigint };
  vsatp: { mode: number; ppn: bigint };
  hgatp: { mode: number; ppn: bigint };
}

interface Builder {
  memory: PhysMemory;
  view: DataView;
  random: Rng;
  /** Next unused page of RAM, as an index. */
  next: number;
  /** Places of all PTEs written, as byte offsets in RAM. */
  ptes: number[];
  /** Chance that a flag is as it should be. */
  quality: number;
}

/** Says where in RAM the table page `ppn` of a stage lies (its index), and makes new ones. */
interface TableSpace {
  indexOf: Map<bigint, number>;
  create(): bigint;
}

const takePages = (b: Builder, n: number): number => {
  b.next = Math.ceil(b.next / n) * n;
  const page = b.next;
  b.next += n;
  if (b.next > WORLD_PAGES) throw new RangeError('the world is full');
  return page;
};

const leafFlags = (b: Builder, user: boolean): bigint => {
  const { random, quality } = b;
  let flags = V | (user ? U : 0n);
  // Mostly what lets the walk go on: several leaves have to be good for one translation.
  flags |= random.chance(0.75) ? R | W | X : random.pick([R | W, R, X, R | X]);
  if (random.chance(0.8)) flags |= A;
  if (random.chance(0.7)) flags |= D;
  if (!random.chance(quality)) flags ^= random.pick([V, U, R, W, A, D]);
  if (random.chance(0.1)) flags |= 32n; // G
  return flags | (BigInt(random.below(4)) << 8n); // RSW
};

const put = (b: Builder, page: number, index: bigint, pte: bigint): void => {
  const at = page * 4096 + Number(index) * 8;
  b.view.setBigUint64(at, BigInt.asUintN(64, pte), true);
  b.ptes.push(at);
};

/** Maps one page: a leaf at `level`, the tables above it as they are or new. False where a superpage is. */
const mapOne = (
  b: Builder,
  space: TableSpace,
  root: bigint,
  levels: number,
  wideRoot: boolean,
  address: bigint,
  level: number,
  pte: bigint,
): boolean => {
  let ppn = root;
  for (let i = levels - 1; ; i--) {
    const mask = wideRoot && i === levels - 1 ? 0x7ffn : 0x1ffn;
    const index = (address >> (12n + 9n * BigInt(i))) & mask;
    const page = space.indexOf.get(ppn);
    if (page === undefined) return false;
    const now = b.view.getBigUint64(page * 4096 + Number(index) * 8, true);
    if (i === level) {
      if (now !== 0n) return false;
      put(b, page, index, pte);
      return true;
    }
    if ((now & (R | W | X)) !== 0n) return false; // under a superpage
    if ((now & V) === 0n) {
      const table = space.create();
      put(b, page, index, (table << 10n) | V);
      ppn = table;
    } else ppn = now >> 10n;
  }
};

const signExtend = (address: bigint, bits: number): bigint =>
  BigInt.asUintN(64, BigInt.asIntN(bits, address));

/** Fills RAM and says how to use it. */
export const buildWorld = (memory: PhysMemory, random: Rng): World => {
  const bytes = memory.u8.subarray(RAM_OFFSET, RAM_OFFSET + WORLD_PAGES * 4096);
  bytes.fill(0);
  const b: Builder = {
    memory,
    view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength),
    random,
    next: 0,
    ptes: [],
    quality: random.pick([0.8, 0.97, 1, 1]),
  };
  const host: TableSpace = {
    indexOf: new Map(),
    create: () => {
      const page = takePages(b, 1);
      host.indexOf.set(RAM_PFN + BigInt(page), page);
      return RAM_PFN + BigInt(page);
    },
  };

  // The G-stage.
  const hgatp = { mode: random.pick([0, 8, 8, 8, 9, 9, 10]), ppn: 0n };
  const gLevels = hgatp.mode - 5;
  const gRoot = takePages(b, 4);
  hgatp.ppn = RAM_PFN + BigInt(gRoot);
  for (let i = 0; i < 4; i++) {
    // A 16 KiB root is one table of 2048 entries: its index runs on from the first page.
    host.indexOf.set(hgatp.ppn + BigInt(i), gRoot + i);
  }
  const gpas: bigint[] = [];
  const tryBack = (page: number): bigint => {
    const level = random.chance(0.7) ? 0 : 1 + random.below(gLevels - 1);
    let gfn = (random.u64() >> BigInt(62 - 9 * gLevels)) & ~0x1ffn;
    if (random.chance(0.8)) gfn &= 0x3ff_fe00n;
    gfn |= BigInt(page);
    let target = RAM_PFN + BigInt(page);
    if (level > 0) {
      const low = (1n << BigInt(9 * level)) - 1n;
      gfn = (gfn & ~low) | (target & low);
      target &= ~low;
      if (!random.chance(b.quality)) target |= 1n << BigInt(random.below(9 * level)); // misaligned
    }
    const pte = (target << 10n) | leafFlags(b, true);
    return mapOne(b, host, hgatp.ppn, gLevels, true, gfn << 12n, level, pte) ? gfn : -1n;
  };
  /** Backs a page of RAM at some gpa; returns the guest's page number. */
  const back = (page: number): bigint => {
    if (hgatp.mode === 0) return RAM_PFN + BigInt(page);
    let gfn = tryBack(page);
    while (gfn < 0n) gfn = tryBack(page);
    gpas.push(gfn << 12n);
    return gfn;
  };

  // VS-stage tables, which are guest physical.
  const guest: TableSpace = {
    indexOf: new Map(),
    create: () => {
      const page = takePages(b, 1);
      const gfn = back(page);
      guest.indexOf.set(gfn, page);
      return gfn;
    },
  };
  const stage = (
    space: TableSpace,
    target: () => bigint,
    user: () => boolean,
    addresses: bigint[],
  ): { mode: number; ppn: bigint } => {
    const mode = random.pick([8, 8, 8, 9, 9, 10]);
    const levels = mode - 5;
    const root = space.create();
    const bits = 12 + 9 * levels;
    for (let n = 0; n < 10; n++) {
      let address = signExtend(random.u64() & ~0xfffn, bits);
      const other = addresses[random.below(Math.max(1, addresses.length))];
      // Neighbours share tables.
      if (other !== undefined && random.chance(0.7))
        address = other ^ (1n << BigInt(12 + random.below(5)));
      const level = random.chance(0.75) ? 0 : 1 + random.below(levels - 1);
      let ppn = target();
      if (level > 0) {
        const low = (1n << BigInt(9 * level)) - 1n;
        address = signExtend((address & ~(low << 12n)) | ((ppn & low) << 12n), bits);
        if (random.chance(b.quality)) ppn &= ~low;
      }
      mapOne(b, space, root, levels, false, address, level, (ppn << 10n) | leafFlags(b, user()));
      addresses.push(address);
    }
    return { mode: random.chance(0.1) ? 0 : mode, ppn: root };
  };
  const anyPage = (): number => random.below(WORLD_PAGES);
  const sAddresses: bigint[] = [];
  const vsAddresses: bigint[] = [];
  const user = (): boolean => random.chance(0.5);
  const satp = stage(host, () => RAM_PFN + BigInt(anyPage()), user, sAddresses);
  const vsatp = stage(guest, () => back(anyPage()), user, vsAddresses);

  // Damage: bits of PTEs, reserved ones and page numbers too.
  const damage = random.chance(0.5) ? 0 : 1 + random.below(6);
  for (let n = 0; n < damage; n++) {
    const at = random.pick(b.ptes);
    const flip = 1n << BigInt(random.chance(0.6) ? random.below(10) : random.below(64));
    b.view.setBigUint64(at, b.view.getBigUint64(at, true) ^ flip, true);
  }
  return { sAddresses, vsAddresses, gpas, satp, vsatp, hgatp };
};

/** Registers that use a world's tables in some mode. */
export const randomRegs = (world: World, random: Rng, regs: TranslationRegs): void => {
  regs.priv = random.pick([PRIV_U, PRIV_S, PRIV_S, PRIV_U, PRIV_M]);
  regs.virt = regs.priv !== PRIV_M && random.chance(0.7);
  regs.satpMode = world.satp.mode;
  regs.satpAsid = random.below(3);
  regs.satpPpn = Number(world.satp.ppn);
  regs.vsatpMode = world.vsatp.mode;
  regs.vsatpAsid = random.below(3);
  regs.vsatpPpn = Number(world.vsatp.ppn);
  regs.hgatpMode = world.hgatp.mode;
  regs.hgatpVmid = random.below(2);
  regs.hgatpPpn = world.hgatp.mode === 0 ? 0 : Number(world.hgatp.ppn);
  regs.sum = random.chance(0.5);
  regs.mxr = random.chance(0.4);
  regs.vsum = random.chance(0.5);
  regs.vmxr = random.chance(0.4);
  regs.mprv = regs.priv === PRIV_M && random.chance(0.7);
  regs.mpp = random.pick([PRIV_U, PRIV_S, PRIV_M]);
  regs.mpv = random.chance(0.5);
  regs.spvp = random.pick([PRIV_U, PRIV_S]);
  regs.adueHs = random.chance(0.7);
  regs.adueVs = regs.adueHs && random.chance(0.8);
};

/** Whose addresses an access takes: nothing translates, the S-stage, the VS-stage, the G-stage alone. */
export type AddressKind = 'physical' | 'S' | 'VS' | 'G';

/** An address of the world, or near one, or nowhere; 8-byte aligned. */
export const randomAddress = (world: World, random: Rng, kind: AddressKind): bigint => {
  const list =
    kind === 'S'
      ? world.sAddresses
      : kind === 'VS'
        ? world.vsAddresses
        : kind === 'G'
          ? world.gpas
          : [];
  let address =
    list.length > 0 ? random.pick(list) : 0x8000_0000n + BigInt(random.below(WORLD_PAGES) * 4096);
  if (random.chance(0.06)) address ^= 1n << BigInt(12 + random.below(52));
  if (random.chance(0.02)) address = random.u64();
  return BigInt.asUintN(64, (address & ~0xfffn) | BigInt(random.below(512) * 8));
};
