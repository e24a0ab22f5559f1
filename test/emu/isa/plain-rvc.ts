/**
 * A second decoder of compressed instructions, for comparison: RV64C without F and D, by hand from
 * Unprivileged ISA 20240411, 26.3-26.5, one case at a time. It shares nothing with emu/isa/.
 */

export interface Expansion {
  mnemonic: string;
  rd: number;
  rs1: number;
  rs2: number;
  imm: number;
}

/**
 * An immediate as the manual's diagrams write it: groups from instruction bit 12 or wherever they
 * begin downwards, for example `5:3|2|6`.
 */
const scattered = (
  h: number,
  groups: readonly (readonly [top: number, bits: string])[],
): number => {
  let value = 0;
  for (const [top, bits] of groups) {
    let at = top;
    for (const group of bits.split('|')) {
      const [high = 0, low = high] = group.split(':').map(Number);
      for (let bit = high; bit >= low; bit--) value += ((h >> at--) & 1) * 2 ** bit;
    }
  }
  return value;
};

const signed = (value: number, bits: number): number =>
  value >= 2 ** (bits - 1) ? value - 2 ** bits : value;

/** The expansion of a half-word whose low two bits are not 11; undefined where it is illegal. */
export const plainExpand = (h: number): Expansion | undefined => {
  const funct3 = h >> 13;
  const full = (h >> 7) & 31;
  const full2 = (h >> 2) & 31;
  const short1 = 8 + ((h >> 7) & 7);
  const short2 = 8 + ((h >> 2) & 7);
  const bit12 = (h >> 12) & 1;
  const imm6 = signed(
    scattered(h, [
      [12, '5'],
      [6, '4:0'],
    ]),
    6,
  );
  const shamt = scattered(h, [
    [12, '5'],
    [6, '4:0'],
  ]);
  const word = scattered(h, [
    [12, '5:3'],
    [6, '2|6'],
  ]);
  const double = scattered(h, [
    [12, '5:3'],
    [6, '7:6'],
  ]);
  const make = (
    mnemonic: string,
    rd: number,
    rs1: number,
    rs2: number,
    imm: number,
  ): Expansion => ({
    mnemonic,
    rd,
    rs1,
    rs2,
    imm,
  });

  if ((h & 3) === 0) {
    const nzuimm = scattered(h, [[12, '5:4|9:6|2|3']]);
    if (funct3 === 0) return nzuimm === 0 ? undefined : make('addi', short2, 2, 0, nzuimm);
    if (funct3 === 2) return make('lw', short2, short1, 0, word);
    if (funct3 === 3) return make('ld', short2, short1, 0, double);
    if (funct3 === 6) return make('sw', 0, short1, short2, word);
    if (funct3 === 7) return make('sd', 0, short1, short2, double);
    return undefined;
  }

  if ((h & 3) === 1) {
    const jump = signed(scattered(h, [[12, '11|4|9:8|10|6|7|3:1|5']]), 12);
    const branch = signed(
      scattered(h, [
        [12, '8|4:3'],
        [6, '7:6|2:1|5'],
      ]),
      9,
    );
    if (funct3 === 0) return make('addi', full, full, 0, imm6);
    if (funct3 === 1) return full === 0 ? undefined : make('addiw', full, full, 0, imm6);
    if (funct3 === 2) return make('addi', full, 0, 0, imm6);
    if (funct3 === 3) {
      if (imm6 === 0) return undefined;
      if (full === 2)
        return make(
          'addi',
          2,
          2,
          0,
          signed(
            scattered(h, [
              [12, '9'],
              [6, '4|6|8:7|5'],
            ]),
            10,
          ),
        );
      return make('lui', full, 0, 0, imm6 * 4096);
    }
    if (funct3 === 5) return make('jal', 0, 0, 0, jump);
    if (funct3 === 6) return make('beq', 0, short1, 0, branch);
    if (funct3 === 7) return make('bne', 0, short1, 0, branch);
    const kind = (h >> 10) & 3;
    if (kind === 0) return make('srli', short1, short1, 0, shamt);
    if (kind === 1) return make('srai', short1, short1, 0, shamt);
    if (kind === 2) return make('andi', short1, short1, 0, imm6);
    const names = bit12 === 0 ? ['sub', 'xor', 'or', 'and'] : ['subw', 'addw'];
    const name = names[(h >> 5) & 3];
    return name === undefined ? undefined : make(name, short1, short1, short2, 0);
  }

  if (funct3 === 0) return make('slli', full, full, 0, shamt);
  if (funct3 === 2 && full !== 0)
    return make(
      'lw',
      full,
      2,
      0,
      scattered(h, [
        [12, '5'],
        [6, '4:2|7:6'],
      ]),
    );
  if (funct3 === 3 && full !== 0)
    return make(
      'ld',
      full,
      2,
      0,
      scattered(h, [
        [12, '5'],
        [6, '4:3|8:6'],
      ]),
    );
  if (funct3 === 4) {
    if (bit12 === 0 && full2 === 0) return full === 0 ? undefined : make('jalr', 0, full, 0, 0);
    if (bit12 === 0) return make('add', full, 0, full2, 0);
    if (full2 !== 0) return make('add', full, full, full2, 0);
    return full === 0 ? make('ebreak', 0, 0, 0, 0) : make('jalr', 1, full, 0, 0);
  }
  if (funct3 === 6) return make('sw', 0, 2, full2, scattered(h, [[12, '5:2|7:6']]));
  if (funct3 === 7) return make('sd', 0, 2, full2, scattered(h, [[12, '5:3|8:6']]));
  return undefined;
};
