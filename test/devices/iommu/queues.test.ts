/** Registers, rings and interrupts of the IOMMU, as RISC-V IOMMU 1.0 has them. */
import { describe, expect, it } from 'vitest';
import { ATS_TIMEOUT } from '#devices';
import { DMA_FAULT } from '#emu';
import { runTo } from '../support/wires.ts';
import {
  atsInval,
  atsPrgr,
  boardOf,
  CAPABILITIES,
  CQ,
  CQB,
  CQCSR,
  CQH,
  CQT,
  DDTP,
  FCTL,
  FQB,
  FQCSR,
  FQT,
  FREE,
  ICVEC,
  IPSR,
  iodirDdt,
  iodirPdt,
  iofence,
  iotinvalGvma,
  iotinvalVma,
  MODE_1LVL,
  MODE_BARE,
  MODE_OFF,
  ppnOf,
} from './support.ts';

const ON = 0x1_0000;
const MF = 1 << 8;
const CMD_TO = 1 << 9;
const OVERFLOW = 1 << 9;
const CMD_ILL = 1 << 10;
const FENCE_W_IP = 1 << 11;
const MSI_TABLE = 0x300;
/** Not RAM. */
const NOWHERE = 0x1000;

describe('registers — "Memory-mapped register interface"', () => {
  it('capabilities: version 1.0, Sv39 to Sv57 in both stages, and what else there is', () => {
    const lo = boardOf().reg(CAPABILITIES);
    expect(lo & 0xff).toBe(0x10);
    expect((lo >>> 9) & 7).toBe(7);
    expect((lo >>> 17) & 7).toBe(7);
    const hi = boardOf().reg(CAPABILITIES + 4);
    expect([hi & 0x3f, (hi >>> 6) & 7]).toEqual([56, 7]);
    // MSI_FLAT, MSI_MRIF, AMO_MRIF make contexts 64 bytes long.
    expect((lo >>> 21) & 7).toBe(7);
    expect((boardOf({ extendedFormat: false }).reg(CAPABILITIES) >>> 21) & 7).toBe(0);
  });

  it('capabilities and heads of what the IOMMU reads are read-only; reserved offsets are 0', () => {
    const board = boardOf();
    const before = board.reg(CAPABILITIES);
    for (const offset of [CAPABILITIES, CQH, FQT, 0x0c, 0x280, 0x400, 0xffc])
      board.set(offset, 0xffff_ffff);
    expect(board.reg(CAPABILITIES)).toBe(before);
    for (const offset of [CQH, FQT, 0x0c, 0x280, 0x400, 0xffc]) expect(board.reg(offset)).toBe(0);
  });

  it('accesses that are not of an aligned word read 0 and write nothing', () => {
    const { iommu, set, reg } = boardOf();
    iommu.write(DDTP, 2, 0);
    iommu.write(DDTP + 1, 4, 0);
    expect(reg(DDTP) & 15).toBe(MODE_1LVL);
    expect([iommu.read(DDTP, 1), iommu.read(DDTP + 2, 4)]).toEqual([0, 0]);
    set(DDTP, MODE_OFF);
    expect(reg(DDTP)).toBe(0);
  });

  it('ddtp.iommu_mode keeps its value where a mode is written that does not exist', () => {
    const board = boardOf();
    for (const mode of [5, 9, 14, 15]) {
      board.set(DDTP, mode);
      expect(board.reg(DDTP) & 15).toBe(MODE_1LVL);
    }
  });

  it('LOG2SZ-1 is at most 12; an index has as many bits as the ring has entries', () => {
    const board = boardOf();
    board.set(CQCSR, 0);
    board.set(CQB, 0x1f);
    expect(board.reg(CQB) & 0x1f).toBe(12);
    board.set(CQT, 0xffff_ffff);
    expect(board.reg(CQT)).toBe(0x1fff);
    board.set(CQB, 1);
    expect(board.reg(CQT)).toBe(3);
  });

  it('the base of a ring that is on cannot be changed', () => {
    const board = boardOf();
    const before = board.reg(CQB);
    board.set64(CQB, 0n);
    expect(board.reg(CQB)).toBe(before);
  });
});

