/**
 * A variant of a scenario, built and ready: every run begins in the same state, because what the one
 * before it did is taken back by the journal. Generators cannot be taken back; a run that shares its
 * first choices with another makes them again.
 */
import { dropBarriers, journal, resetExploration, setMemoryModel } from '#cells/explorer';
import { cellActor, type Choice, Execution } from './execution.ts';
import type { Scenario, Stage, Variant } from './scenario.ts';
import { StateGuard } from './state.ts';

export class Explored {
  readonly scenario: Scenario;
  readonly variant: Variant;
  readonly stage: Stage;
  readonly actorNames: readonly string[];
  private readonly start: number;
  private readonly guard: StateGuard;

  constructor(scenario: Scenario, variant: Variant) {
    this.scenario = scenario;
    this.variant = variant;
    resetExploration();
    this.stage = scenario.build(variant);
    resetExploration();
    setMemoryModel(scenario.model);
    this.actorNames = this.stage.start().actors.map(({ name }) => name);
    const without = variant.withoutBarriers.map((name) => this.actorNames.indexOf(name));
    if (without.includes(-1)) throw new Error(`${variant.name}: no such actor without barriers`);
    dropBarriers(without.map(cellActor));
    this.guard = new StateGuard(this.stage.roots, this.stage.memory);
    this.start = journal.mark();
  }

  /**
   * The beginning of a run; the one before it is taken back.
   * @throws Error when something of that one is left: it did not go through the cells
   */
  begin(): Execution {
    journal.rollback(this.start);
    const left = this.guard.difference();
    if (left !== null)
      throw new Error(
        `explore ${this.scenario.name}: a run left ${left} changed behind the journal`,
      );
    return new Execution(this.stage.start());
  }

  /** Makes these choices one after the other. @returns null when one is not possible */
  play(schedule: readonly Choice[]): Execution | null {
    const execution = this.begin();
    for (const choice of schedule) {
      if (!execution.possible(choice)) return null;
      execution.take(choice);
    }
    return execution;
  }
}
