/** Saved machines that the user names. */
import { type HostState, isHostState } from '../machine/host.ts';
import { readSnapshot, SnapshotError } from '../machine/snapshot.ts';
import { readInput } from './input.ts';
import { UsageError } from './usage-error.ts';

/** Reads the records of a saved machine. @throws UsageError when the file is none of this version */
export const readSaved = (file: string): HostState => {
  try {
    const state = readSnapshot(readInput(file));
    if (!isHostState(state)) throw new SnapshotError('a saved machine of another version');
    return state;
  } catch (error) {
    if (error instanceof SnapshotError) throw new UsageError(`${file}: ${error.message}`);
    throw error;
  }
};

/** Does something with those records. @throws UsageError where they do not make a machine */
export const fitting = <T>(file: string, make: () => T): T => {
  try {
    return make();
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`${file}: a saved machine, but its records do not fit together`);
  }
};
