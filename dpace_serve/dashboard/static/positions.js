// Acceptance by draft position: rates of each arm, the line above which a position pays, and the
// differences of a comparison, which alone have intervals by position.

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
  draw(chart, inWords(rows), (colour, axis) => figure(rows, breakEven, colour, axis));
  show(byId("positions"), rateTable(acceptance, rows, breakEven), differences(comparisons, styleOf));
}

const inWords = (rows) =>
  rows
    .map((row) => `${labelOf(row)}: ${row.accepted_per_position.map((rate) => format.percent(rate, 0)).join(", ")}`)
    .join(". ");

function figure(rows, breakEven, colour, axis) {
  const lines = rows.map((row) => ({
    type: "scatter",
    mode: "lines+markers",
    name: asText(labelOf(row)),
    x: row.accepted_per_position.map((_, index) => index + 1),
    y: row.accepted_per_position,
    line: { color: colour[row.style], width: 2 },
    marker: { color: colour[row.style], symbol: SYMBOLS[row.style], size: 9 },
    hovertemplate: "position %{x}: %{y:.1%}",
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

function rateTable(acceptance, rows, breakEven) {
  const pays = new Map(breakEven.map(({ position, rate }) => [position, rate]));
  const body = Array.from({ length: acceptance.num_draft_tokens }, (_, index) => [
    String(index + 1),
    ...rows.map((row) => format.percent(row.accepted_per_position[index])),
    ...(breakEven.length > 0 ? [format.percent(pays.get(index + 1))] : []),
  ]);
  const columns = ["Position", ...rows.map(labelOf), ...(breakEven.length > 0 ? ["Break-even"] : [])];
  return tableBehind("Acceptance by position, all requests", columns, body);
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
        ),
      ),
    );
