/**
 * The device tree that a guest gets in a1: harts, memory, and the devices of the board it has.
 *
 * Bindings: Linux Documentation/devicetree/bindings (riscv/cpus, interrupt-controller
 * riscv,cpu-intc, sifive,plic and sifive,clint, serial/8250), Devicetree Specification 0.4 chapter 3.
 * The DMA engine's binding is ours. A guest has no CLINT: its timer and IPIs are the SBI's.
 */
import {
  ACLINT_BASE,
  ACLINT_BYTES,
  DMA_ENGINE_BASE,
  DMA_ENGINE_BYTES,
  DMA_ENGINE_IRQ,
  FINISHER_BASE,
  FINISHER_BYTES,
  PERSIST_LINE_BYTES,
  PLIC_BASE,
  PLIC_BYTES,
  PLIC_NR_SOURCES,
  TIMEBASE_HZ,
  UART_BASE,
  UART_BYTES,
  UART_IRQ,
} from '#emu';
import {
  type FdtNode,
  type FdtProperty,
  fdtBlob,
  fdtCells,
  fdtCells64,
  fdtEmpty,
  fdtStrings,
} from './fdt.ts';

/** What a guest sees of its hart. Zicntr through hcounteren, Sstc, Zicbom and Zicboz through henvcfg. */
export const GUEST_ISA_EXTENSIONS = [
  'i',
  'm',
  'a',
  'c',
  'zicbom',
  'zicboz',
  'zicntr',
  'zicsr',
  'zifencei',
  'zba',
  'zbb',
  'zbs',
  'sstc',
  'svadu',
] as const;

/** The same as a `riscv,isa` string: single letters joined, the rest each behind `_`. */
export const GUEST_ISA = `rv64${GUEST_ISA_EXTENSIONS.filter((e) => e.length === 1).join('')}${GUEST_ISA_EXTENSIONS.filter(
  (e) => e.length > 1,
)
  .map((e) => `_${e}`)
  .join('')}`;

/** Interrupts as the harts' own controllers number them. */
const IRQ_M_SOFT = 3;
const IRQ_M_TIMER = 7;
const IRQ_S_EXT = 9;
const IRQ_M_EXT = 11;
/** Marks a PLIC context that no hart has: the guest has no M-mode. */
const NO_CONTEXT = 0xffff_ffff;

export type GuestDevice = 'plic' | 'clint' | 'uart' | 'dma-engine' | 'finisher';

/** What is different from guest to guest. */
export interface GuestTreeConfig {
  nrHarts: number;
  /** RAM of the guest, in gpa. */
  memory: readonly { gpa: number; lenBytes: number }[];
  devices: readonly GuestDevice[];
  /** The software starts in M-mode and has the whole board: its PLIC contexts too. Default false. */
  machineMode?: boolean;
  bootargs?: string;
  /** More nodes under /soc. The PLIC's phandle is 1. */
  nodes?: readonly FdtNode[];
  /** Where an initial RAM disk was put, [start, end). */
  initrd?: { startGpa: number; endGpa: number };
}

const PHANDLE_PLIC = 1;
const phandleOfHart = (hart: number): number => 2 + hart;

/** The blob for a1. @throws RangeError when bootargs are not ASCII */
export const guestDeviceTree = (config: GuestTreeConfig): Uint8Array => fdtBlob(rootNode(config));

const node = (name: string, properties: FdtProperty[], children: FdtNode[] = []): FdtNode => ({
  name,
  properties,
  children,
});

const rootNode = (config: GuestTreeConfig): FdtNode =>
  node(
    '',
    [
      fdtCells('#address-cells', 2),
      fdtCells('#size-cells', 2),
      fdtStrings('compatible', 'gupbed,guest', 'riscv-virtio'),
      fdtStrings('model', 'gupbed,guest'),
    ],
    [
      chosenNode(config),
      ...config.memory.map(memoryNode),
      cpusNode(config.nrHarts),
      node(
        'soc',
        [
          fdtCells('#address-cells', 2),
          fdtCells('#size-cells', 2),
          fdtStrings('compatible', 'simple-bus'),
          fdtEmpty('ranges'),
        ],
        [...config.devices.map((device) => deviceNode(device, config)), ...(config.nodes ?? [])],
      ),
    ],
  );

const chosenNode = (config: GuestTreeConfig): FdtNode => {
  const properties: FdtProperty[] = [];
  if (config.bootargs !== undefined) properties.push(fdtStrings('bootargs', config.bootargs));
  if (config.devices.includes('uart'))
    properties.push(fdtStrings('stdout-path', `/soc/serial@${UART_BASE.toString(16)}`));
  if (config.initrd !== undefined)
    properties.push(
      fdtCells64('linux,initrd-start', config.initrd.startGpa),
      fdtCells64('linux,initrd-end', config.initrd.endGpa),
    );
  return node('chosen', properties);
};

