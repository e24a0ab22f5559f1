/**
 * Sanitizer, with provenance on: I5, what is pinned without time limit is where it may stay.
 *
 * Nothing of it is in zone MOVABLE, in CMA or in a block of a DAX file. A pageblock that is isolated
 * now may have been pinned from before: whoever isolates it will find that out.
 */
import { folioOf } from '../folio/folio.ts';
import { folioIsLongtermPinnable } from '../folio/pin.ts';
import { isCmaPage } from '../frames/free-list.ts';
import { MIGRATE_ISOLATE, pageblockType, pageZoneIndex } from '../frames/pageblock.ts';
import { ZONE_MOVABLE } from '../frames/zone.ts';
import { FOLL_LONGTERM } from '../gup/flags.ts';
import type { Hold } from '../provenance/provenance.ts';
import type { Kernel } from '../types.ts';

const isLongterm = ({ kind, flags, api }: Hold): boolean =>
  kind === 'pin' && ((flags & FOLL_LONGTERM) !== 0 || api === 'memfd_pin_folios');

const mayStay = (k: Kernel, folio: number): boolean =>
  folioIsLongtermPinnable(k, folio) ||
  (pageblockType(k, folio) === MIGRATE_ISOLATE &&
    !isCmaPage(k, folio) &&
    pageZoneIndex(k, folio) !== ZONE_MOVABLE);

/** Checks every pin on record, at any time: a call is recorded when it has what it returns. */
export const checkLongterm = (k: Kernel, report: string[]): void => {
  if (k.state.provenance === null) return;
  for (const [page, holds] of k.state.provenance.holds)
    for (const hold of holds)
      if (isLongterm(hold) && !mayStay(k, folioOf(k, page)))
        report.push(
          `I5 page ${page}: pinned for long by ${hold.user === '' ? 'somebody' : hold.user} ` +
            `(${hold.api}(), call ${hold.since}) where pages have to be able to move`,
        );
};
