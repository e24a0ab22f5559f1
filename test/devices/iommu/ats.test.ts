/**
 * Address translation services: translation requests, page requests and their answers, invalidations of
 * a device's cache. RISC-V IOMMU 1.0, "PCIe ATS translation request handling", "Page Request handling".
 */
import { describe, expect, it } from 'vitest';
import {
  Atc,
  type AtsInvalidation,
  type AtsRequest,
  BusPort,
  createAtsCompletion,
  IommuPort,
  type PageRequest,
} from '#devices';
import { DMA_FAULT, DMA_OK, DMA_WAIT, RAM_BASE } from '#emu';
import {
  atp,
  atsInval,
  atsPrgr,
  type Board,
  boardOf,
  CQCSR,
  D,
  DDTP,
  FREE,
  G,
  iodirDdt,
  iotinvalVma,
  IOVA,
  IPSR,
  LEAF,
  MIDDLE,
  MODE_BARE,
  MODE_OFF,
  PDT,
  PQ,
  PQCSR,
  PQT,
  pscid,
  pte,
  READ,
  ROOT1,
  SECOND,
  TARGET,
  V,
  WRITE,
} from './support.ts';

const EN_ATS = 2n;
const EN_PRI = 4n;
const T2GPA = 8n;
const PDTV = 32n;
const PRPR = 64n;

/** Device 1, with ATS, over Sv39 tables with one page at IOVA. */
const boardWith = (tc = 1n | EN_ATS | EN_PRI, flags = WRITE): Board => {
  const b = boardOf();
  b.device(1, { tc, ta: pscid(5), fsc: atp(8, ROOT1) });
  b.put(ROOT1 + 8, pte(MIDDLE, V));
  b.put(MIDDLE, pte(LEAF, V));
  b.put(LEAF, pte(TARGET, flags));
  return b;
};

const ask = (b: Board, request: Partial<AtsRequest> = {}) => {
  const into = createAtsCompletion();
  const outcome = b.iommu.atsRequest(
    {
      deviceId: 1,
      processId: -1,
      iova: IOVA,
      supervisor: false,
      exec: false,
      noWrite: false,
      ...request,
    },
    into,
  );
  expect(outcome).toBe(DMA_OK);
  return into;
};

describe('translation requests', () => {
  it('are granted what the tables say, for as much as the leaf is long', () => {
    const b = boardWith();
    expect(ask(b)).toMatchObject({
      status: 0,
      iova: IOVA,
      lenBytes: 4096,
      translated: TARGET,
      read: true,
      write: true,
      exec: false,
      global: false,
    });
    b.put(MIDDLE, pte(TARGET, WRITE));
    b.command(iotinvalVma());
    expect(ask(b, { iova: IOVA + 0x12_3000 })).toMatchObject({
      iova: IOVA,
      lenBytes: 2 << 20,
      translated: TARGET,
    });
  });

  it('read-only pages are granted for reading; a device that will not write leaves D alone', () => {
    const b = boardWith(1n | EN_ATS | 256n, READ);
    expect(ask(b)).toMatchObject({ read: true, write: false });
    b.put(LEAF, pte(TARGET, WRITE & ~D));
    b.command(iotinvalVma());
    expect(ask(b, { noWrite: true })).toMatchObject({ read: true, write: false });
    expect(b.get(LEAF) & 128n).toBe(0n);
    expect(ask(b)).toMatchObject({ read: true, write: true });
    expect(b.get(LEAF) & 128n).toBe(128n);
  });

  it('a page that is not there is success without permissions, and no fault', () => {
    const b = boardWith();
    expect(ask(b, { iova: IOVA + 0x1000 })).toMatchObject({ status: 0, read: false, write: false });
    expect(b.faults()).toEqual([]);
  });

  it('no context, or none with ATS, is an unsupported request, and a fault', () => {
    const b = boardWith(1n);
    expect(ask(b).status).toBe(1);
    expect(ask(b, { deviceId: 3 }).status).toBe(1);
    expect(b.faults()).toMatchObject([
      { cause: 260, ttyp: 8 },
      { cause: 258, ttyp: 8 },
    ]);
    b.set(DDTP, MODE_BARE);
    expect(ask(b).status).toBe(1);
    b.set(DDTP, MODE_OFF);
    expect(ask(b).status).toBe(1);
    expect(b.faults()).toMatchObject([{ cause: 260 }, { cause: 256 }]);
  });

  it('tables outside memory are a completer abort, and a fault', () => {
    const b = boardWith();
    b.put(MIDDLE, pte(0x1000, V));
    expect(ask(b).status).toBe(2);
    expect(b.faults()).toMatchObject([{ cause: 5, ttyp: 8 }]);
  });

  it('Global is told of requests with a process_id only', () => {
    const b = boardWith(1n | EN_ATS, WRITE | G);
    expect(ask(b).global).toBe(false);
    b.device(1, { tc: 1n | EN_ATS | PDTV, fsc: atp(1, PDT) });
    b.put(PDT + 3 * 16, 1n | pscid(5));
    b.put(PDT + 3 * 16 + 8, atp(8, ROOT1));
    b.command(iodirDdt(), iotinvalVma());
    expect(ask(b, { processId: 3 }).global).toBe(true);
  });

  it('with T2GPA the guest physical address is given, and translated when it is used', () => {
    const b = boardWith();
    const gpa = 0x8000_0000 - 2 ** 30;
    b.device(1, {
      tc: 1n | EN_ATS | T2GPA,
      iohgatp: atp(8, SECOND, 9),
      ta: pscid(5),
      fsc: atp(8, SECOND + 0x1000 * 16),
    });
    const root = SECOND + 0x1000 * 16;
    b.put(SECOND + 8, pte(RAM_BASE, WRITE)); // 1 GiB at 1 GiB is RAM
    b.put(SECOND + 16, pte(RAM_BASE, WRITE)); // and RAM is where it is
    b.put(root + 8, pte(gpa, WRITE));
    expect(ask(b)).toMatchObject({ translated: gpa, lenBytes: 2 ** 30 });
    expect(b.iommu.translated(1, -1, gpa + 0x1234, true)).toBe(RAM_BASE + 0x1234);
    expect(b.iommu.translated(1, -1, 7 * 2 ** 30, true)).toBe(DMA_FAULT);
    expect(b.faults()).toMatchObject([{ cause: 23, ttyp: 7, iotval2: 7n << 30n }]);
  });

  it('without T2GPA a translated request goes where it says: ATS is trust in the device', () => {
    const b = boardWith();
    expect(b.iommu.translated(1, -1, RAM_BASE + 0x5678, true)).toBe(RAM_BASE + 0x5678);
    b.device(1, { tc: 1n });
    expect(b.iommu.translated(1, -1, RAM_BASE, true)).toBe(RAM_BASE);
    b.command(iodirDdt(1));
    expect(b.iommu.translated(1, -1, RAM_BASE, true)).toBe(DMA_FAULT);
  });
});

