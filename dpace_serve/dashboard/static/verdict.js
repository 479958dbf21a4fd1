// One card for each comparison: the decision, its reason, its history, and what can be done.

import { forget } from "./charts.js";
import { byId, h, show, svg } from "./dom.js";
import * as format from "./format.js";
import { showLift } from "./lift.js";
import { named } from "./series.js";

const DECISIONS = {
  promote: { word: "Promote", icon: "M3 9.5 7 13.5 15 4.5" },
  hold: { word: "Hold", icon: "M6 4v10M12 4v10" },
  rollback: { word: "Roll back", icon: "M7 4 3 8l4 4M3 8h7a4 4 0 0 1 0 8H7" },
};

const cards = new Map();

/** Show the comparisons; a card stays the same element as long as its challenger is compared. */
export function showVerdicts(verdict, drafters, styleOf) {
  const list = byId("verdicts");
  const comparisons = verdict?.comparisons ?? [];
  const kept = new Set(comparisons.map(keyOf));
  for (const [key, card] of cards) {
    if (kept.has(key)) continue;
    forget(card.chart);
    card.element.remove();
    cards.delete(key);
  }
  if (comparisons.length === 0) {
    show(list, h("div", { class: "card" }, without(verdict, drafters, styleOf)));
    return;
  }
  const elements = comparisons.map((comparison) => cardOf(comparison).element);
  if (elements.some((element, index) => list.children[index] !== element)) list.replaceChildren(...elements);
  for (const comparison of comparisons) {
    const card = cardOf(comparison);
    const style = styleOf(comparison.challenger.name, comparison.challenger.revision);
    show(card.body, body(comparison, verdict.champion, style));
    showLift(card.chart, card.numbers, comparison, style);
  }
}

/** Each verdict in a sentence, by challenger: what changes in it is worth saying aloud. */
export const spoken = (verdict) =>
  new Map(
    (verdict?.comparisons ?? []).map((comparison) => [
      keyOf(comparison),
      {
        state: `${comparison.decision} ${comparison.cause}`,
        words: `${comparison.challenger.name}: ${DECISIONS[comparison.decision]?.word ?? comparison.decision}. ${comparison.reason}`,
      },
    ]),
  );

const keyOf = ({ challenger, design }) => JSON.stringify([challenger.name, challenger.revision, design]);

function cardOf(comparison) {
  const key = keyOf(comparison);
  if (!cards.has(key)) {
    const words = h("div", {});
    const chart = h("div", { class: "chart low empty", role: "img" });
    const numbers = h("div", {});
    const element = h("article", { class: "card verdict" }, words, h("div", {}, h("h4", { class: "muted small" }, "Lift, as requests came in"), chart, numbers));
    cards.set(key, { element, body: words, chart, numbers });
  }
  return cards.get(key);
}

function without(verdict, drafters, styleOf) {
  const challengers = (drafters?.drafters ?? []).filter((slot) => slot.role === "challenger");
  if (challengers.length > 0) {
    return [
      h("p", {}, verdict === null ? "This server gives no verdicts. It compares:" : "No verdict yet. Compared are:"),
      challengers.map(({ name, revision }) =>
        h("div", { class: "actions" }, named(name, styleOf(name, revision)), buttons(name, revision, "")),
      ),
    ];
  }
  return [
    h("p", {}, "No challenger is loaded, so there is nothing to decide. Load one beside the champion:"),
    h("pre", {}, h("code", {}, "dpace drafter challenge FOLDER --url URL --admin-key-file FILE")),
  ];
}

function body(comparison, champion, style) {
  const { challenger, decision } = comparison;
  return [
    h(
      "div",
      { class: "verdict-head" },
      decisionMark(decision),
      h("h3", {}, named(challenger.name, style)),
      h("code", { class: "muted", title: challenger.revision }, format.short(challenger.revision)),
      champion && h("span", { class: "muted small" }, `against ${champion.name}`),
    ),
    h("p", { class: "verdict-reason" }, comparison.reason),
    facts(comparison),
    progress(comparison),
    h("div", { class: "actions" }, buttons(challenger.name, challenger.revision, decision)),
  ];
}

function decisionMark(decision) {
  const { word, icon } = DECISIONS[decision] ?? { word: decision, icon: "M4 9h10" };
  const isKnown = Object.hasOwn(DECISIONS, decision);
  return h(
    "strong",
    { class: `decision ${isKnown ? decision : "hold"}` },
    svg(
      "svg",
      { viewBox: "0 0 18 18", "aria-hidden": "true", fill: "none", stroke: "currentColor", "stroke-width": 2.25, "stroke-linecap": "round", "stroke-linejoin": "round" },
      svg("path", { d: icon }),
    ),
    word,
  );
}

function facts({ effect, tau, step_time: stepTime, requests, design, since }) {
  const lift = effect ?? tau;
  const of = effect && effect.of !== "tau" ? "Lift in tokens/s" : "Lift in tau";
  return h(
    "dl",
    { class: "facts" },
    lift && fact(of, format.change(lift.lift), format.interval(lift.low, lift.high, format.change)),
    tau && fact("Tau, challenger", format.tau(tau.challenger.tau), format.interval(tau.challenger.low, tau.challenger.high, format.tau)),
    tau && fact("Tau, champion", format.tau(tau.champion.tau), format.interval(tau.champion.low, tau.champion.high, format.tau)),
    fact("Requests", format.count(requests.challenger), design === "split" ? `drawn; champion ${format.count(requests.champion)}` : "the same for both"),
    stepTime && fact("Time of a step", `${format.number(stepTime.ratio, 3)} \u00d7`, stepTime.source === "calibration" ? "calibrated" : "same shape"),
    fact("Compared since", format.clock(since), format.dateUnlessToday(since)),
  );
}

const fact = (name, value, more) =>
  h("div", {}, h("dt", {}, name), h("dd", {}, value, more && [" ", h("small", {}, more)]));

function progress({ more_requests: more, requests }) {
  if (typeof more !== "number" || more <= 0) return null;
  const have = Math.min(requests.champion, requests.challenger); // the smaller arm decides
  const words = `${format.count(have)} requests so far, about ${format.count(more)} more to decide`;
  return h(
    "p",
    { class: "progress" },
    h("span", {}, words),
    h("progress", { value: have, max: have + more, "aria-label": words }),
  );
}

const buttons = (name, revision, decision) => [
  h("button", { type: "button", class: decision === "promote" ? "primary" : null, "data-change": "promote", "data-name": name, "data-revision": revision }, `Promote ${name}`),
  h("button", { type: "button", class: decision === "rollback" ? "primary" : null, "data-change": "drop", "data-name": name, "data-revision": revision }, `Drop ${name}`),
];
