// Acceptance by draft position: rates of each arm with their intervals, the line above which a
// position pays, and the differences of a comparison, whose intervals are those of the verdict.

import { asText, draw, say } from "./charts.js";
import { byId, h, show } from "./dom.js";
import * as format from "./format.js";
import { labelOf, mark, SYMBOLS } from "./series.js";
import { table, tableBehind } from "./tables.js";

export function showPositions(acceptance, rows, comparisons, styleOf) {
  const chart = byId("positions-chart");
  const breakEven = acceptance.speed?.break_even ?? [];
  if (rows.length === 0) {
    say(chart, "No request has been counted yet.");
    show(byId("positions-legend"));
    show(byId("positions"));
    return;
  }
  show(
    byId("positions-legend"),
    rows.map((row) => h("li", {}, mark(row.style), labelOf(row))),
    breakEven.length > 0 && h("li", {}, h("span", { class: "dashed" }), "break-even: above it, the position pays"),
  );
  draw(chart, inWords(acceptance, rows), (colour, axis) => figure(rows, breakEven, colour, axis));
  show(
    byId("positions"),
    h("p", { class: "muted small" }, whiskers(acceptance)),
    rateTable(acceptance, rows, breakEven),
    differences(comparisons, styleOf),
  );
}

const coverage = ({ confidence }) => format.percent(confidence, 0);

const whiskers = (acceptance) =>
  `Whiskers are ${coverage(acceptance)} intervals with the request as unit. A position has none below two requests, nor where all of its drafts were accepted, or none.`;

/** The interval of a position; nothing where the server gives none, as before it gave any. */
function intervalAt(row, index, digits) {
  const bounds = [row.accepted_per_position_low?.[index], row.accepted_per_position_high?.[index]];
  return format.interval(...bounds, (bound) => format.percent(bound, digits));
}

function inWords(acceptance, rows) {
  const ofRow = (row) =>
    row.accepted_per_position
      .map((rate, index) => [format.percent(rate, 0), intervalAt(row, index, 0)].filter(Boolean).join(" "))
      .join(", ");
  const said = rows.map((row) => `${labelOf(row)}: ${ofRow(row)}`).join(". ");
  return `Acceptance by position with ${coverage(acceptance)} intervals. ${said}`;
}

const BESIDE = 0.12; // of a position, so that the whiskers of one arm do not hide another's

function figure(rows, breakEven, colour, axis) {
  const lines = rows.map((row, place) => ({
    type: "scatter",
    mode: "lines+markers",
    name: asText(labelOf(row)),
    x: row.accepted_per_position.map((_, index) => index + 1 + BESIDE * (place - (rows.length - 1) / 2)),
    y: row.accepted_per_position,
    error_y: errorBars(row, colour[row.style]),
    customdata: row.accepted_per_position.map((_, index) => `position ${index + 1}`),
    text: row.accepted_per_position.map((_, index) => intervalAt(row, index, 1)),
    line: { color: colour[row.style], width: 2 },
    marker: { color: colour[row.style], symbol: SYMBOLS[row.style], size: 9 },
    hovertemplate: "%{customdata}: %{y:.1%} %{text}",
  }));
  const pays = {
    type: "scatter",
    mode: "lines",
    name: "break-even",
    x: breakEven.map(({ position }) => position),
    y: breakEven.map(({ rate }) => Math.min(1, Math.max(0, rate))), // 1 and more never pays, 0 and less always
    customdata: breakEven.map(({ rate }) => format.percent(rate)),
    line: { color: colour.muted, width: 2, dash: "dash", shape: "hvh" },
    hovertemplate: "position %{x} pays above %{customdata}",
  };
  return {
    data: breakEven.length > 0 ? [...lines, pays] : lines,
    layout: {
      xaxis: axis({ title: { text: "draft position", standoff: 8 }, dtick: 1, showgrid: false }),
      yaxis: axis({ range: [0, 1.02], tickformat: ".0%" }),
    },
  };
}

function errorBars(row, color) {
  // plotly.js draws a null as an error of 0, and nothing where it is no number.
  const reach = (bounds, sign) =>
    row.accepted_per_position.map((rate, index) => {
      const bound = bounds?.[index];
      return typeof bound === "number" ? sign * (bound - rate) : Number.NaN;
    });
  return {
    type: "data",
    symmetric: false,
    array: reach(row.accepted_per_position_high, 1),
    arrayminus: reach(row.accepted_per_position_low, -1),
    color,
    thickness: 1.5,
    width: 4,
  };
}

function rateTable(acceptance, rows, breakEven) {
  const pays = new Map(breakEven.map(({ position, rate }) => [position, rate]));
  const body = Array.from({ length: acceptance.num_draft_tokens }, (_, index) => [
    String(index + 1),
    ...rows.flatMap((row) => [
      format.percent(row.accepted_per_position[index]),
      intervalAt(row, index, 1) || format.NOTHING,
    ]),
    ...(breakEven.length > 0 ? [format.percent(pays.get(index + 1))] : []),
  ]);
  const columns = [
    "Position",
    ...rows.flatMap((row) => [labelOf(row), `Interval of ${labelOf(row)}`]),
    ...(breakEven.length > 0 ? ["Break-even"] : []),
  ];
  const caption = `Acceptance by position with ${coverage(acceptance)} intervals, all requests`;
  return tableBehind(caption, columns, body, "stacks");
}

const differences = (comparisons, styleOf) =>
  comparisons
    .filter(({ positions }) => positions?.length > 0)
    .map(({ challenger, positions }) =>
      h(
        "details",
        {},
        h(
          "summary",
          {},
          mark(styleOf(challenger.name, challenger.revision)),
          ` ${challenger.name} less champion, with intervals`,
        ),
        table(
          "Difference by position, on the requests of the comparison",
          ["Position", "Champion", "Challenger", "Difference", "Interval"],
          positions.map((row) => [
            String(row.position),
            format.percent(row.champion),
            format.percent(row.challenger),
            format.change(row.difference),
            format.interval(row.low, row.high, format.change),
          ]),
          "stacks",
        ),
      ),
    );
