/** Pins, references, fixed buffers and pipes of the random driver: what holds pages, and what it must see (I4). */
import { PAGE_SIZE } from '#emu';
import {
  createPipe,
  fixedBufferRead,
  fixedBufferWrite,
  ibUmemGet,
  ibUmemRelease,
  ioUringRegisterBuffer,
  ioUringUnregisterBuffer,
  leafLevel,
  leafPage,
  leafWord,
  type Path,
  pipeRead,
  ptepGet,
  ptePresent,
  spliceFileToPipe,
  splicePipeToFile,
  tee,
  umemPageAt,
  vfioDmaMap,
  vfioDmaUnmap,
  vfioIovaToPage,
  vmspliceToPipe,
  walkLeaf,
} from '#mm';
import { folioOf, folioPut } from '../../../mm/folio/folio.ts';
import { getUserPagesFast, pinUserPagesFast } from '../../../mm/gup/fast.ts';
import { FOLL_LONGTERM, FOLL_WRITE } from '../../../mm/gup/flags.ts';
import * as slow from '../../../mm/gup/slow.ts';
import { unpinUserPagesDirtyLock } from '../../../mm/gup/unpin.ts';
import { noteRelease } from '../../../mm/provenance/provenance.ts';
import type { RandomDriver } from './driver.ts';
import { type History, UNKNOWN } from './history.ts';
import { brokenWith, type Held, type Region, WORD, type Word, wordHva } from './model.ts';

const MAX_HELD = 8;
const MAX_PIPES = 3;

/** Watched words of `n` pages from page `first` of a region, with their epochs now. */
const wordsOf = (region: Region, first: number, n: number): Held['words'] =>
  Array.from({ length: n }, (_, i) => {
    const page = first + i;
    const word = page % region.stride === 0 ? region.words[page / region.stride] : undefined;
    return word === undefined ? null : { word, history: word.history, epoch: word.history.epoch };
  });

/** Pins break COW, of the pages taken for certain: read-only long-term ones as well (2.5). */
const breakCow = (driver: RandomDriver, region: Region, words: Held['words']) => {
  const certain = region.unit === 1;
  const own = words.flatMap((word, i) => (word === null ? [] : [{ history: word.history, i }]));
  const end = driver.breakCow(
    brokenWith(
      region,
      own.map(({ history }) => history),
    ),
  );
  // How many pages of the first were taken, as a number of their watched words.
  return (n: number): void => end(certain ? own.filter(({ i }) => i < n).length : 0);
};

/** Takes pages by a pin or a reference, for a device to use later. */
export const beginHold = (driver: RandomDriver): void => {
  const { random, k } = driver;
  const region = driver.anyRegion();
  if (region === undefined || driver.held.length >= MAX_HELD) return;
  const kind = random.pick(['write', 'write', 'read', 'read', 'get'] as const);
  const first = random.chance(0.4) ? 0 : random.below(region.nrPages);
  const asked = 1 + random.below(Math.min(region.nrPages - first, random.chance(0.1) ? 600 : 8));
  const pages = new Int32Array(asked);
  const words = wordsOf(region, first, asked);
  const { mm } = region.process.p;
  const hva = region.hva + first * PAGE_SIZE;
  const fast = random.chance(0.6);
  const longterm = kind === 'read' || random.chance(0.3) ? FOLL_LONGTERM : 0;
  let path: Path<number>;
  if (kind === 'get')
    path = (fast ? getUserPagesFast : slow.getUserPagesUnlocked)(
      k,
      'gup-test',
      mm,
      hva,
      asked,
      0,
      pages,
    );
  else
    path = (fast ? pinUserPagesFast : slow.pinUserPagesUnlocked)(
      k,
      mm,
      hva,
      asked,
      longterm | (kind === 'write' ? FOLL_WRITE : 0),
      pages,
    );
  const brokeCow = kind === 'get' ? null : breakCow(driver, region, words);
  driver.start(`${fast ? 'fast' : 'slow'} ${kind}`, region.process, path, (n) => {
    brokeCow?.(n);
    if (n > 0) driver.held.push({ pages, n, kind, words, buffer: null, umem: null, dma: null });
  });
};

/** Is what was pinned for a word still its page, for certain? */
const isAttached = ({ history, epoch }: { history: History; epoch: number }): boolean =>
  history.epoch === epoch && history.dropping === 0 && history.lost === null;

