/** Every target of the fuzzer. */
import { DMA_ENGINE_TARGETS } from './dma-engine.ts';
import type { FuzzTarget } from './target.ts';
import { VIRTIO_TARGETS } from './virtio.ts';

export const FUZZ_TARGETS: readonly FuzzTarget[] = [...DMA_ENGINE_TARGETS, ...VIRTIO_TARGETS];
