/** The text files of /proc as JSON: what --json prints is what the text says. */

/** `Name:   123 kB` and `name 123` -> {Name: 123}. */
export const parseCounts = (text: string): Record<string, number> =>
  Object.fromEntries(
    text
      .trimEnd()
      .split('\n')
      .flatMap((line) => {
        const found = /^([\w()]+):? +(\d+)(?: kB)?$/.exec(line);
        return found === null ? [] : [[found[1]!, Number(found[2]!)]];
      }),
  );

/** One VMA of maps or smaps. */
export interface MapRow {
  start: string;
  end: string;
  rights: string;
  /** In bytes. */
  offset: number;
  dev: string;
  inode: number;
  name: string | null;
}

const MAPS_LINE =
  /^([0-9a-f]{8,})-([0-9a-f]{8,}) ([r-][w-][x-][sp]) ([0-9a-f]+) ([0-9a-f:]+) (\d+) *(.*)$/;

const parseMap = (line: string): MapRow | null => {
  const found = MAPS_LINE.exec(line);
  if (found === null) return null;
  const [, start, end, rights, offset, dev, inode, name] = found;
  return {
    start: `0x${start}`,
    end: `0x${end}`,
    rights: rights!,
    offset: Number.parseInt(offset!, 16),
    dev: dev!,
    inode: Number(inode!),
    name: name === '' ? null : name!,
  };
};

export const parseMaps = (text: string): MapRow[] =>
  text.split('\n').flatMap((line) => parseMap(line) ?? []);

/** A VMA with its numbers, in KiB but for THPeligible. */
export interface SmapRow extends MapRow {
  counts: Record<string, number>;
  flags: string[];
}

export const parseSmaps = (text: string): SmapRow[] => {
  const rows: SmapRow[] = [];
  for (const line of text.split('\n')) {
    const map = parseMap(line);
    const row = rows[rows.length - 1];
    if (map !== null) rows.push({ ...map, counts: {}, flags: [] });
    else if (line.startsWith('VmFlags:') && row !== undefined)
      row.flags = line.slice('VmFlags:'.length).trim().split(' ');
    else if (row !== undefined) Object.assign(row.counts, parseCounts(line));
  }
  return rows;
};