/** The page that is mapped for a word, -1: none, or its mapping is changing. */
export const mappedPage = (driver: RandomDriver, word: Word): number => {
  const { region } = word;
  if (region.dead || word.changing > 0) return -1;
  const hva = wordHva(region, region.words.indexOf(word));
  const leaf = walkLeaf(driver.k, region.process.p.mm, hva);
  const pte = ptepGet(driver.k, leafWord(leaf));
  return ptePresent(pte) ? leafPage(pte, leafLevel(leaf), hva) : -1;
};

/**
 * I4: while nothing was unmapped a pinned page is the page that is mapped there, if one is.
 * @throws Error where it is another
 */
const checkMapped = (driver: RandomDriver, page: number, word: Word): void => {
  const mapped = mappedPage(driver, word);
  if (mapped < 0 || mapped === page) return;
  const { region } = word;
  const hva = wordHva(region, region.words.indexOf(word)).toString(16);
  throw new Error(
    `I4 mm ${region.process.id}: page ${page} is pinned for hva ${hva}, where ${mapped} is mapped`,
  );
};

/** A device's transfer through what is held: it must reach what the process has there. */
export const transfer = (driver: RandomDriver, held: Held): void => {
  const { k } = driver;
  if (held.kind === 'get') return;
  for (let i = 0; i < held.n; i++) {
    const word = held.words[i];
    if (word === undefined || word === null) continue;
    const attached = isAttached(word);
    if (attached) checkMapped(driver, held.pages[i]!, word.word);
    const offset = k.memory.pageOffset(held.pages[i]!) + WORD;
    if (held.kind === 'read') {
      if (attached)
        driver.read(
          `device read of page ${held.pages[i]!}`,
          word.history,
          k.memory.i32[offset / 4]!,
          driver.now,
        );
      continue;
    }
    const value = driver.value();
    driver.writesBehind(word.word);
    k.memory.i32[offset / 4] = value;
    word.history.wrote(driver.now, value, !attached, driver.horizon());
  }
};

export const beginTransfer = (driver: RandomDriver): void => {
  if (driver.held.length === 0) return;
  const held = driver.held[driver.random.below(driver.held.length)];
  if (held === undefined) return;
  transfer(driver, held);
  driver.count('transfer');
};

/** Lets go of what is held. */
export const dropHeld = (driver: RandomDriver, i: number): void => {
  const [held] = driver.held.splice(i, 1);
  if (held === undefined) return;
  const { k } = driver;
  if (held.buffer !== null) {
    ioUringUnregisterBuffer(k, held.buffer);
    driver.count('unregister');
  } else if (held.umem !== null) {
    driver.start('deregister', null, ibUmemRelease(k, held.umem));
  } else if (held.dma !== null) {
    const { mm, iova, lenBytes } = held.dma;
    driver.start('dma unmap', null, vfioDmaUnmap(k, mm, iova, lenBytes), (n) => {
      if (n !== lenBytes) throw new Error(`vfioDmaUnmap: ${n} of ${lenBytes} bytes`);
    });
  } else if (held.kind === 'get') {
    noteRelease(k, 'get', held.pages, held.n);
    for (let j = 0; j < held.n; j++) folioPut(k, folioOf(k, held.pages[j]!));
    driver.count('put');
  } else {
    const dirty = held.kind === 'write';
    driver.start('unpin', null, unpinUserPagesDirtyLock(k, held.pages, held.n, dirty));
  }
};

export const beginRelease = (driver: RandomDriver): void => {
  if (driver.held.length > 0) dropHeld(driver, driver.random.below(driver.held.length));
};

/** A fixed buffer: pinned for writing until it is unregistered. */
export const beginRegister = (driver: RandomDriver): void => {
  const { random, k } = driver;
  const region = driver.anyRegion();
  if (region === undefined || driver.held.length >= MAX_HELD) return;
  const first = random.chance(0.4) ? 0 : random.below(region.nrPages);
  const nr = 1 + random.below(Math.min(region.nrPages - first, 6));
  const words = wordsOf(region, first, nr);
  const hva = region.hva + first * PAGE_SIZE;
  const path = ioUringRegisterBuffer(k, region.process.p.mm, hva, nr * PAGE_SIZE);
  const brokeCow = breakCow(driver, region, words);
  driver.start('register', region.process, path, (buffer) => {
    brokeCow(typeof buffer === 'number' ? 0 : nr);
    if (typeof buffer === 'number') return;
    driver.held.push({
      pages: buffer.pages,
      n: nr,
      kind: 'write',
      words,
      buffer,
      umem: null,
      dma: null,
    });
  });
};

