/** Negative errno values as people read them. */
import * as mm from '#mm';

/** Every error number that the door of mm/ names. */
const NAMES = new Map<number, string>(
  Object.entries(mm).flatMap(([name, value]) =>
    typeof value === 'number' && /^E[A-Z0-9]+$/.test(name) ? [[value, name]] : [],
  ),
);

/** -12 -> "-ENOMEM"; any other number as it is. */
export const errnoName = (error: number): string => {
  const name = NAMES.get(-error);
  return name === undefined ? `${error}` : `-${name}`;
};
