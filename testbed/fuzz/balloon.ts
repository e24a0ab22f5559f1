/** A virtio balloon under attack: page numbers, reports and statistics that make no sense. */
import { BALLOON_PAGE_BYTES, type BalloonClient, type BalloonJob, VirtioBalloon } from '#devices';
import type { FuzzTarget } from './target.ts';
import { virtioTarget } from './virtio-attack.ts';

const GUEST_PAGES = 64;

/** What the backend is asked to give up: whole pages, and no more of them than a buffer can name. */
const mustBePossible = ({ ranges }: BalloonJob): void => {
  for (const { gpa, lenBytes } of ranges)
    if (gpa % BALLOON_PAGE_BYTES !== 0 || lenBytes % BALLOON_PAGE_BYTES !== 0 || lenBytes <= 0)
      throw new Error(`the balloon gives up ${lenBytes} bytes at 0x${gpa.toString(16)}`);
};

export const BALLOON_TARGETS: readonly FuzzTarget[] = [
  virtioTarget('virtio-balloon', 'a virtio balloon: pages, reports, statistics', (port) => {
    let client: BalloonClient | undefined;
    const running: BalloonJob[] = [];
    const device = new VirtioBalloon({
      port,
      guestPages: GUEST_PAGES,
      backend: {
        post: (posted) => {
          client = posted;
        },
      },
    });
    return {
      device,
      // Page numbers; and as statistics, tags that are known and others.
      fill: (memory, at, rng) => {
        for (let i = 0; i < 64; i += 4)
          memory.setUint32(at + i, rng.chance(80) ? 0x8_0000 + rng.below(80) : rng.next(), true);
        if (rng.chance(30)) memory.setUint16(at, rng.below(12), true);
      },
      settle: (rng) => {
        if (rng.chance(30)) device.setTarget(rng.below(100));
        if (rng.chance(30)) device.askForStats();
        for (let n = rng.below((client?.nrWaiting ?? 0) + 1); n > 0; n--) {
          const job = client?.nextJob();
          if (job === undefined) throw new Error('a job that waits is none');
          mustBePossible(job);
          running.push(job);
        }
        for (let n = rng.below(running.length + 1); n > 0; n--) {
          const [job] = running.splice(rng.below(running.length), 1);
          if (job !== undefined) client?.complete(job);
        }
      },
    };
  }),
];
