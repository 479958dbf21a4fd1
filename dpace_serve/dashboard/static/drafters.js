// The slots of this server and who is in them.

import { h } from "./dom.js";
import * as format from "./format.js";
import { named } from "./series.js";
import { table } from "./tables.js";

export function slots(drafters, styleOf) {
  if (drafters === null) return [h("p", { class: "muted" }, "This server does not say which drafters it holds.")];
  const rows = drafters.drafters.map((slot) => [
    String(slot.slot),
    slot.name === null ? h("span", { class: "muted" }, "empty") : named(slot.name, styleOf(slot.name, slot.revision)),
    h("span", { class: "role" }, slot.is_loading ? "loading" : slot.role),
    slot.revision === null ? format.NOTHING : h("code", { title: slot.revision }, format.short(slot.revision)),
    format.count(slot.block_size),
    format.count(slot.running),
    format.count(slot.served),
    format.count(slot.shadowed),
  ]);
  return [
    table(
      traffic(drafters),
      ["Slot", "|Drafter", "|Role", "|Revision", "Block", "Running", "Served", "Shadowed"],
      rows,
      "stacks",
    ),
  ];
}

function traffic({ mode, share, shadow_share: shadowShare }) {
  return mode === "split"
    ? `Split: each challenger serves ${format.percent(share, 0)} of the requests`
    : `Shadow: challengers draft along with ${format.percent(shadowShare, 0)} of the champion's requests`;
}
