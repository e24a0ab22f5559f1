/**
 * A device that is handed to a process, a VMM as a rule: the process shows it ranges of its memory at
 * bus addresses of its own choice, a guest's physical ones. What vfio type 1 does with the IOMMU;
 * compare drivers/vfio/vfio_iommu_type1.c: vfio_iommu_map(), vfio_unmap_unpin().
 *
 * The domain is a second stage, so that a guest may have a first one behind it. All that is shown is
 * pinned for long (mm/vfio/), shown when it is pinned, and taken back before it is unpinned; a domain of
 * this kind is never deferred.
 */
import { PAGE_SIZE } from '#emu';
import { type Kernel, type MmStruct, type Path, type VfioDma, vfioDmaMap, vfioDmaUnmap } from '#mm';
import type { DmaDevice } from './dma-device.ts';
import type { HostIommu } from './host-iommu.ts';
import type { IoDomain } from './io-domain.ts';

/** What vfio asks of an IOMMU, for a domain: addresses are the process's choice. */
const vfioIommuOf = (domain: IoDomain) => ({
  map: (iova: number, page: number, nr: number, writable: boolean): number => {
    const mapping = domain.mapAt(iova / PAGE_SIZE, [{ page, nr }], writable, 'vfio');
    return typeof mapping === 'number' ? mapping : 0;
  },
  unmap: (iova: number, lenBytes: number): void => {
    const first = iova / PAGE_SIZE;
    const end = first + lenBytes / PAGE_SIZE;
    for (const pfn of [...domain.mappings.keys()]) if (pfn >= first && pfn < end) domain.clear(pfn);
    domain.finishFixed();
  },
});

export class VfioDevice {
  readonly device: DmaDevice;
  private readonly kernel: Kernel;
  private readonly mm: MmStruct;
  private readonly iommu: ReturnType<typeof vfioIommuOf>;

  private constructor(device: DmaDevice, mm: MmStruct, domain: IoDomain) {
    this.kernel = device.kernel;
    this.device = device;
    this.mm = mm;
    this.iommu = vfioIommuOf(domain);
  }

  /**
   * Moves a device from its own domain to one that the process fills; after a restore it has it
   * already. Compare vfio_iommu_type1_attach_group().
   * @returns -ENOMEM
   */
  static open(host: HostIommu, device: DmaDevice, mm: MmStruct): VfioDevice | number {
    const own = device.domain;
    if (own?.stage === 2) return new VfioDevice(device, mm, own);
    const domain = host.createDomain(2, false);
    if (typeof domain === 'number') return domain;
    host.moveDevice(device, domain);
    if (own !== null) host.destroyDomain(own);
    return new VfioDevice(device, mm, domain);
  }

  /** VFIO_IOMMU_MAP_DMA. @returns as vfioDmaMap() */
  map(hva: number, iova: number, lenBytes: number, writable: boolean): Path<VfioDma | number> {
    return vfioDmaMap(this.kernel, this.mm, hva, iova, lenBytes, writable, this.iommu);
  }

  /** VFIO_IOMMU_UNMAP_DMA. @returns as vfioDmaUnmap() */
  unmap(iova: number, lenBytes: number): Path<number> {
    return vfioDmaUnmap(this.kernel, this.mm, iova, lenBytes, this.iommu);
  }
}
