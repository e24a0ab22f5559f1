/** Options that plug devices into a guest. */
import { accessSync, constants, statSync } from 'node:fs';
import { type ImageConfig, IMAGE_BYTES_MAX } from '../machine/disk-file.ts';
import { NVDIMM_EXTRA_BYTES } from '../machine/nvdimm-image.ts';
import type { PartConfig } from '../machine/parts/index.ts';
import { isPersistMode } from '../machine/parts/nvdimm.ts';
import { formatSize, type OptionSpec, type ParsedArgs, parseSize } from './args.ts';
import { reasonOf } from './input.ts';
import { UsageError } from './usage-error.ts';

/** Of commands about persistent memory. */
export const PERSISTENT_OPTIONS = {
  pmem: { type: 'string', multiple: true },
  nvdimm: { type: 'string' },
  persistence: { type: 'string' },
} as const satisfies OptionSpec;

/** Of commands that make a guest. */
export const PART_OPTIONS = {
  ...PERSISTENT_OPTIONS,
  disk: { type: 'string', multiple: true },
  rdma: { type: 'string' },
  device: { type: 'string', multiple: true },
} as const satisfies OptionSpec;

const SECTOR_BYTES = 512;
const PAGE_BYTES = 4096;

/** What `--device` plugs in. */
const SIMPLE_DEVICES: Record<string, PartConfig> = {
  rng: { kind: 'virtio-rng' },
  console: { kind: 'virtio-console' },
  balloon: { kind: 'virtio-balloon' },
  iommu: { kind: 'iommu' },
};

/** Every use of an option that may be there several times. */
export const wordsOf = (args: ParsedArgs, name: string): string[] => {
  const words = args.values[name];
  return Array.isArray(words) ? words : [];
};

/**
 * An image: a size, or the name of a file.
 * @param unit the size must be a multiple of it
 * @throws UsageError for a file that cannot be read and written, or has an odd size
 */
export const imageOf = (option: string, word: string, unit: number): ImageConfig => {
  if (/^\d+(\.\d+)?[kmg]?(i?b)?$/i.test(word))
    return { file: null, sizeBytes: parseSize(option, word, PAGE_BYTES, IMAGE_BYTES_MAX) };
  try {
    const stat = statSync(word);
    if (!stat.isFile()) throw new UsageError(`${option} ${word}: not a regular file`);
    accessSync(word, constants.R_OK | constants.W_OK);
    const { size } = stat;
    if (size === 0 || size % unit !== 0)
      throw new UsageError(`${option} ${word}: ${size} bytes, not a multiple of ${unit}`);
    if (size > IMAGE_BYTES_MAX)
      throw new UsageError(`${option} ${word}: larger than ${formatSize(IMAGE_BYTES_MAX)}`);
    return { file: word, sizeBytes: size };
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`${option} ${word}: ${reasonOf(error)}`);
  }
};

/**
 * `--nvdimm` and `--persistence`. An image has the label area and the controller's state behind the
 * memory; a size is the memory's own.
 * @param failAtEvent 0: never
 */
const nvdimmOf = ({ values }: ParsedArgs, failAtEvent: number): PartConfig[] => {
  const word = values['nvdimm'];
  const mode = values['persistence'] ?? 'adr';
  if (word === undefined) {
    if (values['persistence'] !== undefined)
      throw new UsageError('--persistence goes with --nvdimm');
    if (failAtEvent > 0) throw new UsageError('--power-fail-at event:N goes with --nvdimm');
    return [];
  }
  if (typeof mode !== 'string' || !isPersistMode(mode))
    throw new UsageError(`--persistence ${String(mode)}: one of adr, eadr, none`);
  const image = imageOf('--nvdimm', String(word), PAGE_BYTES);
  if (image.file === null) image.sizeBytes += NVDIMM_EXTRA_BYTES;
  else if (image.sizeBytes <= NVDIMM_EXTRA_BYTES)
    throw new UsageError(`--nvdimm ${word}: too small to have a label area of 132K behind memory`);
  return [{ kind: 'nvdimm', image, mode, failAtEvent }];
};

/** `--rdma`: two adapters, and how their memory regions hold pages. */
const rdmaOf = ({ values }: ParsedArgs): PartConfig[] => {
  const mr = values['rdma'];
  if (mr === undefined) return [];
  if (mr !== 'pin' && mr !== 'odp')
    throw new UsageError(`--rdma ${String(mr)}: pin or odp, how memory regions hold their pages`);
  return [{ kind: 'rdma', mr }];
};

/**
 * What PART_OPTIONS plug in, in this order: disks, persistent memory, the rest.
 * @param failAtEvent power fails with this event of the NVDIMM; 0: never
 * @throws UsageError
 */
export const partsOf = (args: ParsedArgs, failAtEvent = 0): PartConfig[] => [
  ...wordsOf(args, 'disk').map(
    (word): PartConfig => ({ kind: 'virtio-blk', image: imageOf('--disk', word, SECTOR_BYTES) }),
  ),
  ...wordsOf(args, 'pmem').map(
    (word): PartConfig => ({ kind: 'virtio-pmem', image: imageOf('--pmem', word, PAGE_BYTES) }),
  ),
  ...nvdimmOf(args, failAtEvent),
  ...rdmaOf(args),
  ...wordsOf(args, 'device').map((word): PartConfig => {
    const part = SIMPLE_DEVICES[word];
    if (part === undefined)
      throw new UsageError(`--device ${word}: one of ${Object.keys(SIMPLE_DEVICES).join(', ')}`);
    return part;
  }),
];
