/**
 * Requests that a device model cannot answer at once: the backend has to do them first, and then the
 * memory that their answer goes to may have to be waited for.
 *
 *   push() ─> waiting ──next()──> running ──over()──> finished ──> answered
 *               a reset drops it    is void             is dropped
 */
import { copyChain, type VirtioChain } from './chain.ts';

/** What every request has. Plain data. */
export interface VirtioJob {
  queue: number;
  chain: VirtioChain;
  /** A reset came while it was under way: nobody waits for it any more. */
  void: boolean;
}

/** What a saved machine keeps of them. */
export interface JobListState<Job> {
  waiting: Job[];
  finished: Job[];
}

export class JobList<Job extends VirtioJob> {
  private readonly answer: (job: Job) => boolean;
  private waiting: Job[];
  private running: Job[];
  private finished: Job[];

  /** @param answer writes the answer and gives the buffer back; false where memory has to be waited for */
  constructor(answer: (job: Job) => boolean) {
    this.answer = answer;
    this.waiting = [];
    this.running = [];
    this.finished = [];
  }

  /** Jobs that nobody has begun. */
  get nrWaiting(): number {
    return this.waiting.length;
  }

  /** For the backend. */
  push(job: Job): void {
    this.waiting.push(job);
  }

  /** The one to be done next, which is under way from now on; undefined: there is none. */
  next(): Job | undefined {
    const job = this.waiting.shift();
    if (job !== undefined) this.running.push(job);
    return job;
  }

  /** One that was under way is over. @throws Error for any other */
  over(job: Job): void {
    const at = this.running.indexOf(job);
    if (at < 0) throw new Error('virtio: a request is over that was not under way');
    this.running.splice(at, 1);
    if (!job.void) this.finish(job);
  }

  /** Answers, now or when its memory can be reached. */
  finish(job: Job): void {
    if (!this.answer(job)) this.finished.push(job);
  }

  /** Answers those that had to wait. @returns false if one still has to */
  finishWaiting(): boolean {
    if (this.finished.length > 0) this.finished = this.finished.filter((job) => !this.answer(job));
    return this.finished.length === 0;
  }

  /** A reset of one queue, or of all. */
  drop(queue = -1): void {
    const stays = (job: Job): boolean => queue >= 0 && job.queue !== queue;
    this.waiting = this.waiting.filter(stays);
    this.finished = this.finished.filter(stays);
    for (const job of this.running) if (!stays(job)) job.void = true;
  }

  /** Is a job of this queue still under way that a reset made void? */
  busy(queue: number): boolean {
    return this.running.some((job) => job.void && job.queue === queue);
  }

  /** @throws Error while one is under way */
  save(): JobListState<Job> {
    if (this.running.length > 0) throw new Error('virtio: saved with a request under way');
    const copy = (job: Job): Job => ({ ...job, chain: copyChain(job.chain) });
    return { waiting: this.waiting.map(copy), finished: this.finished.map(copy) };
  }

  restore(state: JobListState<Job>): void {
    this.waiting = [...state.waiting];
    this.running = [];
    this.finished = [...state.finished];
  }
}
