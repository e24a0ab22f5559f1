/** Numbers and names as the files of /proc print them. Compare fs/seq_file.c and fs/proc/task_mmu.c. */
import { PAGE_SIZE } from '#emu';
import type { AddressSpace, Vma } from '../types.ts';
import { VM_EXEC, VM_MAYSHARE, VM_READ, VM_WRITE } from '../vma/flags.ts';

/** `name` and a number of KiB, right-aligned in `width` columns: "Rss:                4 kB". */
export const kibLine = (name: string, kib: number, width = 8): string =>
  `${name}${String(kib).padStart(width)} kB\n`;

/** The same of a number of pages. */
export const pagesLine = (name: string, pages: number): string =>
  kibLine(name, (pages * PAGE_SIZE) / 1024);

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');

/** Device number and name of the file systems that have no name in the tree. */
const FILES: Record<AddressSpace['kind'], { dev: string; name: (id: number) => string }> = {
  shmem: { dev: '00:01', name: (id) => `/memfd:${id} (deleted)` },
  hugetlbfs: { dev: '00:0f', name: () => '/anon_hugepage (deleted)' },
  secretmem: { dev: '00:10', name: () => '/secretmem (deleted)' },
  gmem: { dev: '00:11', name: () => '/[kvm-gmem] (deleted)' },
  device: { dev: '00:06', name: (id) => `/dev/device${id}` },
  extent: { dev: 'fe:00', name: (id) => `/mnt/file${id}` },
  fsdax: { dev: '103:00', name: (id) => `/dax/file${id}` },
};

/** Columns before the name. */
const NAME_COLUMN = 73;

/**
 * A VMA's line of /proc/PID/maps: addresses, rights, offset in bytes, device, inode, name. The inode
 * is the id of the mapping. A file's name is not kept here: all are what the kernel names itself.
 */
export const mapsLine = ({ start, end, flags, pgoff, mapping }: Vma): string => {
  const rights =
    ((flags & VM_READ) !== 0 ? 'r' : '-') +
    ((flags & VM_WRITE) !== 0 ? 'w' : '-') +
    ((flags & VM_EXEC) !== 0 ? 'x' : '-') +
    ((flags & VM_MAYSHARE) !== 0 ? 's' : 'p');
  const head = `${hex(start, 8)}-${hex(end, 8)} ${rights}`;
  if (mapping === null) return `${head} 00000000 00:00 0 \n`;
  const { dev, name } = FILES[mapping.kind];
  const prefix = `${head} ${hex(pgoff * PAGE_SIZE, 8)} ${dev} ${mapping.id} `;
  return `${prefix.padEnd(NAME_COLUMN)}${name(mapping.id)}\n`;
};
