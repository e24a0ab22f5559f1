/** One progress line on standard error: on a terminal only, and only for work over two seconds. */

const FIRST_AFTER_MS = 2000;
const EVERY_MS = 250;

export class Progress {
  private readonly stream: NodeJS.WriteStream;
  private readonly startedAt: number;
  private lastAt: number;
  private shown: boolean;

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    this.stream = stream;
    this.startedAt = performance.now();
    this.lastAt = 0;
    this.shown = false;
  }

  /** Shows a line when it is time for one; `line` is called only then. */
  update(line: () => string): void {
    const now = performance.now();
    if (!this.stream.isTTY || now - this.startedAt < FIRST_AFTER_MS) return;
    if (now - this.lastAt < EVERY_MS) return;
    this.lastAt = now;
    this.shown = true;
    this.stream.write(`\r\x1b[K${line()}`);
  }

  /** Takes the line away, before anything else is printed. */
  clear(): void {
    if (this.shown) this.stream.write('\r\x1b[K');
    this.shown = false;
  }
}
