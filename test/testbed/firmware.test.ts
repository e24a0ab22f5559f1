/**
 * Firmware and boot loaders that somebody else wrote and built for QEMU's virt board: Debian's
 * packages opensbi and u-boot-qemu. Where CI is set the tests fail without them, elsewhere they are
 * reported as skipped.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { type ElfImage, parseElf } from '#emu';
import { BareMachine, HostMachine } from '#testbed';
import { bootDisk } from '../support/boot-disk.ts';

const MEMORY_BYTES = 128 * 2 ** 20;
const LIMIT = 40e6;
/** With two seconds of U-Boot's count-down. */
const BOOT_LIMIT = 400e6;

const OPENSBI = '/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.elf';
const U_BOOT = '/usr/lib/u-boot/qemu-riscv64/uboot.elf';
const U_BOOT_S_MODE = '/usr/lib/u-boot/qemu-riscv64_smode/uboot.elf';

const image = (file: string): ElfImage => parseElf(new Uint8Array(readFileSync(file)));

/** The same test whether the file is there or not: without it only CI insists. */
const withFirmware = (fact: string, file: string, test: () => void): void => {
  const missing = !existsSync(file);
  it.skipIf(missing && process.env.CI === undefined)(
    missing ? `${fact} (needs ${file})` : fact,
    { timeout: 60_000 },
    test,
  );
};

/** Output of a program in M-mode until it prints `last`, or until the limit. */
const bareOutput = (file: string, last: RegExp, harts = 1): string[] => {
  const machine = new BareMachine({ ramBytes: MEMORY_BYTES, harts });
  machine.load(image(file));
  const { console: output } = machine;
  while (machine.end === null && machine.retired < LIMIT && !output.lines.some((l) => last.test(l)))
    machine.step(LIMIT - machine.retired);
  return [...output.lines];
};

describe('firmware for the virt board runs as it is: M-mode', () => {
  withFirmware('OpenSBI finds the timer, the IPIs, the UART and the finisher', OPENSBI, () => {
    const text = bareOutput(OPENSBI, /MEDELEG/).join('\n');
    expect(text).toMatch(/^OpenSBI v/m);
    expect(text).toMatch(/Platform IPI Device +: aclint-mswi/);
    expect(text).toMatch(/Platform Timer Device +: aclint-mtimer @ 10000000Hz/);
    expect(text).toMatch(/Platform Console Device +: uart8250/);
    expect(text).toMatch(/Platform Shutdown Device +: sifive_test/);
    expect(text).toMatch(/Boot HART ISA Extensions +: time,sstc/);
    expect(text).toMatch(/Boot HART Base ISA +: rv64ima\w*h/);
  });

  withFirmware('OpenSBI brings up four harts', OPENSBI, () => {
    const text = bareOutput(OPENSBI, /MEDELEG/, 4).join('\n');
    expect(text).toMatch(/Platform HART Count +: 4/);
    expect(text).toMatch(/Domain0 HARTs +: 0\*?,1\*?,2\*?,3\*?/);
  });

  withFirmware('U-Boot comes up to its count-down', U_BOOT, () => {
    const text = bareOutput(U_BOOT, /Net:/).join('\n');
    expect(text).toMatch(/^U-Boot 20/m);
    expect(text).toMatch(/DRAM: +128 MiB/);
    expect(text).toMatch(/In: +serial@10000000/);
  });
});

describe('firmware for the virt board runs as it is: a guest in VS-mode', () => {
  withFirmware('U-Boot for S-mode comes up over the SBI of the hypervisor', U_BOOT_S_MODE, () => {
    const guests = [{ name: 'u-boot', memoryBytes: MEMORY_BYTES, harts: 1, activity: null }];
    const machine = new HostMachine({ seed: 1, policy: 'linux-7', guests });
    const [guest] = machine.guests;
    machine.boot(guest!, image(U_BOOT_S_MODE));
    const { console: output } = guest!;
    while (!machine.done && machine.retired < LIMIT && !output.lines.some((l) => /Net:/.test(l)))
      machine.step(LIMIT - machine.retired);
    const text = output.lines.join('\n');
    expect(text).toMatch(/^U-Boot 20/m);
    expect(text).toMatch(/DRAM: +128 MiB/);
  });

  withFirmware(
    'its driver reads a virtio disk, boots from it and writes to it',
    U_BOOT_S_MODE,
    () => {
      const folder = mkdtempSync(join(tmpdir(), 'gupbed-'));
      const file = join(folder, 'disk.img');
      const disk = bootDisk([
        'ls virtio 0:1',
        'virtio read 0x84000000 0x1fb0 2',
        'crc32 0x84000000 0x400',
        'mw.l 0x85000000 0xc0ffee42 0x80',
        'virtio write 0x85000000 0x1fc0 1',
        'poweroff',
      ]);
      const sectors = disk.subarray(0x1fb0 * 512, 0x1fb2 * 512);
      sectors.set(sectors.map((_, i) => i * 7));
      writeFileSync(file, disk);
      const parts = [{ kind: 'virtio-blk' as const, image: { file, sizeBytes: disk.length } }];
      // Where it loads the script to is beyond 128 MiB.
      const guests = [
        { name: 'u-boot', memoryBytes: 2 * MEMORY_BYTES, harts: 1, activity: null, parts },
      ];
      const machine = new HostMachine({ seed: 1, policy: 'linux-7', guests });
      const [guest] = machine.guests;
      machine.boot(guest!, image(U_BOOT_S_MODE));
      while (!machine.done && machine.retired < BOOT_LIMIT)
        machine.step(BOOT_LIMIT - machine.retired);
      machine.tearDown();
      machine.writeBack();
      const after = readFileSync(file);
      rmSync(folder, { recursive: true });
      const text = guest!.console.lines.join('\n');
      expect(text).toMatch(/gupb VirtIO Block Device/);
      expect(text).toMatch(/BOOT.SCR/);
      expect(text).toMatch(new RegExp(`==> ${crc32(sectors).toString(16).padStart(8, '0')}`));
      expect(guest!.end).toMatchObject({ kind: 'shutdown', resetReason: 0 });
      expect(machine.violations).toEqual([]);
      const written = Buffer.alloc(512, Buffer.from('42eeffc0', 'hex'));
      written.copy(disk, 0x1fc0 * 512);
      expect(after.equals(disk)).toBe(true);
    },
  );
});
