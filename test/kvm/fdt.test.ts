/** The device tree blob: read back by a plain parser that shares nothing with the writer, and by dtc. */
import { spawnSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import {
  type FdtNode,
  fdtBlob,
  fdtCells,
  fdtCells64,
  fdtEmpty,
  fdtStrings,
} from '../../kvm/fdt.ts';
import { GUEST_ISA, guestDeviceTree } from '../../kvm/guest-tree.ts';

interface ParsedNode {
  props: Map<string, Uint8Array>;
  children: Map<string, ParsedNode>;
}

/** Devicetree Specification 0.4, chapter 5, read literally. Throws where the blob breaks a rule of it. */
const parse = (blob: Uint8Array): { root: ParsedNode; bootCpu: number } => {
  const view = new DataView(blob.buffer, blob.byteOffset, blob.length);
  const u32 = (at: number): number => view.getUint32(at);
  if (u32(0) !== 0xd00dfeed) throw new Error('magic');
  if (u32(4) !== blob.length) throw new Error('totalsize');
  const [structAt, stringsAt, reservedAt] = [u32(8), u32(12), u32(16)];
  if (u32(20) !== 17 || u32(24) !== 16) throw new Error('version');
  const [stringsBytes, structBytes] = [u32(32), u32(36)];
  if (reservedAt % 8 !== 0 || structAt % 4 !== 0) throw new Error('alignment');
  for (let i = 0; i < 16; i += 4) if (u32(reservedAt + i) !== 0) throw new Error('reservation');
  if (stringsAt + stringsBytes > blob.length) throw new Error('strings outside');

  const text = (at: number): string => {
    let end = at;
    while (blob[end] !== 0) end++;
    return String.fromCharCode(...blob.subarray(at, end));
  };
  let at = structAt;
  const token = (): number => {
    const value = u32(at);
    at += 4;
    return value;
  };
  const node = (): [string, ParsedNode] => {
    const name = text(at);
    at = (at + name.length + 1 + 3) & ~3;
    const parsed: ParsedNode = { props: new Map(), children: new Map() };
    for (;;) {
      const t = token();
      if (t === 2) return [name, parsed];
      if (t === 3) {
        const lenBytes = token();
        const propName = text(stringsAt + token());
        if (parsed.children.size > 0) throw new Error(`property ${propName} behind a child`);
        if (parsed.props.has(propName)) throw new Error(`${propName} twice`);
        parsed.props.set(propName, blob.slice(at, at + lenBytes));
        at = (at + lenBytes + 3) & ~3;
      } else if (t === 1) {
        const [childName, child] = node();
        if (parsed.children.has(childName)) throw new Error(`${childName} twice`);
        parsed.children.set(childName, child);
      } else throw new Error(`token ${t}`);
    }
  };
  if (token() !== 1) throw new Error('no root');
  const [, root] = node();
  if (token() !== 9 || at !== structAt + structBytes) throw new Error('end');
  return { root, bootCpu: u32(28) };
};

const at = (root: ParsedNode, path: string): ParsedNode => {
  let node = root;
  for (const name of path.split('/').filter((s) => s !== '')) {
    const child = node.children.get(name);
    if (child === undefined) throw new Error(`no ${name} in ${path}`);
    node = child;
  }
  return node;
};
const cells = (node: ParsedNode, name: string): number[] => {
  const value = node.props.get(name);
  if (value === undefined) throw new Error(`no ${name}`);
  const view = new DataView(value.buffer);
  return Array.from({ length: value.length / 4 }, (_, i) => view.getUint32(i * 4));
};
const strings = (node: ParsedNode, name: string): string[] => {
  const value = node.props.get(name);
  if (value === undefined) throw new Error(`no ${name}`);
  const text = String.fromCharCode(...value);
  expect(text.endsWith('\0')).toBe(true);
  return text.slice(0, -1).split('\0');
};

const CONFIG = {
  nrHarts: 3,
  memory: [
    { gpa: 0x8000_0000, lenBytes: 0x400_0000 },
    { gpa: 0x1_0000_0000, lenBytes: 0x20_0000_0000 },
  ],
  devices: ['plic', 'uart', 'dma-engine', 'finisher'],
  bootargs: 'console=hvc0 earlycon=sbi',
  initrd: { startGpa: 0x8200_0000, endGpa: 0x8212_3456 },
} as const;

describe('DTSpec 5: the flattened format', () => {
  test('5.4.2: nodes and properties come back as they were, in order, at any length', () => {
    const tree: FdtNode = {
      name: '',
      properties: [
        fdtCells('a', 1, 0xffff_ffff, -1),
        fdtStrings('abc', 'x', '', 'longer text'),
        fdtEmpty('flag'),
        fdtCells64('wide', 0x1f_ffff_ffff_ffff, 5),
      ],
      children: [1, 2, 3, 4, 5].map((n) => ({
        name: 'n'.repeat(n),
        properties: [fdtCells('a', n)],
        children: [],
      })),
    };
    const { root, bootCpu } = parse(fdtBlob(tree, 2));
    expect(bootCpu).toBe(2);
    expect(cells(root, 'a')).toEqual([1, 0xffff_ffff, 0xffff_ffff]);
    expect(strings(root, 'abc')).toEqual(['x', '', 'longer text']);
    expect(root.props.get('flag')).toHaveLength(0);
    expect(cells(root, 'wide')).toEqual([0x1f_ffff, 0xffff_ffff, 0, 5]);
    expect([...root.children.keys()]).toEqual(['n', 'nn', 'nnn', 'nnnn', 'nnnnn']);
    expect(cells(at(root, 'nnnn'), 'a')).toEqual([4]);
  });

  test('5.5: a property name stands in the strings block once', () => {
    const child = (name: string): FdtNode => ({
      name,
      properties: [fdtCells('same-name', 7)],
      children: [],
    });
    const blob = fdtBlob({ name: '', properties: [], children: [child('a'), child('b')] });
    const text = String.fromCharCode(...blob);
    expect(text.split('same-name')).toHaveLength(2);
  });

  test('text that is not ASCII is refused', () => {
    expect(() => guestDeviceTree({ ...CONFIG, bootargs: 'naïve' })).toThrow(/not ASCII/);
  });
});

describe("the guest's tree", () => {
  const { root } = parse(guestDeviceTree(CONFIG));

  test('DTSpec 3.4: a memory node for each range, above 4 GiB too', () => {
    expect(cells(at(root, '/memory@80000000'), 'reg')).toEqual([0, 0x8000_0000, 0, 0x400_0000]);
    expect(cells(at(root, '/memory@100000000'), 'reg')).toEqual([1, 0, 0x20, 0]);
  });

  test('3.7 and 3.8: harts by hartid, with ISA, MMU type and timebase', () => {
    expect(cells(at(root, '/cpus'), 'timebase-frequency')).toEqual([10_000_000]);
    expect(at(root, '/cpus').children.size).toBe(3);
    for (const hart of [0, 1, 2]) {
      const cpu = at(root, `/cpus/cpu@${hart}`);
      expect(cells(cpu, 'reg')).toEqual([hart]);
      expect(strings(cpu, 'riscv,isa')).toEqual([GUEST_ISA]);
      expect(strings(cpu, 'riscv,isa-extensions')).toContain('zbb');
    }
    expect(GUEST_ISA).toMatch(/^rv64imac_zicbom_zicboz_zicntr_/);
  });

  test('the PLIC names context 2n+1, S-mode of hart n, and no M-mode', () => {
    const intc = [0, 1, 2].map(
      (n) => cells(at(root, `/cpus/cpu@${n}/interrupt-controller`), 'phandle')[0],
    );
    expect(new Set(intc).size).toBe(3);
    const extended = cells(at(root, '/soc/interrupt-controller@c000000'), 'interrupts-extended');
    expect(extended).toEqual(intc.flatMap((p) => [p, 0xffff_ffff, p, 9]));
  });

  test('devices have their registers and their PLIC source', () => {
    const plic = cells(at(root, '/soc/interrupt-controller@c000000'), 'phandle');
    const uart = at(root, '/soc/serial@10000000');
    expect(cells(uart, 'reg')).toEqual([0, 0x1000_0000, 0, 0x100]);
    expect(cells(uart, 'interrupts')).toEqual([10]);
    expect(cells(uart, 'interrupt-parent')).toEqual(plic);
    const dma = at(root, '/soc/dma-controller@10010000');
    expect(strings(dma, 'compatible')).toEqual(['gupbed,dma-engine']);
    expect(cells(dma, 'interrupts')).toEqual([16]);
  });

  test('3.6: chosen carries bootargs, console and initrd', () => {
    const chosen = at(root, '/chosen');
    expect(strings(chosen, 'bootargs')).toEqual(['console=hvc0 earlycon=sbi']);
    expect(strings(chosen, 'stdout-path')).toEqual(['/soc/serial@10000000']);
    expect(cells(chosen, 'linux,initrd-end')).toEqual([0, 0x8212_3456]);
  });

  // dtc (Debian: device-tree-compiler) is not part of Node: without it only CI insists.
  const haveDtc = spawnSync('dtc', ['--version']).status === 0;
  test.skipIf(!haveDtc && process.env.CI === undefined)(
    'dtc reads it without an error and finds the same',
    () => {
      const run = spawnSync('dtc', ['-I', 'dtb', '-O', 'dts', '-'], {
        input: guestDeviceTree(CONFIG),
        encoding: 'utf8',
      });
      expect(run.error).toBeUndefined();
      expect(run.status, run.stderr).toBe(0);
      expect(run.stderr).toBe('');
      expect(run.stdout).toContain('memory@80000000');
      expect(run.stdout).toContain('timebase-frequency = <0x989680>');
      expect(run.stdout).toContain('console=hvc0 earlycon=sbi');
    },
  );
});
