/**
 * S5: ptrace-like access is FOLL_GET | FOLL_WRITE; on shared file mappings a file system would need a
 * pin to account for what gets dirty. Facts sheet 0, 1.12.
 */
import { describe, expect, it } from 'vitest';
import {
  accessRemoteVm,
  checkKernel,
  createPolicy,
  drive,
  folioRefCount,
  type GupApi,
  type Path,
  setPolicyApi,
  YP_REMOTE_COPIED,
} from '#mm';
import { FOLL_WRITE } from '#mm/driver-api';
import { folioMaybeDmaPinned } from '../../../mm/folio/pin.ts';
import { YP_GUP_LOOKED_UP } from '../../../mm/path.ts';
import { cached, type FileWorld, isDirty, onDevice, quiet, sync, withFile } from '../file-world.ts';
import { stepTo } from '../support.ts';

/** A tracer that is about to write into the tracee's shared mapping of a file. */
const tracing = (api: GupApi, bounce = false): { fw: FileWorld; path: Path<number> } => {
  const fw = withFile();
  fw.w.k.policy = createPolicy('linux-7');
  expect(setPolicyApi(fw.w.k.policy, 'access-remote-vm', api)).toBeNull();
  if (bounce) expect(setPolicyApi(fw.w.k.policy, 'pinned-writeback', 'bounce')).toBeNull();
  return { fw, path: accessRemoteVm(fw.w.k, fw.p.mm, fw.hva, Uint8Array.of(77), true) };
};

const holdsOf = ({ w }: FileWorld, page: number): string[] =>
  (w.k.state.provenance?.holds.get(page) ?? []).map(
    ({ user, kind, flags }) => `${user} ${kind} ${(flags & FOLL_WRITE) !== 0 ? 'W' : 'R'}`,
  );

describe('S5: a tracer writes to a shared mapping of a file', () => {
  it('today: FOLL_GET | FOLL_WRITE; the fault has asked the file system, and from then on nothing tells it', () => {
    const { fw, path } = tracing('get');
    stepTo(fw.w.k, path, YP_GUP_LOOKED_UP);
    const page = cached(fw, 0);
    // The cache's, the entry's, and one more.
    expect(folioRefCount(fw.w.k, page)).toBe(3);
    expect(folioMaybeDmaPinned(fw.w.k, page)).toBe(false);
    expect([isDirty(fw, 0), fw.inode.reserved.has(0)]).toEqual([true, true]);
    // Writeback sees a dirty page as any other, and gives its promise back.
    sync(fw);
    expect([isDirty(fw, 0), fw.inode.reserved.has(0)]).toEqual([false, false]);
    stepTo(fw.w.k, path, YP_REMOTE_COPIED);
    expect(holdsOf(fw, page)).toEqual(['access-remote-vm get W']);
    expect(drive(path)).toBe(1);
    const found = checkKernel(fw.w.k).filter((line) => line.startsWith('I7 '));
    expect(found).toHaveLength(1);
    expect(found[0]).toContain('by access-remote-vm');
  });

  it('with a pin writeback can tell; it has to do something about it', () => {
    const { fw, path } = tracing('pin', true);
    stepTo(fw.w.k, path, YP_REMOTE_COPIED);
    const page = cached(fw, 0);
    expect(holdsOf(fw, page)).toEqual(['access-remote-vm pin W']);
    expect(folioMaybeDmaPinned(fw.w.k, page)).toBe(true);
    sync(fw);
    expect([isDirty(fw, 0), fw.inode.reserved.has(0)]).toEqual([true, true]);
    expect(drive(path)).toBe(1);
    sync(fw);
    expect(onDevice(fw, 0) & 0xff).toBe(77);
    quiet(fw);
  });

  it('a pin that writeback does not look for changes nothing', () => {
    const { fw, path } = tracing('pin');
    stepTo(fw.w.k, path, YP_REMOTE_COPIED);
    sync(fw);
    expect(drive(path)).toBe(1);
    expect(checkKernel(fw.w.k).filter((line) => line.startsWith('I7 '))).toHaveLength(1);
  });

  it('who only reads needs none of this', () => {
    const { fw } = tracing('get');
    const path = accessRemoteVm(fw.w.k, fw.p.mm, fw.hva, new Uint8Array(4), false);
    stepTo(fw.w.k, path, YP_GUP_LOOKED_UP);
    expect(folioRefCount(fw.w.k, cached(fw, 0))).toBe(3);
    sync(fw);
    expect(drive(path)).toBe(4);
    quiet(fw);
  });
});
