/** Who may use which page: user and supervisor requests, ENS and SUM. RISC-V IOMMU 1.0, "Process-context fields". */
import { describe, expect, it } from 'vitest';
import { DMA_FAULT, PTE_R, PTE_W, PTE_X, RAM_BASE } from '#emu';
import { A, atp, type Board, boardOf, D, FREE, pscid, pte, R, U, V, W, X } from './support.ts';

const PDT = FREE + 0x8000;
const IOVA = 0x4000_0000;
const TARGET = RAM_BASE + 0x20_0000;
const ALL = V | R | W | X | A | D;
const ENS = 2n;
const SUM = 4n;
const PDTV = 32n;
const DPE = 512n;

/** Device 1 with process 3: one page that is the user's, and behind it one that is not. */
const boardWith = (ta: bigint, tc = PDTV): Board => {
  const b = boardOf();
  b.device(1, { tc: 1n | tc, fsc: atp(1, PDT) });
  b.put(PDT + 3 * 16, 1n | ta | pscid(5));
  b.put(PDT + 3 * 16 + 8, atp(8, FREE));
  b.put(FREE + 8, pte(FREE + 0x1000, V));
  b.put(FREE + 0x1000, pte(FREE + 0x2000, V));
  b.put(FREE + 0x2000, pte(TARGET, ALL | U));
  b.put(FREE + 0x2008, pte(TARGET + 0x1000, ALL));
  return b;
};

const NEEDS = { read: PTE_R, write: PTE_W, execute: PTE_X } as const;
const TTYP = { read: 2, write: 3, execute: 1 } as const;
const PAGE_FAULT = { read: 13, write: 15, execute: 12 } as const;

describe('pages of the user and of the supervisor', () => {
  for (const { who, ta, user, own } of [
    { who: 'a user', ta: 0n, user: 'all', own: 'none' },
    { who: 'a supervisor without SUM', ta: ENS, user: 'none', own: 'all' },
    { who: 'a supervisor with SUM', ta: ENS | SUM, user: 'data', own: 'all' },
  ])
    it(`${who} uses ${user} of a user's page, ${own} of the other`, () => {
      const supervisor = ta !== 0n;
      for (const how of ['read', 'write', 'execute'] as const)
        for (const [offset, may] of [
          [0, user],
          [0x1000, own],
        ] as const) {
          const b = boardWith(ta);
          const allowed = may === 'all' || (may === 'data' && how !== 'execute');
          const request = (): number =>
            b.iommu.request(1, 3, supervisor, IOVA + offset, NEEDS[how], TTYP[how]);
          // Once by the tables, once by the IOTLB.
          const want = allowed ? TARGET + offset : DMA_FAULT;
          expect([how, request(), request()]).toEqual([how, want, want]);
          expect(b.faults()).toMatchObject(
            allowed ? [] : Array(2).fill({ cause: PAGE_FAULT[how], pid: 3, priv: supervisor }),
          );
        }
    });

  it('an entry made for the one is not used for the other', () => {
    const b = boardWith(ENS);
    expect(b.iommu.request(1, 3, false, IOVA, PTE_R, 2)).toBe(TARGET);
    expect(b.iommu.request(1, 3, true, IOVA, PTE_R, 2)).toBe(DMA_FAULT);
    expect(b.iommu.request(1, 3, true, IOVA + 0x1000, PTE_R, 2)).toBe(TARGET + 0x1000);
    expect(b.iommu.request(1, 3, false, IOVA + 0x1000, PTE_R, 2)).toBe(DMA_FAULT);
  });

  it('without ENS there are no supervisor requests: cause 260', () => {
    const b = boardWith(SUM);
    expect(b.iommu.request(1, 3, true, IOVA, PTE_R, 2)).toBe(DMA_FAULT);
    expect(b.faults()).toMatchObject([{ cause: 260, pid: 3, priv: true }]);
  });

  it('without a process_id it is process 0 with DPE, and no translation without', () => {
    const b = boardWith(0n, PDTV | DPE);
    b.put(PDT, 1n | pscid(5));
    b.put(PDT + 8, atp(8, FREE));
    expect(b.iommu.spa(1, -1, IOVA, false)).toBe(TARGET);
    expect(boardWith(0n).iommu.spa(1, -1, IOVA, false)).toBe(IOVA);
  });
});