/** A memory region of RDMA, or memory that a device has by VFIO: for writing mostly, for long. */
export const beginRegion = (driver: RandomDriver): void => {
  const { random, k } = driver;
  const region = driver.anyRegion();
  if (region === undefined || driver.held.length >= MAX_HELD) return;
  const first = random.chance(0.4) ? 0 : random.below(region.nrPages);
  const n = 1 + random.below(Math.min(region.nrPages - first, random.chance(0.1) ? 600 : 8));
  const kind = random.chance(0.7) ? 'write' : 'read';
  const words = wordsOf(region, first, n);
  const { mm } = region.process.p;
  const hva = region.hva + first * PAGE_SIZE;
  const lenBytes = n * PAGE_SIZE;
  const brokeCow = breakCow(driver, region, words);
  const keep = (pageAt: (i: number) => number, of: Pick<Held, 'umem' | 'dma'>): void => {
    const pages = Int32Array.from({ length: n }, (_, i) => pageAt(i));
    driver.held.push({ pages, n, kind, words, buffer: null, ...of });
  };
  if (random.chance(0.5)) {
    const path = ibUmemGet(k, mm, hva, lenBytes, kind === 'write');
    driver.start('rdma', region.process, path, (umem) => {
      brokeCow(typeof umem === 'number' ? 0 : n);
      if (typeof umem !== 'number')
        keep((i) => umemPageAt(umem, i * PAGE_SIZE), { umem, dma: null });
    });
    return;
  }
  const iova = driver.value() * 4096 * PAGE_SIZE;
  const path = vfioDmaMap(k, mm, hva, iova, lenBytes, kind === 'write');
  driver.start('vfio', region.process, path, (dma) => {
    brokeCow(typeof dma === 'number' ? 0 : n);
    if (typeof dma === 'number') return;
    keep((i) => vfioIovaToPage(k, mm, iova + i * PAGE_SIZE), {
      umem: null,
      dma: { mm, iova, lenBytes },
    });
  });
};

/** A request with a fixed buffer, through its own functions. */
export const beginFixed = (driver: RandomDriver): void => {
  const { k } = driver;
  const held = driver.held.find(({ buffer }) => buffer !== null);
  if (held === undefined || held.buffer === null) return;
  const i = driver.random.below(held.n);
  const word = held.words[i];
  if (word === undefined || word === null) return;
  const attached = isAttached(word);
  const bytes = new Uint8Array(4);
  const view = new DataView(bytes.buffer);
  const offset = i * PAGE_SIZE + WORD;
  if (driver.random.chance(0.5)) {
    const value = driver.value();
    view.setUint32(0, value, true);
    driver.writesBehind(word.word);
    fixedBufferWrite(k, held.buffer, offset, bytes);
    word.history.wrote(driver.now, value, !attached, driver.horizon());
  } else {
    fixedBufferRead(k, held.buffer, offset, bytes);
    if (attached) driver.read('fixed buffer', word.history, view.getUint32(0, true), driver.now);
  }
  driver.count('fixed');
};

/** vmsplice of one watched word. */
export const beginSplice = (driver: RandomDriver): void => {
  const { random, k } = driver;
  const region = driver.anyRegion();
  if (region === undefined || region.words.length === 0) return;
  if (driver.pipes.length < MAX_PIPES && random.chance(0.3))
    driver.pipes.push({ pipe: createPipe(k), expected: [], busy: false });
  const model = driver.pipes[random.below(Math.max(1, driver.pipes.length))];
  if (model === undefined || model.busy) return;
  const i = random.below(region.words.length);
  const [word] = wordsOf(region, i * region.stride, 1);
  const hva = region.hva + i * region.stride * PAGE_SIZE + WORD;
  // One splice at a time, so that the order of its bytes is known.
  model.busy = true;
  const path = vmspliceToPipe(k, region.process.p.mm, model.pipe, hva, 4, 0);
  const pins = k.policy.apis.vmsplice === 'pin-longterm';
  const brokeCow = pins ? breakCow(driver, region, [word ?? null]) : null;
  driver.start('splice', region.process, path, (done) => {
    model.busy = false;
    brokeCow?.(done === 4 ? 1 : 0);
    if (done === 4) model.expected.push(word ?? null);
  });
};

