/** Areas of CMA: memory that is lent out until somebody needs it in one piece. Compare mm/cma.h. */

/** Plain data. */
export interface CmaArea {
  name: string;
  /** Its frames: whole pageblocks of MIGRATE_CMA, of one zone. */
  basePage: number;
  nrPages: number;
  /** A bit for each page that cmaAlloc() has handed out, 32 a word. */
  bitmap: Int32Array;
  /** Pages without a bit. */
  available: number;
  /** alloc_mutex: one allocation at a time isolates pageblocks of the area. */
  allocating: boolean;
  /** Pages of allocations that worked and that did not, and pages given back, since boot. */
  allocSuccess: number;
  allocFail: number;
  released: number;
}

export const createCmaArea = (name: string, basePage: number, nrPages: number): CmaArea => ({
  name,
  basePage,
  nrPages,
  bitmap: new Int32Array(Math.ceil(nrPages / 32)),
  available: nrPages,
  allocating: false,
  allocSuccess: 0,
  allocFail: 0,
  released: 0,
});
