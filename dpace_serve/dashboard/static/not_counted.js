// What the statistics left out, and what was lost, in words.

import { h } from "./dom.js";
import * as format from "./format.js";
import { table } from "./tables.js";

const EXCLUDED = {
  aborted: "the client left, or the engine gave up",
  several_outputs: "more than one answer was asked for",
  stop_string: "ended by a stop string, which the engine had counted past",
  no_record: "the engine gave no record of its steps",
  no_step: "nothing was drafted, or nothing of it compared",
  no_shadow: "the drafts of a challenger were lost",
};
const LOST = {
  record: "the record could not be built",
  observe: "the record could not be counted",
  shadow: "the drafts of a challenger could not be compared",
  verdict: "the record could not be counted for a verdict",
  log: "the line of the acceptance log could not be written",
  capture: "the tokens could not be captured",
  step: "the time of an engine's step could not be counted",
  trace: "the record could not be put on the request's trace",
};

export function notCounted(acceptance) {
  const rows = [
    ...rowsOf("excluded", acceptance.excluded, EXCLUDED),
    ...rowsOf("lost", acceptance.export_errors, LOST),
  ].filter(([, , records]) => records > 0);
  const unknown = acceptance.unknown_workload;
  return [
    rows.length === 0
      ? h("p", { class: "muted" }, "Every request that ended was counted, and no record was lost.")
      : table(
          "What the statistics leave out, and what was lost",
          ["|What", "|Why", "Count"],
          rows.map(([what, why, records]) => [what, why, format.count(records)]),
        ),
    unknown > 0 &&
      h("p", { class: "muted small" }, `${format.counted(unknown, "request")} named an unknown workload: counted as other.`),
  ];
}

const rowsOf = (what, counts, words) =>
  Object.entries(counts ?? {}).map(([reason, records]) => [what, words[reason] ?? reason, records]);
