/** Every target of the fuzzer. */
import type { FuzzTarget } from './target.ts';
import { VIRTIO_TARGETS } from './virtio.ts';

export const FUZZ_TARGETS: readonly FuzzTarget[] = [...VIRTIO_TARGETS];
