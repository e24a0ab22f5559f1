/** The door of emu/: the emulated hardware. */
export {
  ACLINT_BASE,
  ACLINT_BYTES,
  DMA_ENGINE_BASE,
  DMA_ENGINE_BYTES,
  DMA_ENGINE_IRQ,
  FINISHER_BASE,
  FINISHER_BYTES,
  PLIC_BASE,
  PLIC_BYTES,
  PLIC_NR_SOURCES,
  RTC_BASE,
  RTC_BYTES,
  RTC_IRQ,
  UART_BASE,
  UART_BYTES,
  UART_IRQ,
  VIRTIO_BASE,
  VIRTIO_IRQ_BASE,
  VIRTIO_SLOTS,
  VIRTIO_STRIDE,
} from './board.ts';
export { BUS_ERROR, Bus } from './bus.ts';
export type { BusRegion, BusState } from './bus.ts';
export { ElfError, loadElf, parseElf } from './elf.ts';
export type { ElfImage, ElfSegment, ElfSink } from './elf.ts';
export { Clock, INSTRUCTIONS_PER_TICK, TIMEBASE_HZ } from './clock.ts';
export type { ClockEvent, ClockHandler, ClockState } from './clock.ts';
export {
  HART_BASE,
  HART_STRIDE,
  MAX_HARTS,
  PAGE_MASK,
  PAGE_SHIFT,
  PAGE_SIZE,
  RAM_BASE,
  RAM_MAX_BYTES,
  RAM_OFFSET,
  RAM_PFN_BASE,
} from './layout.ts';
export { PhysMemory } from './memory.ts';
export type { CodeWriteListener } from './memory.ts';
export {
  COUNT_TLB_MISS_EXEC,
  COUNT_TLB_MISS_READ,
  COUNT_TLB_MISS_WRITE,
  COUNT_WALK_STEPS,
  COUNT_WALKS,
  HART_COUNTER_FIRST,
  MMU_COUNTER_NAMES,
  counterBase,
  readMmuCounts,
} from './mmu/counters.ts';
export type { MmuCounterName, MmuCounts } from './mmu/counters.ts';
export { ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE, MMU_FAULT, MMU_MMIO, Mmu } from './mmu/mmu.ts';
export type { Access, MmuState } from './mmu/mmu.ts';
export { PRIV_M, PRIV_S, PRIV_U, createTranslationRegs } from './mmu/regs.ts';
export type { Privilege, TranslationRegs } from './mmu/regs.ts';
export {
  ATP_MODE_BARE,
  ATP_MODE_SV39,
  ATP_MODE_SV48,
  ATP_MODE_SV57,
  PTE_A,
  PTE_BYTES,
  PTE_D,
  PTE_G,
  PTE_PPN_SHIFT,
  PTE_R,
  PTE_RSW_MASK,
  PTE_RSW_SHIFT,
  PTE_U,
  PTE_V,
  PTE_W,
  PTE_X,
  pteHi,
  pteLeaf,
  pteLo,
  ptePpn,
  pteReserved,
} from './pte.ts';
export { DMA_FAULT, DMA_OK } from './wires.ts';
export type { DmaPort, IrqLine, MmioDevice } from './wires.ts';
