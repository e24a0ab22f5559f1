/** An empty virtio-mmio slot. virtio 1.2, 4.2.2. */
import { describe, expect, it } from 'vitest';
import { EmptyVirtioSlot } from '#devices';
import { assemble, RAM_BASE, VIRTIO_BASE, VIRTIO_SLOTS, VIRTIO_STRIDE } from '#emu';
import { BareMachine } from '#testbed';

describe('virtio-mmio slot without a device — virtio 1.2, 4.2.2', () => {
  const registers: { fact: string; offset: number; value: number }[] = [
    { fact: 'MagicValue reads "virt"', offset: 0x000, value: 0x74726976 },
    { fact: 'Version reads 2, the modern interface', offset: 0x004, value: 2 },
    { fact: 'DeviceID reads 0: a driver passes over the slot', offset: 0x008, value: 0 },
    { fact: 'Status reads 0', offset: 0x070, value: 0 },
  ];
  for (const { fact, offset, value } of registers)
    it(fact, () => expect(new EmptyVirtioSlot().read(offset, 4)).toBe(value));

  it('writes change nothing', () => {
    const slot = new EmptyVirtioSlot();
    slot.write(0x070, 4, 1);
    expect(slot.read(0x070, 4)).toBe(0);
  });

  it("a program that probes all eight slots of QEMU's board finds none taken, and no fault", () => {
    const machine = new BareMachine({ ramBytes: 1 << 20, harts: 1 });
    const program = assemble(
      `li   t0, ${VIRTIO_BASE}
       li   t1, ${VIRTIO_SLOTS}
       li   a0, 0
    1: lwu  t2, 0(t0)
       add  a0, a0, t2
       lwu  t2, 8(t0)
       add  a1, a1, t2
       li   t2, ${VIRTIO_STRIDE}
       add  t0, t0, t2
       addi t1, t1, -1
       bnez t1, 1b
    2: j    2b`,
      { origin: RAM_BASE },
    );
    machine.memory.writeBytes(RAM_BASE, program.bytes);
    const hart = machine.harts[0]!;
    hart.setPc(BigInt(RAM_BASE));
    while (machine.retired < 200) machine.step(200 - machine.retired);
    expect(hart.x(10)).toBe(8n * 0x74726976n);
    expect(hart.x(11)).toBe(0n);
  });
});
