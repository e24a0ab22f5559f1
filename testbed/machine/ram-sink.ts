/** Where the ELF loader puts a program on a machine without a host: straight into RAM. */
import type { ElfSink, PhysMemory } from '#emu';

/** RAM as what loadElf() fills. */
export const ramSink = (memory: PhysMemory): ElfSink => ({
  contains: (pa, lenBytes) => memory.isRam(pa, lenBytes),
  write: (pa, bytes) => memory.writeBytes(pa, bytes),
  zero: (pa, lenBytes) => memory.writeBytes(pa, new Uint8Array(lenBytes)),
});