/** Reads one word of a pipe: what it must be depends on how the pipe holds the page. */
export const beginPipeRead = (driver: RandomDriver): void => {
  const { random, k } = driver;
  const at = random.below(Math.max(1, driver.pipes.length));
  const model = driver.pipes[at];
  if (model === undefined || model.busy) return;
  if (random.chance(0.1)) {
    driver.closePipe(at);
    return;
  }
  const other = driver.pipes[random.below(driver.pipes.length)];
  if (other !== undefined && other !== model && !other.busy && random.chance(0.2)) {
    const n = tee(k, model.pipe, other.pipe, 4);
    if (n === 4) other.expected.push(null);
    driver.count(n === 4 ? 'tee' : 'tee!');
    return;
  }
  const bytes = new Uint8Array(4);
  if (pipeRead(k, model.pipe, bytes) !== 4) return;
  driver.count('pipe read');
  const expected = model.expected.shift();
  if (expected === undefined) throw new Error('the pipe has more bytes than were put in');
  if (expected === null || !isAttached(expected)) return;
  const value = new DataView(bytes.buffer).getUint32(0, true);
  // A pin follows what the process writes; a copy and a plain reference may be of any time since.
  const pinned = k.policy.apis.vmsplice === 'pin-longterm';
  if (pinned) driver.read('pipe read', expected.history, value, driver.now);
};

/** splice() of a file's word into a pipe: a reference to the page of its cache, for reading. */
export const beginSpliceIn = (driver: RandomDriver): void => {
  const { random, k } = driver;
  const file = driver.anyFile(({ mapping }) => SPLICED.includes(mapping.kind));
  const model = driver.pipes[random.below(Math.max(1, driver.pipes.length))];
  if (file === undefined || model === undefined || model.busy || file.nrPages === 0) return;
  const offset = random.below(file.nrPages) * PAGE_SIZE + WORD;
  model.busy = true;
  const path = spliceFileToPipe(k, file.mapping, offset, model.pipe, 4);
  driver.start('splice in', null, path, (n) => {
    model.busy = false;
    // What it reads as is the file's at some moment until it is read: nobody's, for the driver.
    if (n === 4) model.expected.push(null);
    else if (n > 0) throw new Error(`splice: ${n} bytes of 4`);
  });
};

/**
 * Not of DAX: a pipe that has a page of the file, a hole that waits for it, and a splice into that pipe
 * which waits for the hole would wait for ever.
 */
const SPLICED = ['shmem', 'extent'];

/** splice() of a pipe's oldest word, if it is known, to a file. */
export const beginSpliceOut = (driver: RandomDriver): void => {
  const { random, k } = driver;
  const file = driver.anyFile(
    ({ mapping, changing, direct }) => SPLICED.includes(mapping.kind) && changing === 0 && !direct,
  );
  const model = driver.pipes[random.below(Math.max(1, driver.pipes.length))];
  if (file === undefined || model === undefined || model.busy || file.nrPages === 0) return;
  const source = model.expected[0];
  if (k.policy.apis.vmsplice !== 'pin-longterm') return;
  if (source === undefined || source === null || !isAttached(source)) return;
  const i = random.below(Math.min(file.words.length, file.nrPages));
  const history = file.words[i];
  if (history === undefined || history === source.history) return;
  model.busy = true;
  file.writing++;
  const pending = history.beginFrom(driver.now, source.history);
  const path = splicePipeToFile(k, model.pipe, file.mapping, i * PAGE_SIZE + WORD, 4);
  driver.start('splice out', null, path, (n) => {
    model.busy = false;
    file.writing--;
    if (n !== 4) {
      history.cancel(pending);
      return;
    }
    model.expected.shift();
    // Of a page that was unmapped meanwhile the pipe still has what it had.
    if (!isAttached(source)) history.strange ??= UNKNOWN;
    history.finishFrom(pending, driver.now, !isAttached(source), driver.horizon());
  });
};
