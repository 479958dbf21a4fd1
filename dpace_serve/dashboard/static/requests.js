// The newest requests, each with its verification steps.

import { h, svg } from "./dom.js";
import * as format from "./format.js";
import { labelOf, named } from "./series.js";

const STEP = 6;
const BLOCK = 4;
const MOST_STEPS = 160;
const SAID_STEPS = 24;
const OPEN_REQUESTS = 6;

export function requests(acceptance, styleOf) {
  const byRequest = new Map();
  for (const record of acceptance.records.toReversed()) {
    if (!byRequest.has(record.request_id)) byRequest.set(record.request_id, []);
    byRequest.get(record.request_id).unshift(record);
  }
  if (byRequest.size === 0) return [h("p", { class: "muted" }, "No request has ended yet.")];
  const items = [...byRequest.values()].map((records) =>
    h(
      "li",
      {},
      h(
        "p",
        { class: "request-head" },
        h("code", {}, records[0].request_id),
        h("span", {}, records[0].workload),
        h("span", {}, `ended: ${records[0].finish_reason}`),
      ),
      records.map((record) => recordRow(record, acceptance.num_draft_tokens, styleOf)),
    ),
  );
  const list = (some) => h("ul", { class: "requests", role: "list" }, some);
  const earlier = items.length - OPEN_REQUESTS;
  return [
    list(items.slice(0, OPEN_REQUESTS)),
    earlier > 0 &&
      h("details", {}, h("summary", {}, format.counted(earlier, "earlier request")), list(items.slice(OPEN_REQUESTS))),
  ];
}

function recordRow(record, numDraftTokens, styleOf) {
  const style = styleOf(record.drafter, record.revision);
  return h(
    "div",
    { class: "record" },
    named(labelOf(record), style),
    h("span", { class: "muted" }, `tau ${format.tau(record.tau)}, ${format.counted(record.steps, "step")}, ${format.count(record.accepted)} accepted`),
    h("div", { class: style }, strip(record, numDraftTokens)),
  );
}

function strip(record, numDraftTokens) {
  const drafted = record.per_step_drafted.slice(0, MOST_STEPS);
  const accepted = record.per_step_accepted.slice(0, MOST_STEPS);
  const width = Math.max(1, drafted.length) * STEP;
  const height = numDraftTokens * BLOCK;
  const columns = (lengths) =>
    lengths
      .map((length, step) => `M${step * STEP} ${height}v${-length * BLOCK}h${STEP - 1}v${length * BLOCK}z`)
      .join("");
  const joints = Array.from({ length: numDraftTokens - 1 }, (_, index) => `M0 ${(index + 1) * BLOCK}H${width}`);
  return svg(
    "svg",
    {
      class: "strip",
      role: "img",
      "aria-label": inWords(record),
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      preserveAspectRatio: "none",
    },
    svg("path", { class: "drafted", d: columns(drafted) }),
    svg("path", { class: "accepted", d: columns(accepted) }),
    svg("path", { class: "joints", d: joints.join("") }),
  );
}

function inWords({ per_step_accepted: accepted, per_step_drafted: drafted }) {
  const said = accepted.slice(0, SAID_STEPS).map((length, step) => `${length} of ${drafted[step]}`);
  const more = accepted.length - said.length;
  return `Accepted by step: ${said.join(", ")}${more > 0 ? `, and ${format.counted(more, "more step")}` : ""}`;
}
