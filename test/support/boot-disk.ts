/**
 * A disk that a boot loader starts from: one bootable partition with a FAT16 file system, and in its
 * root folder a script for U-Boot, `boot.scr`. Everything by hand, so that no tool has to be installed.
 */
import { crc32 } from 'node:zlib';

const SECTOR = 512;
/** The partition, in sectors: FAT16 wants 4085 clusters at least, of one sector here. */
const FIRST = 64;
const NR_SECTORS = 8000;
export const BOOT_DISK_BYTES = 8192 * SECTOR;

const NR_FATS = 2;
const FAT_SECTORS = 32;
const ROOT_ENTRIES = 512;
const ROOT = FIRST + 1 + NR_FATS * FAT_SECTORS;
const DATA = ROOT + (ROOT_ENTRIES * 32) / SECTOR;

/** U-Boot's legacy image header: numbers are big-endian. */
const HEADER_BYTES = 64;
const IH_MAGIC = 0x2705_1956;
const IH_OS_LINUX = 5;
const IH_ARCH_RISCV = 26;
const IH_TYPE_SCRIPT = 6;

/** Commands as the image that U-Boot's `source` takes. */
const scriptImage = (commands: readonly string[]): Buffer => {
  const text = Buffer.from(`${commands.join('\n')}\n`);
  const data = Buffer.alloc(8 + text.length);
  data.writeUInt32BE(text.length, 0);
  text.copy(data, 8);
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32BE(IH_MAGIC, 0);
  header.writeUInt32BE(data.length, 12);
  header.writeUInt32BE(crc32(data), 24);
  header.set([IH_OS_LINUX, IH_ARCH_RISCV, IH_TYPE_SCRIPT, 0], 28);
  header.write('script of a test', 32, 'latin1');
  header.writeUInt32BE(crc32(header), 4);
  return Buffer.concat([header, data]);
};

/** The disk. Sectors from 8100 on are nobody's. */
export const bootDisk = (commands: readonly string[]): Buffer => {
  const disk = Buffer.alloc(BOOT_DISK_BYTES);
  // The partition table: bootable, FAT16 by sector numbers.
  disk.set([0x80, 0, 0, 0, 0x0e, 0, 0, 0], 446);
  disk.writeUInt32LE(FIRST, 454);
  disk.writeUInt32LE(NR_SECTORS, 458);
  disk.set([0x55, 0xaa], 510);
  // The boot sector of the file system.
  const at = FIRST * SECTOR;
  disk.set([0xeb, 0x3c, 0x90], at);
  disk.write('gupbed  ', at + 3, 'latin1');
  disk.writeUInt16LE(SECTOR, at + 11);
  disk.set([1], at + 13);
  disk.writeUInt16LE(1, at + 14);
  disk.set([NR_FATS], at + 16);
  disk.writeUInt16LE(ROOT_ENTRIES, at + 17);
  disk.writeUInt16LE(NR_SECTORS, at + 19);
  disk.set([0xf8], at + 21);
  disk.writeUInt16LE(FAT_SECTORS, at + 22);
  disk.writeUInt32LE(FIRST, at + 28);
  disk.set([0x80, 0, 0x29], at + 36);
  disk.write('BOOT       FAT16   ', at + 43, 'latin1');
  disk.set([0x55, 0xaa], at + 510);
  // One file, in clusters that follow one another.
  const script = scriptImage(commands);
  const nrClusters = Math.ceil(script.length / SECTOR);
  for (let fat = 0; fat < NR_FATS; fat++) {
    const table = (FIRST + 1 + fat * FAT_SECTORS) * SECTOR;
    disk.writeUInt16LE(0xfff8, table);
    disk.writeUInt16LE(0xffff, table + 2);
    for (let i = 0; i < nrClusters; i++)
      disk.writeUInt16LE(i + 1 < nrClusters ? i + 3 : 0xffff, table + 2 * (i + 2));
  }
  const entry = ROOT * SECTOR;
  disk.write('BOOT    SCR', entry, 'latin1');
  disk.set([0x20], entry + 11);
  disk.writeUInt16LE(2, entry + 26);
  disk.writeUInt32LE(script.length, entry + 28);
  script.copy(disk, DATA * SECTOR);
  return disk;
};
