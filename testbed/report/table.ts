/** Aligned tables and emphasis for people; colour only where the stream is a terminal. */
import { styleText } from 'node:util';

export type Style = 'bold' | 'dim' | 'green' | 'red' | 'yellow' | 'cyan';

/** Emphasises text when `on`; leaves it alone otherwise. */
export const paint = (on: boolean, style: Style, text: string): string =>
  on ? styleText(style, text) : text;

/** True where colour is wanted: a terminal, and NO_COLOR not set (no-color.org). */
export const wantsColour = (stream: { isTTY?: boolean }): boolean =>
  stream.isTTY === true && (process.env['NO_COLOR'] ?? '') === '';

/** Rows as lines: the first column to the left, the others to the right; two spaces between. */
export const alignRows = (rows: string[][]): string[] => {
  const widths: number[] = [];
  for (const row of rows)
    for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  return rows.map((row) =>
    row
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join('  ')
      .trimEnd(),
  );
};
