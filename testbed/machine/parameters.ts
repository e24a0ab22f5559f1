/** Numbers for a guest program, at its entry + 8, where guests/lib/crt0.S has room for four. */
import type { ElfImage } from '#emu';

/** Parameters that a program takes, at most. */
export const MAX_PARAMETERS = 4;

/** The image with the first parameters replaced; those left out stay the program's own: 0, its default. */
export const putParameters = (image: ElfImage, parameters: readonly number[]): ElfImage => ({
  ...image,
  segments: image.segments.map((segment) => {
    const at = image.entry + 8 - segment.pa;
    if (at < 0 || at + 8 * MAX_PARAMETERS > segment.bytes.length) return segment;
    const bytes = Uint8Array.from(segment.bytes);
    const view = new DataView(bytes.buffer);
    for (const [i, value] of parameters.entries())
      view.setBigUint64(at + 8 * i, BigInt(value), true);
    return { ...segment, bytes };
  }),
});
