/**
 * S9: the race of ptrace with writeback. The file system makes the entry read-only so as to hear of the
 * next write; a tracer that has looked the page up already writes, and marks it dirty. Facts sheet 0,
 * 1.12, 2.7. Every order of the two is tried by `gupbed explore ptrace-writeback`.
 */
import { describe, expect, it } from 'vitest';
import {
  accessRemoteVm,
  checkKernel,
  createPolicy,
  drive,
  EIO,
  type MkfsOptions,
  type Path,
  setPolicyApi,
  vfsFsync,
  writebackMapping,
  YP_BIO_SUBMITTED,
  YP_REMOTE_COPIED,
  YP_WRITEBACK_STARTED,
} from '#mm';
import { YP_GUP_LOOKED_UP } from '../../../mm/path.ts';
import { type FileWorld, isDirty, onDevice, quiet, sync, withFile } from '../file-world.ts';
import { stepTo } from '../support.ts';

/** What each rule is called, as changes of linux-7. */
type Changes = readonly (readonly [string, string])[];

const world = (changes: Changes = [], options: MkfsOptions = {}): FileWorld => {
  const fw = withFile(1, options);
  fw.w.k.policy = createPolicy('linux-7');
  for (const [id, api] of changes) expect(setPolicyApi(fw.w.k.policy, id, api)).toBeNull();
  return fw;
};

/** The tracer's write of one byte. */
const tracer = ({ w, p, hva }: FileWorld): Path<number> =>
  accessRemoteVm(w.k, p.mm, hva, Uint8Array.of(77), true);

const writeback = ({ w, file }: FileWorld): Path<number> => writebackMapping(w.k, file);

const violations = ({ w }: FileWorld): string[] =>
  checkKernel(w.k, { quiescent: true }).map((line) => line.split(' ')[0] ?? '');

describe('S9, as Linux is', () => {
  it('no race: the write, and its mark, come before writeback', () => {
    const fw = world();
    expect(drive(tracer(fw))).toBe(1);
    expect(drive(writeback(fw))).toBe(0);
    sync(fw);
    expect(onDevice(fw, 0) & 0xff).toBe(77);
    quiet(fw);
  });

  it('T1 W1..W4 T2 T3: dirty without page_mkwrite (I7)', () => {
    const fw = world();
    const trace = tracer(fw);
    stepTo(fw.w.k, trace, YP_GUP_LOOKED_UP);
    sync(fw);
    expect(drive(trace)).toBe(1);
    expect([isDirty(fw, 0), fw.inode.reserved.has(0)]).toEqual([true, false]);
    expect(violations(fw)).toContain('I7');
    expect(fw.fs.dirtiedBehind).toBe(0);
    // The file system finds out when it writes the page.
    drive(writeback(fw));
    expect(fw.fs.dirtiedBehind).toBe(1);
  });

  it('a file system that drops such pages, as ext4 does, loses the tracer’s write, and says so: EIO', () => {
    const fw = world([], { dropsBehind: true });
    const trace = tracer(fw);
    stepTo(fw.w.k, trace, YP_GUP_LOOKED_UP);
    sync(fw);
    expect(drive(trace)).toBe(1);
    expect(drive(vfsFsync(fw.w.k, fw.file))).toBe(-EIO);
    expect([onDevice(fw, 0) & 0xff, isDirty(fw, 0)]).toEqual([1, false]);
    expect(fw.p.load32(fw.hva) & 0xff).toBe(77);
  });

  it('T2 between W1 and W3, with checksums: the block does not match its checksum', () => {
    const fw = world([], { checksums: true });
    const trace = tracer(fw);
    stepTo(fw.w.k, trace, YP_GUP_LOOKED_UP);
    const flush = writeback(fw);
    stepTo(fw.w.k, flush, YP_WRITEBACK_STARTED);
    stepTo(fw.w.k, flush, YP_BIO_SUBMITTED);
    stepTo(fw.w.k, trace, YP_REMOTE_COPIED);
    drive(flush);
    drive(trace);
    expect(violations(fw)).not.toEqual([]);
  });
});

/** The fixes that the mail and its answers discuss, and what each keeps. */
const FIXES: { name: string; changes: Changes; keeps: boolean }[] = [
  { name: 'as it is', changes: [], keeps: false },
  {
    name: 'a pin that nobody looks for',
    changes: [['access-remote-vm', 'pin']],
    keeps: false,
  },
  {
    name: 'a pin, and writeback that writes a copy of what may be pinned',
    changes: [
      ['access-remote-vm', 'pin'],
      ['pinned-writeback', 'bounce'],
    ],
    keeps: true,
  },
  {
    name: 'a copy through the page tables, under their lock, as a store of the CPU',
    changes: [['access-remote-vm', 'copy']],
    keeps: true,
  },
];

describe('S9: fixes', () => {
  for (const { name, changes, keeps } of FIXES)
    it(`${name}: ${keeps ? 'no order breaks anything' : 'I7 is broken'}`, () => {
      let broken = 0;
      // One of the two runs `n` steps, then the other to its end, then the rest.
      for (const traceFirst of [true, false])
        for (let n = 0; n < 40; n++) {
          const fw = world(changes);
          const trace = tracer(fw);
          const flush = vfsFsync(fw.w.k, fw.file);
          const [first, second] = traceFirst ? [trace, flush] : [flush, trace];
          fw.w.k.watched = true;
          let done = false;
          for (let i = 0; i < n && !done; i++) done = first.next().done === true;
          fw.w.k.watched = false;
          for (let i = 0; i < 10_000 && second.next().done !== true; i++) first.next();
          if (!done) for (let i = 0; i < 10_000 && first.next().done !== true; i++);
          const found = violations(fw);
          if (found.length > 0) broken++;
          if (keeps) {
            expect(found).toEqual([]);
            sync(fw);
            expect(onDevice(fw, 0) & 0xff).toBe(77);
          }
          if (done) break;
        }
      expect(broken > 0).toBe(!keeps);
    });
});
