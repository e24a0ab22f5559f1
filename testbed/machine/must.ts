/** Calls of the model's host that cannot fail on a machine that was made large enough. */

/** What a call returned. @throws Error naming the call and its errno, when it failed after all */
export const must = <T>(what: string, result: T | number): T => {
  if (typeof result === 'number' && result < 0) throw new Error(`${what}: errno ${-result}`);
  return result as T;
};
