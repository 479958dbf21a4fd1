// Who is shown, in which colour and shape: the champion first, then challengers by name.

import { h, svg } from "./dom.js";

const MOST_STYLES = 4;
const SHAPES = {
  "series-1": () => svg("circle", { cx: 6, cy: 6, r: 5 }),
  "series-2": () => svg("path", { d: "M6 0 12 6 6 12 0 6z" }),
  "series-3": () => svg("path", { d: "M1 1h10v10H1z" }),
  "series-4": () => svg("path", { d: "M6 0.5 12 11H0z" }),
  former: () => svg("path", { d: "M0 4.5h12v3H0z" }),
};

/** plotly's names of the same shapes. */
export const SYMBOLS = {
  "series-1": "circle",
  "series-2": "diamond",
  "series-3": "square",
  "series-4": "triangle-up",
  former: "line-ew",
};

export const keyOf = ({ drafter, revision, arm }) => JSON.stringify([drafter, revision, arm]);

/** Rows of /dpace/acceptance without the workloads: one for each drafter and arm. */
export const totals = (acceptance) => acceptance.drafters.filter((row) => row.workload === undefined);

/** Style of each loaded drafter; whoever has none is a former one. */
export function buildStyles(acceptance, drafters) {
  const champion = acceptance.drafter;
  const styles = new Map([[identity(champion.name, champion.revision), "series-1"]]);
  const challengers = (drafters?.drafters ?? [])
    .filter((slot) => slot.role === "challenger")
    .map((slot) => [slot.name, slot.revision]);
  const known = drafters === null ? inArms(acceptance) : challengers;
  for (const [name, revision] of known.sort()) {
    const key = identity(name, revision);
    const place = 2 + ((styles.size - 1) % (MOST_STYLES - 1));
    if (!styles.has(key)) styles.set(key, `series-${place}`);
  }
  return (name, revision) => styles.get(identity(name, revision)) ?? "former";
}

const identity = (name, revision) => JSON.stringify([name, revision]);

const inArms = (acceptance) =>
  totals(acceptance)
    .filter((row) => row.arm !== "champion")
    .map((row) => [row.drafter, row.revision]);

/** Totals worth showing: loaded drafters in the arms that they have now, once they have a request. */
export function current(acceptance, styleOf) {
  const champion = acceptance.drafter;
  return totals(acceptance)
    .map((row) => ({ ...row, style: styleOf(row.drafter, row.revision) }))
    .filter((row) => row.requests > 0 && row.style !== "former")
    .filter((row) => {
      const isChampion = row.drafter === champion.name && row.revision === champion.revision;
      return isChampion === (row.arm === "champion");
    })
    .sort((a, b) => a.style.localeCompare(b.style));
}

const ARMS = { champion: "champion", challenger: "challenger", shadow: "in the shadow" };

export const labelOf = ({ drafter, arm }) => `${drafter}, ${ARMS[arm] ?? arm}`;

export const mark = (style) =>
  svg("svg", { class: `mark ${style}`, viewBox: "0 0 12 12", "aria-hidden": "true" }, SHAPES[style]());

/** A drafter's mark and name; long names are cut, and whole in the tooltip. */
export const named = (text, style) =>
  h("span", { class: "name", title: text }, mark(style), h("span", {}, text));