describe('ddtp.iommu_mode — "Process to translate an IOVA" steps 1 and 2', () => {
  it('Off: nothing is let through, cause 256', () => {
    const board = boardOf();
    board.set(DDTP, MODE_OFF);
    expect(board.iommu.spa(1, -1, FREE, false)).toBe(DMA_FAULT);
    expect(board.faults()).toMatchObject([{ cause: 256, did: 1, ttyp: 2, iotval: BigInt(FREE) }]);
  });

  it('Bare: everything as it is; translated requests are disallowed, cause 260', () => {
    const board = boardOf();
    board.set(DDTP, MODE_BARE);
    expect(board.iommu.spa(1, -1, 0x1234, true)).toBe(0x1234);
    expect(board.iommu.translated(1, -1, 0x1234, true)).toBe(DMA_FAULT);
    expect(board.faults()).toMatchObject([{ cause: 260, ttyp: 7 }]);
  });
});

describe('the command queue', () => {
  it('carries out commands when the tail is written, and a fence stores its word', () => {
    const board = boardOf();
    board.command(iotinvalVma(), iofence({ pa: FREE + 4, data: 0x1234_5678 }));
    expect(board.get(FREE) >> 32n).toBe(0x1234_5678n);
    expect([board.reg(CQH), board.reg(CQT)]).toEqual([2, 2]);
    expect(board.reg(IPSR)).toBe(0);
  });

  it('switching it on makes cqh 0; switching it off stops it', () => {
    const board = boardOf();
    board.command(iotinvalVma());
    board.set(CQCSR, 0);
    expect(board.reg(CQCSR)).toBe(0);
    board.command(iotinvalVma());
    expect([board.reg(CQH), board.reg(CQT)]).toEqual([1, 2]);
    board.set(CQT, 0);
    board.set(CQCSR, 1);
    expect([board.reg(CQH), board.reg(CQCSR)]).toEqual([0, ON | 1]);
  });

  const good = {
    'IOTINVAL.VMA': iotinvalVma({ gscid: 1, pscid: 2, iova: 0x5000 }),
    'IOTINVAL.GVMA': iotinvalGvma({ gscid: 1, gpa: 0x5000 }),
    'IOFENCE.C': iofence(),
    'IODIR.INVAL_DDT': iodirDdt(5),
    'IODIR.INVAL_PDT': iodirPdt(5, 6),
    'ATS.PRGR': atsPrgr(5, 6, 7, 0),
  };
  for (const [name, command] of Object.entries(good))
    it(`${name}: every reserved bit makes it illegal, and no other`, () => {
      const reserved: Record<string, number[]> = {
        'IOTINVAL.VMA': [8, 9, 11, ...range(34, 43), ...range(60, 63), ...range(64, 73), 126, 127],
        'IOTINVAL.GVMA': [8, 9, 11, 32, ...range(34, 43), ...range(60, 73), 126, 127],
        'IOFENCE.C': [7, 8, 9, ...range(14, 31), 126, 127],
        'IODIR.INVAL_DDT': [8, 9, ...range(10, 32), ...range(34, 39), ...range(64, 127)],
        'IODIR.INVAL_PDT': [8, 9, 10, 11, 32, 33, ...range(34, 39), ...range(64, 127)],
        'ATS.PRGR': [8, 9, 10, 11, ...range(34, 39)],
      };
      for (let bit = 7; bit < 128; bit++) {
        const board = boardOf();
        const flipped = (command[0] | (command[1] << 64n)) ^ (1n << BigInt(bit));
        // The fence's address is a place where there is RAM.
        if (name === 'IOFENCE.C' && bit === 10) continue;
        if (name === 'IOTINVAL.VMA' && bit === 7) continue; // it is the other command
        if (name.startsWith('IODIR') && bit === 7) continue;
        if (name === 'IOTINVAL.GVMA' && bit === 7) continue;
        if (name === 'ATS.PRGR' && bit === 7) continue; // an invalidation that nobody answers
        board.command([flipped & (2n ** 64n - 1n), flipped >> 64n]);
        const illegal = (board.reg(CQCSR) & CMD_ILL) !== 0;
        expect({ bit, illegal }).toEqual({ bit, illegal: reserved[name]!.includes(bit) });
      }
    });

  it('opcodes and functions that do not exist are illegal; cqh stays at the command', () => {
    for (const word of [
      0n,
      5n,
      63n,
      64n,
      127n,
      1n | (2n << 7n),
      2n | (1n << 7n),
      4n | (2n << 7n),
    ]) {
      const board = boardOf();
      board.command(iotinvalVma(), [word, 0n], iofence({ pa: FREE, data: 1 }));
      expect(board.reg(CQCSR)).toBe(ON | CMD_ILL | 3);
      expect(board.reg(CQH)).toBe(1);
      expect(board.get(FREE)).toBe(0n);
      expect(board.reg(IPSR)).toBe(1);
      // The driver corrects it and goes on.
      board.put(CQ + 16, 2n);
      board.set(CQCSR, CMD_ILL | 3);
      expect([board.reg(CQH), board.get(FREE)]).toEqual([3, 1n]);
    }
  });

  it('cqmf: commands that cannot be read, and words that cannot be stored', () => {
    const board = boardOf();
    board.command(iofence({ pa: NOWHERE, data: 1 }));
    expect(board.reg(CQCSR)).toBe(ON | MF | 3);
    const other = boardOf();
    other.set(CQCSR, 0);
    other.set64(CQB, (ppnOf(NOWHERE) << 10n) | 7n);
    other.set(CQCSR, 1);
    other.set(CQT, 1);
    expect(other.reg(CQCSR)).toBe(ON | MF | 1);
  });

  it('a fence with WSI sets fence_w_ip, which interrupts until it is cleared', () => {
    const board = boardOf();
    board.command(iofence({ wsi: true }));
    expect(board.reg(CQCSR)).toBe(ON | FENCE_W_IP | 3);
    expect([board.reg(IPSR), board.lines[0]!.level]).toEqual([1, true]);
    board.set(IPSR, 1); // the reason is still there
    expect([board.reg(IPSR), board.lines[0]!.level]).toEqual([1, true]);
    board.set(CQCSR, FENCE_W_IP | 3);
    board.set(IPSR, 1);
    expect([board.reg(IPSR), board.lines[0]!.level]).toEqual([0, false]);
  });

  it('a fence with WSI is illegal while interrupts are messages', () => {
    const board = boardOf();
    board.set(FCTL, 0);
    board.command(iofence({ wsi: true }));
    expect(board.reg(CQCSR)).toBe(ON | CMD_ILL | 3);
  });

  it('a fence waits for a device that owes an answer; without one in time cmd_to is set', () => {
    const board = boardOf();
    let tag = 0;
    board.iommu.setAtsDevice(7, {
      invalidate: (_what, number) => {
        tag = number;
        return false;
      },
      pageGroupResponse: () => {},
    });
    board.command(atsInval(7, undefined, 0x5000n), iofence({ pa: FREE, data: 1 }));
    expect([board.reg(CQH), board.get(FREE)]).toEqual([1, 0n]);
    board.iommu.invalidationDone(7, tag);
    expect([board.reg(CQH), board.get(FREE)]).toEqual([2, 1n]);

    board.command(atsInval(7, undefined, 0x5000n), iofence({ pa: FREE, data: 2 }));
    runTo(board.clock, ATS_TIMEOUT - 1);
    expect(board.reg(CQCSR)).toBe(ON | 3);
    runTo(board.clock, ATS_TIMEOUT);
    expect([board.reg(CQH), board.reg(CQCSR), board.get(FREE)]).toEqual([3, ON | CMD_TO | 3, 1n]);
    // The fence is done again when the error is cleared.
    board.set(CQCSR, CMD_TO | 3);
    expect([board.reg(CQH), board.get(FREE)]).toEqual([4, 2n]);
  });
});

