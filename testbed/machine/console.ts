/** Guest output: gathers bytes, hands on whole lines as text. Input there is none. */

/** Told of every whole line, without its line feed. */
export type LineListener = (line: string) => void;

export class LineConsole {
  private bytes: number[];
  private taken: string[];
  private readonly onLine: LineListener;

  constructor(onLine: LineListener = () => {}) {
    this.bytes = [];
    this.taken = [];
    this.onLine = onLine;
  }

  /** A byte of output; carriage returns are dropped. */
  put(byte: number): void {
    if (byte === 0x0a) this.flush();
    else if (byte !== 0x0d) this.bytes.push(byte);
  }

  /** Next byte of input: -1, none. */
  get(): number {
    return -1;
  }

  /** Ends a line that has no line feed yet; nothing where there is none. */
  finish(): void {
    if (this.bytes.length > 0) this.flush();
  }

  /** Everything that was printed, by lines. */
  get lines(): readonly string[] {
    return this.taken;
  }

  private flush(): void {
    const line = new TextDecoder().decode(Uint8Array.from(this.bytes));
    this.bytes = [];
    this.taken.push(line);
    this.onLine(line);
  }

  save(): { bytes: number[]; lines: string[] } {
    return { bytes: [...this.bytes], lines: [...this.taken] };
  }

  restore(state: { bytes: number[]; lines: string[] }): void {
    this.bytes = [...state.bytes];
    this.taken = [...state.lines];
  }
}
