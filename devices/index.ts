/** The door of devices/: device models over wires. */
export { Aclint } from './aclint.ts';
export type { AclintConfig, AclintState } from './aclint.ts';
export { BusPort } from './bus-port.ts';
export { DmaEngine } from './dma-engine.ts';
export type {
  DmaClient,
  DmaEngineConfig,
  DmaEnginePort,
  DmaEngineState,
  DmaMapRequest,
} from './dma-engine.ts';
export { Finisher } from './finisher.ts';
export type { FinisherConfig, FinishRequest } from './finisher.ts';
export { Ns16550 } from './ns16550.ts';
export type { Ns16550Config, Ns16550State } from './ns16550.ts';
export { Plic } from './plic.ts';
export type { PlicConfig, PlicState } from './plic.ts';
export { EmptyVirtioSlot } from './virtio-mmio.ts';
