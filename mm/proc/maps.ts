/** /proc/PID/maps. */
import type { MmStruct } from '../types.ts';
import { mapsLine } from './format.ts';

/** One line for each VMA, in order of address. Compare fs/proc/task_mmu.c:show_map_vma(). */
export const procMaps = (mm: MmStruct): string => mm.vmas.map(mapsLine).join('');