const memoryNode = (range: { gpa: number; lenBytes: number }): FdtNode =>
  node(`memory@${range.gpa.toString(16)}`, [
    fdtStrings('device_type', 'memory'),
    fdtCells64('reg', range.gpa, range.lenBytes),
  ]);

const cpusNode = (nrHarts: number): FdtNode =>
  node(
    'cpus',
    [
      fdtCells('#address-cells', 1),
      fdtCells('#size-cells', 0),
      fdtCells('timebase-frequency', TIMEBASE_HZ),
    ],
    Array.from({ length: nrHarts }, (_, hart) => cpuNode(hart)),
  );

const cpuNode = (hart: number): FdtNode =>
  node(
    `cpu@${hart.toString(16)}`,
    [
      fdtStrings('device_type', 'cpu'),
      fdtCells('reg', hart),
      fdtStrings('status', 'okay'),
      fdtStrings('compatible', 'riscv'),
      fdtStrings('riscv,isa', GUEST_ISA),
      fdtStrings('riscv,isa-base', 'rv64i'),
      fdtStrings('riscv,isa-extensions', ...GUEST_ISA_EXTENSIONS),
      fdtCells('riscv,cbom-block-size', PERSIST_LINE_BYTES),
      fdtCells('riscv,cboz-block-size', PERSIST_LINE_BYTES),
      fdtStrings('mmu-type', 'riscv,sv48'),
    ],
    [
      node('interrupt-controller', [
        fdtCells('#interrupt-cells', 1),
        fdtCells('#address-cells', 0),
        fdtEmpty('interrupt-controller'),
        fdtStrings('compatible', 'riscv,cpu-intc'),
        fdtCells('phandle', phandleOfHart(hart)),
      ]),
    ],
  );

const wiredToPlic = (irq: number): FdtProperty[] => [
  fdtCells('interrupt-parent', PHANDLE_PLIC),
  fdtCells('interrupts', irq),
];

const deviceNode = (device: GuestDevice, config: GuestTreeConfig): FdtNode => {
  switch (device) {
    case 'plic':
      return node(`interrupt-controller@${PLIC_BASE.toString(16)}`, [
        fdtStrings('compatible', 'sifive,plic-1.0.0', 'riscv,plic0'),
        fdtCells64('reg', PLIC_BASE, PLIC_BYTES),
        fdtCells('#interrupt-cells', 1),
        fdtCells('#address-cells', 0),
        fdtEmpty('interrupt-controller'),
        // Two contexts a hart, M and S, as on the board; the guest has the second.
        fdtCells(
          'interrupts-extended',
          ...Array.from({ length: config.nrHarts }, (_, hart) => phandleOfHart(hart)).flatMap(
            (phandle) => [
              phandle,
              config.machineMode === true ? IRQ_M_EXT : NO_CONTEXT,
              phandle,
              IRQ_S_EXT,
            ],
          ),
        ),
        fdtCells('riscv,ndev', PLIC_NR_SOURCES),
        fdtCells('phandle', PHANDLE_PLIC),
      ]);
    case 'clint':
      return node(`clint@${ACLINT_BASE.toString(16)}`, [
        fdtStrings('compatible', 'sifive,clint0', 'riscv,clint0'),
        fdtCells64('reg', ACLINT_BASE, ACLINT_BYTES),
        fdtCells(
          'interrupts-extended',
          ...Array.from({ length: config.nrHarts }, (_, hart) => phandleOfHart(hart)).flatMap(
            (phandle) => [phandle, IRQ_M_SOFT, phandle, IRQ_M_TIMER],
          ),
        ),
      ]);
    case 'uart':
      return node(`serial@${UART_BASE.toString(16)}`, [
        fdtStrings('compatible', 'ns16550a'),
        fdtCells64('reg', UART_BASE, UART_BYTES),
        fdtCells('clock-frequency', 3_686_400),
        ...wiredToPlic(UART_IRQ),
      ]);
    case 'dma-engine':
      return node(`dma-controller@${DMA_ENGINE_BASE.toString(16)}`, [
        fdtStrings('compatible', 'gupbed,dma-engine'),
        fdtCells64('reg', DMA_ENGINE_BASE, DMA_ENGINE_BYTES),
        fdtCells('#dma-cells', 1),
        ...wiredToPlic(DMA_ENGINE_IRQ),
      ]);
    case 'finisher':
      return node(`test@${FINISHER_BASE.toString(16)}`, [
        fdtStrings('compatible', 'sifive,test1', 'sifive,test0', 'syscon'),
        fdtCells64('reg', FINISHER_BASE, FINISHER_BYTES),
      ]);
  }
};
