/** Names of the integer registers: RISC-V ABI 1.1, table of register names. */

/** ABI names of x0..x31. */
export const REGISTER_NAMES: readonly string[] = [
  ...['zero', 'ra', 'sp', 'gp', 'tp', 't0', 't1', 't2', 's0', 's1'],
  ...['a0', 'a1', 'a2', 'a3', 'a4', 'a5', 'a6', 'a7'],
  ...['s2', 's3', 's4', 's5', 's6', 's7', 's8', 's9', 's10', 's11'],
  ...['t3', 't4', 't5', 't6'],
];

const numberOfName = new Map<string, number>([['fp', 8]]);
REGISTER_NAMES.forEach((name, register) => {
  numberOfName.set(name, register).set(`x${register}`, register);
});

/** Number of a register by its ABI name, x0..x31 or fp; undefined for anything else. */
export const registerNumber = (name: string): number | undefined => numberOfName.get(name);
/** ABI name of register 0..31. @throws RangeError for another number */
export const registerName = (register: number): string => {
  const name = REGISTER_NAMES[register];
  if (name === undefined) throw new RangeError(`no integer register has number ${register}`);
  return name;
};