describe('page requests', () => {
  const answers: number[][] = [];
  const listen = (b: Board): void => {
    answers.length = 0;
    b.iommu.setAtsDevice(1, {
      invalidate: () => true,
      pageGroupResponse: (processId, group, code) => answers.push([processId, group, code]),
    });
  };
  const request = (b: Board, r: Partial<PageRequest> = {}): void => {
    const sent = b.iommu.pageRequest({
      deviceId: 1,
      processId: 0x1_2345,
      supervisor: false,
      exec: true,
      read: true,
      write: true,
      last: true,
      group: 0x155,
      iova: 0x12_3456_7000,
      ...r,
    });
    expect(sent).toBe(DMA_OK);
  };

  it('go into the queue as records: ids, rights, group, address', () => {
    const b = boardWith();
    listen(b);
    request(b);
    expect(b.reg(PQT)).toBe(1);
    expect(b.get(PQ)).toBe((0x1_2345n << 12n) | (1n << 32n) | (1n << 34n) | (1n << 40n));
    expect(b.get(PQ + 8)).toBe(0x12_3456_7000n | 7n | (0x155n << 3n));
    expect([b.reg(IPSR), b.lines[3]?.level, b.lines[0]?.level]).toEqual([8, false, true]);
    expect(answers).toEqual([]);
    b.command(atsPrgr(1, 0x1_2345, 0x155, 1));
    expect(answers).toEqual([[0x1_2345, 0x155, 1]]);
  });

  for (const { fact, prepare, code, withProcess, cause } of [
    {
      fact: 'Off',
      prepare: (b: Board) => b.set(DDTP, MODE_OFF),
      code: 15,
      withProcess: true,
      cause: 256,
    },
    {
      fact: 'Bare',
      prepare: (b: Board) => b.set(DDTP, MODE_BARE),
      code: 1,
      withProcess: false,
      cause: 260,
    },
    {
      fact: 'no valid context',
      prepare: (b: Board) => b.device(1, { tc: 0n }),
      code: 15,
      withProcess: true,
      cause: 258,
    },
    {
      fact: 'EN_PRI is 0',
      prepare: (b: Board) => b.device(1, { tc: 1n | EN_ATS }),
      code: 1,
      withProcess: false,
      cause: 260,
    },
    {
      fact: 'the queue is off',
      prepare: (b: Board) => b.set(PQCSR, 0),
      code: 15,
      withProcess: true,
      cause: 0,
    },
  ])
    it(`${fact}: answered by the IOMMU with code ${code}${cause > 0 ? `, fault ${cause}` : ''}`, () => {
      const b = boardWith();
      listen(b);
      prepare(b);
      request(b);
      request(b, { last: false });
      request(b, { read: false, write: false }); // a stop marker
      expect(answers).toEqual([[withProcess ? 0x1_2345 : -1, 0x155, code]]);
      const faults = b.faults();
      expect(faults.length).toBe(cause > 0 ? 3 : 0);
      for (const fault of faults) expect(fault).toMatchObject({ cause, ttyp: 9, iotval: 4n });
    });

  it('a full queue is answered with success, so that the device asks again; PRPR wants the process_id', () => {
    const b = boardWith(1n | EN_ATS | EN_PRI | PRPR);
    listen(b);
    for (let i = 0; i < 255; i++) request(b, { group: i });
    expect(answers).toEqual([]);
    request(b);
    expect(answers).toEqual([[0x1_2345, 0x155, 0]]);
    expect(b.reg(PQCSR) & (1 << 9)).not.toBe(0);
    expect(b.faults()).toEqual([]);
  });
});

