// The one number: the estimated gain of speculating now, or tau where no gain can be estimated.

import { h } from "./dom.js";
import * as format from "./format.js";
import { totals } from "./series.js";

export const headlineTitle = ({ speed }) => (hasGain(speed) ? "Gain over no speculation" : "Tau of the champion");

const hasGain = (speed) => typeof speed?.speedup === "number";

export function headline(acceptance) {
  const speed = acceptance.speed ?? null;
  const champion = totals(acceptance).find(
    (row) =>
      row.arm === "champion" &&
      row.drafter === acceptance.drafter.name &&
      row.revision === acceptance.drafter.revision,
  );
  return [
    h("div", {}, hasGain(speed) ? gain(speed) : [tau(acceptance, champion), cure(speed)]),
    facts(acceptance, champion, speed),
  ];
}

function gain(speed) {
  const change = speed.speedup - 1;
  const words = change >= 0 ? "faster" : "slower";
  return [
    h("p", { class: "display" }, format.number(speed.speedup, 2), h("small", {}, " \u00d7")),
    h(
      "p",
      {},
      `Estimated tokens per second against no speculation at this load: ${format.percent(Math.abs(change), 0)} ${words}.`,
    ),
    h(
      "p",
      { class: "muted small" },
      "Tokens and time are counted; the time without speculation is the calibrated one, whose own error is not in the number.",
    ),
    change < 0 &&
      h("p", { class: "note" }, "Speculation costs time at this load. dpace tune writes a schedule that drafts less here."),
  ];
}

function tau(acceptance, champion) {
  const reach = format.interval(champion?.tau_low, champion?.tau_high, format.tau);
  return [
    typeof champion?.tau === "number"
      ? h("p", { class: "display" }, format.tau(champion.tau), h("small", {}, " tau"))
      : h("p", { class: "display" }, h("small", {}, "No request yet")),
    h(
      "p",
      {},
      "Tokens per verification step of the champion",
      reach && `, ${format.percent(acceptance.confidence, 0)} interval ${reach}`,
      ".",
    ),
  ];
}

function cure(speed) {
  return h("p", { class: "note" }, speed === null ? NOT_TIMED : speed.calibrated_batch_sizes ? outside(speed) : uncalibrated());
}

const NOT_TIMED = "The gain in time is estimated while requests run: none of the last minute was timed.";

function outside({ calibrated_batch_sizes: [smallest, largest] }) {
  const sizes = smallest === largest ? format.count(smallest) : `${format.count(smallest)} to ${format.count(largest)}`;
  return [
    `The gain in time is not known: no step of the last minute was at a measured batch size, which is ${sizes}. Measure others with `,
    h("code", {}, "dpace tune"),
    ".",
  ];
}

const uncalibrated = () => [
  "The gain in time is not known: the steps are not calibrated. Measure them with ",
  h("code", {}, "dpace tune"),
  " and start with ",
  h("code", {}, "dpace serve --step-times FILE"),
  ".",
];

function facts(acceptance, champion, speed) {
  const reach = format.interval(champion?.tau_low, champion?.tau_high, format.tau);
  const over = speed && `last ${format.counted(speed.window_seconds, "second")}`;
  return h(
    "dl",
    { class: "facts" },
    hasGain(speed) && fact("Tau", format.tau(champion?.tau), reach || "no interval yet"),
    fact("Requests counted", format.count(champion?.requests ?? 0), `${format.counted(champion?.steps ?? 0, "step")}`),
    speed && fact("Tokens per second", format.number(speed.tokens_per_second, 0), over),
    speed && fact("Mean batch", format.number(speed.mean_batch_size, 1), "requests per step"),
    speed && fact("Time of a step", `${format.number(speed.step_ms, 1)} ms`, `over ${format.counted(speed.steps, "step")}`),
    fact("Draft tokens", format.count(acceptance.num_draft_tokens), `per step, ${acceptance.drafter.method}`),
  );
}

const fact = (name, value, more) =>
  h("div", {}, h("dt", {}, name), h("dd", {}, value, more && [" ", h("small", {}, more)]));
