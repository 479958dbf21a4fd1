// Tau by workload and drafter, on one scale.

import { h } from "./dom.js";
import * as format from "./format.js";
import { keyOf, labelOf, named } from "./series.js";
import { intervalMark, table } from "./tables.js";

export function workloads(acceptance, rows) {
  const shown = new Map(rows.map((row) => [keyOf(row), row.style]));
  const all = acceptance.drafters.filter((row) => row.workload !== undefined && shown.has(keyOf(row)));
  const counted = all.filter((row) => row.requests > 0);
  const silent = new Set(all.map((row) => row.workload));
  for (const row of counted) silent.delete(row.workload);
  if (counted.length === 0) return [h("p", { class: "muted" }, "No request has been counted yet.")];
  // Neighbours compare one workload; drafters keep their order within it.
  const names = [...new Set(counted.map((row) => row.workload))].sort();
  const ordered = names.flatMap((name) => counted.filter((row) => row.workload === name));
  const bounds = ordered.flatMap((row) => [row.tau, row.tau_low, row.tau_high]).filter((bound) => bound !== null);
  const scale = { from: Math.max(0, Math.min(...bounds)), to: Math.max(...bounds) };
  const cells = (row) => [
    row.workload,
    named(labelOf(row), shown.get(keyOf(row))),
    format.tau(row.tau),
    format.interval(row.tau_low, row.tau_high, format.tau) || "too few",
    format.count(row.requests),
    intervalMark({ value: row.tau, low: row.tau_low, high: row.tau_high, ...scale, style: shown.get(keyOf(row)) }),
  ];
  return [
    table(
      `Tau by workload, with ${format.percent(acceptance.confidence, 0)} intervals`,
      ["|Workload", "|Drafter", "Tau", "Interval", "Requests", `|${format.tau(scale.from)} to ${format.tau(scale.to)}`],
      ordered.map(cells),
      "stacks",
    ),
    silent.size > 0 &&
      h("p", { class: "muted small" }, `Without a request: ${[...silent].sort().join(", ")}.`),
  ];
}
