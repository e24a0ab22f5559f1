/**
 * What the IOMMU and the devices behind it have cached, held against what may be reached (I10): a domain's
 * entry stands for a mapping that is there, and its frame is pinned for as long. For entries of processes
 * see iommu-sva.ts: those are held against the process's own tables.
 *
 * Deferred invalidation leaves entries behind on purpose. They are no violation before they are used;
 * windowEntries() tells what could be reached through them.
 */
import { readOnce } from '#cells';
import { PAGE_SIZE, RAM_PFN_BASE } from '#emu';
import { folioMaybeDmaPinned, folioOf, folioRefCount, type Kernel, PG_RESERVED } from '#mm';
import type { DmaDevice } from './dma-device.ts';
import type { DmaMapping } from './dma-mapping.ts';
import { frameOwner } from './frame-owner.ts';
import type { HostIommu } from './host-iommu.ts';
import type { IoDomain } from './io-domain.ts';
import { describePast } from './iommu-faults.ts';

/** Told of one page that is cached: in the IOTLB, or in a device. */
type PageVisitor = (where: string, domain: IoDomain, pfn: number, page: number) => void;

/** Every page of a domain that somebody has cached. */
const visitPages = (host: HostIommu, visit: PageVisitor): void => {
  host.model.visitIotlb(({ gscid, pscid }, iova, spa, lenBytes) => {
    const domain = host.domainOf(gscid >= 0 ? gscid : pscid);
    if (domain === undefined || (domain.stage === 2) !== gscid >= 0) return;
    for (let done = 0; done < lenBytes; done += PAGE_SIZE)
      visit('IOTLB', domain, (iova + done) / PAGE_SIZE, (spa + done) / PAGE_SIZE - RAM_PFN_BASE);
  });
  for (const [device, atc] of host.sva.allCaches()) {
    const { domain } = device;
    if (domain === null) continue;
    atc.visit((processId, iova, target) => {
      if (processId < 0)
        visit(`ATC of ${device.name}`, domain, iova / PAGE_SIZE, target / PAGE_SIZE - RAM_PFN_BASE);
    });
  }
};

/** A frame that nobody keeps where it is: free, or a user's page without a pin. */
const isUnheld = (k: Kernel, page: number): boolean => {
  const { frames } = k.state;
  if (page < 0 || page >= frames.nrPages) return false;
  const folio = folioOf(k, page);
  if (folioRefCount(k, folio) === 0) return true;
  if ((readOnce(frames.flags, folio) & PG_RESERVED) !== 0) return false;
  return frames.mapping[folio] !== 0 && !folioMaybeDmaPinned(k, folio);
};

const entryText = (
  k: Kernel,
  where: string,
  domain: IoDomain,
  pfn: number,
  page: number,
  mapping: string,
): string =>
  `${where} entry of domain ${domain.id} for iova 0x${(pfn * PAGE_SIZE).toString(16)} reaches pfn ` +
  `${page + RAM_PFN_BASE}: ${mapping}; ${frameOwner(k, page)}`;

const describeLive = (mapping: Readonly<DmaMapping>): string =>
  `mapped for ${mapping.user} (${mapping.nrPages} pages)`;

/** @returns violations, one line each: also those that devices have committed */
export const checkIommu = (host: HostIommu): string[] => {
  const report: string[] = [];
  const k = host.kernel;
  visitPages(host, (where, domain, pfn, page) => {
    const live = domain.mappingAt(pfn);
    if (live !== undefined && domain.frameAt(pfn) === page) {
      if (isUnheld(k, page))
        report.push(`I10 ${entryText(k, where, domain, pfn, page, describeLive(live))}`);
      return;
    }
    if (domain.staleAt(pfn) !== undefined) return;
    const past = describePast(domain.pastAt(pfn));
    report.push(`I10 stale ${entryText(k, where, domain, pfn, page, past)}`);
  });
  for (const device of host.allDevices) report.push(...deviceViolations(device));
  return report;
};

/** What got through to memory that was not the device's to reach. What the IOMMU has stopped is no violation. */
export const deviceViolations = (device: DmaDevice): string[] =>
  device.violations.filter(({ kind }) => kind !== 'blocked').map(({ text }) => `DMA ${text}`);

/** Entries that wait for their invalidation, in words: what a device could still reach by each. */
export const windowEntries = (host: HostIommu): string[] => {
  const entries: string[] = [];
  visitPages(host, (where, domain, pfn, page) => {
    const past = domain.staleAt(pfn);
    if (past !== undefined)
      entries.push(entryText(host.kernel, where, domain, pfn, page, describePast(past)));
  });
  return entries;
};