const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i);

describe('the fault queue', () => {
  it('a record: cause, type, device, process, privilege, address', () => {
    const board = boardOf();
    board.device(3, { tc: 1n | (1n << 5n), fsc: 0n });
    board.iommu.request(3, 0x1_2345, true, 0x1234_5678, 4, 3);
    board.iommu.request(9, 0xa_bcde, true, 0x1234_5678, 4, 3);
    expect(board.faults()).toEqual([
      { cause: 258, pid: 0xa_bcde, priv: true, ttyp: 3, did: 9, iotval: 0x1234_5678n, iotval2: 0n },
    ]);
  });

  it('full: fqof, and no more records until it is cleared', () => {
    const board = boardOf();
    for (let i = 0; i < 130; i++) board.iommu.spa(5, -1, i * 4096, false);
    expect(board.reg(FQCSR)).toBe(ON | OVERFLOW | 3);
    expect(board.reg(FQT)).toBe(127);
    expect(board.faults().length).toBe(127);
    board.iommu.spa(5, -1, 0, false);
    expect(board.faults()).toEqual([]);
    board.set(FQCSR, OVERFLOW | 3);
    board.iommu.spa(5, -1, 0x7000, false);
    expect(board.faults()).toMatchObject([{ iotval: 0x7000n }]);
  });

  it('a ring that cannot be stored to: fqmf', () => {
    const board = boardOf();
    board.set(FQCSR, 0);
    board.set64(FQB, (ppnOf(NOWHERE) << 10n) | 6n);
    board.set(FQCSR, 3);
    board.iommu.spa(5, -1, 0, false);
    expect([board.reg(FQCSR), board.reg(FQT), board.reg(IPSR)]).toEqual([ON | MF | 3, 0, 2]);
  });

  it('off: faults are not reported, and go by', () => {
    const board = boardOf();
    board.set(FQCSR, 0);
    expect(board.iommu.spa(5, -1, 0, false)).toBe(DMA_FAULT);
    expect([board.reg(FQT), board.reg(IPSR)]).toEqual([0, 0]);
  });

  it('each record interrupts, through the wire that icvec says, until ipsr is cleared', () => {
    const board = boardOf();
    board.set(ICVEC, 0x20);
    board.iommu.spa(5, -1, 0, false);
    expect([board.reg(IPSR), board.lines.map(({ level }) => level)]).toEqual([
      2,
      [false, false, true, false],
    ]);
    board.set(IPSR, 2);
    expect(board.lines[2]!.level).toBe(false);
    board.iommu.spa(5, -1, 0, false);
    expect(board.lines[2]!.edges).toEqual(['up', 'down', 'up']);
  });

  it('DTF keeps faults of translation out of the queue, not those of the directory', () => {
    const board = boardOf();
    board.device(3, { tc: 1n | (1n << 4n) });
    board.iommu.request(3, 1, false, 0, 2, 2); // a process_id without a directory: 260
    expect(board.faults()).toEqual([]);
    board.device(4, { tc: 1n | (1n << 4n) | (1n << 15n) });
    board.iommu.spa(4, -1, 0, false);
    expect(board.faults()).toMatchObject([{ cause: 259 }]);
  });
});