describe('ATS.INVAL', () => {
  const told = (payload: bigint, pid?: number): AtsInvalidation[] => {
    const b = boardWith();
    const got: AtsInvalidation[] = [];
    b.iommu.setAtsDevice(1, {
      invalidate: (what) => got.push(what) > 0,
      pageGroupResponse: () => {},
    });
    b.command(atsInval(1, pid, payload));
    expect(b.reg(CQCSR)).toBe(0x1_0003);
    return got;
  };

  it('one page; with S the lowest zero above bit 12 says how many', () => {
    expect(told(0x7000n)).toEqual([{ processId: -1, iova: 0x7000, lenBytes: 4096, global: false }]);
    expect(told(0x8800n, 9)).toEqual([
      { processId: 9, iova: 0x8000, lenBytes: 8192, global: false },
    ]);
    expect(told(0x20_3801n)).toEqual([
      { processId: -1, iova: 0x20_0000, lenBytes: 0x8000, global: true },
    ]);
    expect(told(0x7fff_ffff_ffff_f800n)).toMatchObject([{ iova: 0, lenBytes: 2 ** 64 }]);
  });
});

describe('a device with a cache of translations', () => {
  const plug = (b: Board, pageRequests = true) => {
    const atc = new Atc();
    const port = new IommuPort({
      iommu: b.iommu,
      deviceId: 1,
      memory: new BusPort(b.memory),
      atc,
      pageRequests,
    });
    return { atc, port };
  };
  const bytes = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);

  it('uses what it was granted until it is told to forget it, whatever the IOMMU knows', () => {
    const b = boardWith();
    const { atc, port } = plug(b);
    expect(port.write(IOVA, bytes, 0, 8)).toBe(DMA_OK);
    b.put(LEAF, 0n);
    b.command(iotinvalVma());
    expect(port.write(IOVA + 8, bytes, 0, 8)).toBe(DMA_OK);
    expect(b.get(TARGET + 8)).toBe(0x0807_0605_0403_0201n);
    expect([atc.hits > 0, b.faults()]).toEqual([true, []]);
    b.command(atsInval(1, undefined, BigInt(IOVA)));
    expect(port.write(IOVA + 16, bytes, 0, 8)).toBe(DMA_WAIT); // it asks for the page
    expect(b.reg(PQT)).toBe(1);
  });

  it('a page that was asked for is there after the answer; a refused one is a fault', () => {
    const b = boardWith();
    const { port } = plug(b);
    let ready = 0;
    port.onReady(() => ready++);
    b.put(LEAF, 0n);
    expect(port.write(IOVA, bytes, 0, 8)).toBe(DMA_WAIT);
    expect(port.write(IOVA, bytes, 0, 8)).toBe(DMA_WAIT);
    expect(b.reg(PQT)).toBe(1); // asked once
    b.put(LEAF, pte(TARGET, WRITE));
    b.command(atsPrgr(1, 0, 0, 0));
    expect([ready, port.write(IOVA, bytes, 0, 8)]).toEqual([1, DMA_OK]);

    expect(port.write(IOVA + 0x1000, bytes, 0, 8)).toBe(DMA_WAIT);
    b.command(atsPrgr(1, 0, 0, 1));
    expect([ready, port.write(IOVA + 0x1000, bytes, 0, 8)]).toEqual([2, DMA_FAULT]);
    expect(port.write(IOVA + 0x1000, bytes, 0, 8)).toBe(DMA_WAIT); // and asks again
  });

  it('without page requests what is not granted is a fault', () => {
    const b = boardWith();
    expect(plug(b, false).port.write(IOVA + 0x1000, bytes, 0, 8)).toBe(DMA_FAULT);
    expect(b.reg(PQT)).toBe(0);
  });

  it('one that the IOMMU answers itself: the access is a fault at once', () => {
    const b = boardWith();
    b.set(PQCSR, 0);
    expect(plug(b).port.write(IOVA + 0x1000, bytes, 0, 8)).toBe(DMA_FAULT);
  });

  it('processes have entries of their own', () => {
    const b = boardOf();
    b.device(1, { tc: 1n | EN_ATS | PDTV, fsc: atp(1, PDT) });
    for (const pid of [3, 4]) {
      b.put(PDT + pid * 16, 1n | pscid(pid));
      b.put(PDT + pid * 16 + 8, atp(8, FREE + pid * 0x3000));
      b.put(FREE + pid * 0x3000 + 8, pte(RAM_BASE + (pid - 3) * 2 ** 30, WRITE));
    }
    const { port } = plug(b);
    port.processId = 3;
    expect(port.read(IOVA, new Uint8Array(8), 0, 8)).toBe(DMA_OK);
    port.processId = 4;
    expect(port.read(IOVA, new Uint8Array(8), 0, 8)).toBe(DMA_FAULT); // granted, and no RAM there
  });
});
