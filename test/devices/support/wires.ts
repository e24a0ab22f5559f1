/** Wires for device tests: a line that remembers its level, and a clock that is moved by hand. */
import { Clock, type IrqLine } from '#emu';

export interface ProbedLine extends IrqLine {
  level: boolean;
  /** Changes of level, as 'up' and 'down'. */
  edges: string[];
}

export const probedLine = (): ProbedLine => {
  const line: ProbedLine = {
    level: false,
    edges: [],
    set: (level) => {
      if (level !== line.level) line.edges.push(level ? 'up' : 'down');
      line.level = level;
    },
  };
  return line;
};

/** Moves a clock forward, event by event, as a machine does. */
export const runTo = (clock: Clock, when: number): void => {
  while (clock.nextAt <= when) {
    clock.now = Math.max(clock.now, clock.nextAt);
    clock.deliverDue();
  }
  clock.now = when;
};

export { Clock };