describe('interrupts by message — "MSI configuration table"', () => {
  const board = () => {
    const b = boardOf();
    b.set(FCTL, 0);
    b.set(ICVEC, 0x50);
    const entry = MSI_TABLE + 5 * 16;
    b.set64(entry, BigInt(FREE + 0x10) | 3n); // bits 1..0 are fixed
    b.set(entry + 8, 0xcafe);
    return { ...b, entry };
  };

  it('a bit that becomes pending stores the data of its vector', () => {
    const b = board();
    expect(b.reg(b.entry)).toBe((FREE + 0x10) >>> 0);
    b.iommu.spa(5, -1, 0, false);
    expect(b.get(FREE + 0x10)).toBe(0xcafen);
    expect(b.lines.every(({ level }) => !level)).toBe(true);
    b.put(FREE + 0x10, 0n);
    b.iommu.spa(5, -1, 0, false); // pending already
    expect(b.get(FREE + 0x10)).toBe(0n);
    b.set(IPSR, 2);
    b.iommu.spa(5, -1, 0, false);
    expect(b.get(FREE + 0x10)).toBe(0xcafen);
  });

  it('of a masked vector it is sent when the mask goes', () => {
    const b = board();
    b.set(b.entry + 12, 1);
    b.iommu.spa(5, -1, 0, false);
    expect(b.get(FREE + 0x10)).toBe(0n);
    b.set(b.entry + 12, 0);
    expect(b.get(FREE + 0x10)).toBe(0xcafen);
  });

  it('one that cannot be stored is a fault with cause 273 and no transaction', () => {
    const b = board();
    b.set64(b.entry, BigInt(NOWHERE));
    b.iommu.spa(5, -1, 0, false);
    expect(b.faults()).toMatchObject([
      { cause: 258 },
      { cause: 273, ttyp: 0, did: 0, iotval: BigInt(NOWHERE) },
    ]);
  });

  it('the table is not there while interrupts are wires', () => {
    const b = boardOf();
    b.set(MSI_TABLE, 0x1000);
    expect(b.reg(MSI_TABLE)).toBe(0);
  });
});
