/**
 * The records of merged pages: made when a page is merged, gone when it is freed.
 * Compare mm/ksm.c, struct ksm_stable_node and struct ksm_rmap_item.
 */
import {
  fetchAndNot,
  fetchOr,
  listPush,
  listRemoveAt,
  mapDelete,
  mapSet,
  readOnce,
  setField,
  writeOnce,
} from '#cells';
import { PG_KSM } from '../frames/table.ts';
import { newId } from '../rmap/anon-vma.ts';
import type { AnonVma, Kernel } from '../types.ts';
import type { KsmItem, KsmNode } from './state.ts';

/** The node of a merged page. @throws Error for any other */
export const ksmNodeOf = (k: Kernel, page: number): KsmNode => {
  const node = k.state.mappings.get(readOnce(k.state.frames.mapping, page));
  if (node === undefined || node.kind !== 'ksm') throw new Error(`page ${page} was never merged`);
  return node;
};

/** The page is a merged one from now on, found by the items. Compare folio_set_stable_node(). */
export const ksmNodeCreate = (k: Kernel, page: number, items: KsmItem[]): void => {
  const node: KsmNode = { kind: 'ksm', id: newId(k), page, items };
  mapSet(k.state.mappings, node.id, node);
  listPush(k.state.ksm.nodes, node);
  writeOnce(k.state.frames.mapping, page, node.id);
  fetchOr(k.state.frames.flags, page, PG_KSM);
};

/** One place more that maps the merged page. Compare stable_tree_append(). */
export const ksmNodeAppend = (node: KsmNode, anonVma: AnonVma, hva: number): void => {
  if (node.items.some((item) => item.hva === hva && item.anonVma === anonVma)) return;
  listPush(node.items, { anonVma, hva });
};

/** A merged page is being freed. Compare remove_node_from_stable_tree(). */
export const ksmPageFreed = (k: Kernel, page: number): void => {
  const node = ksmNodeOf(k, page);
  const { nodes } = k.state.ksm;
  listRemoveAt(nodes, nodes.indexOf(node));
  mapDelete(k.state.mappings, node.id);
};

/** `dst` is what `src` was: bytes, flags and mapping are there already. Compare ksm_migrate_folio(). */
export const ksmMigratePage = (k: Kernel, dst: number, src: number): void => {
  setField(ksmNodeOf(k, dst), 'page', dst);
  fetchAndNot(k.state.frames.flags, src, PG_KSM);
  writeOnce(k.state.frames.mapping, src, 0);
};
