// The lift of a challenger with its band, as requests came in.

import { draw, say } from "./charts.js";
import { show } from "./dom.js";
import * as format from "./format.js";
import { SYMBOLS } from "./series.js";
import { tableBehind } from "./tables.js";

const TABLE_ROWS = 30;
const SETTLED = 0.25; // of the points; the first bands are so wide that they would hide the rest
const ROOM = 0.08;

export function showLift(chart, numbers, comparison, style) {
  const points = (comparison.history ?? []).filter(({ lift }) => typeof lift === "number");
  if (points.length === 0) {
    say(chart, "The lift is shown once there is enough to judge it by.");
    show(numbers);
    return;
  }
  const last = points.at(-1);
  const words = `Lift after ${format.counted(last.requests, "request")}: ${format.change(last.lift)} ${format.interval(last.low, last.high, format.change)}`;
  draw(chart, words, (colour, axis) => figure(points, comparison.rule, colour[style], colour, axis, style));
  show(numbers, liftTable(points));
}

function figure(points, rule, own, colour, axis, style) {
  const x = points.map(({ requests }) => requests);
  const edge = (bound, fill) => ({
    type: "scatter",
    mode: "lines",
    x,
    y: points.map((point) => point[bound]),
    line: { color: own, width: 1, dash: "dot" },
    fill: fill ? "tonexty" : "none",
    fillcolor: own.replace("rgb(", "rgba(").replace(")", ", 0.14)"),
    hoverinfo: "skip",
  });
  const centre = {
    type: "scatter",
    mode: points.length < 12 ? "lines+markers" : "lines",
    name: "lift",
    x,
    y: points.map(({ lift }) => lift),
    customdata: points.map((point) => format.interval(point.low, point.high, format.change)),
    line: { color: own, width: 2.5 },
    marker: { color: own, symbol: SYMBOLS[style], size: 7 },
    hovertemplate: "%{x} requests: %{y:+.1%} %{customdata}<extra></extra>",
  };
  const lines = [[0, "solid"], [rule?.minimum_lift, "dash"], [rule && -rule.maximum_loss, "dash"]];
  return {
    data: [edge("low", false), edge("high", true), centre],
    layout: {
      xaxis: axis({ title: { text: "requests compared", standoff: 8 }, showgrid: false, nticks: 6 }),
      yaxis: axis({ tickformat: ".0%", range: range(points, rule), nticks: 6 }),
      shapes: lines
        .filter(([level]) => typeof level === "number")
        .map(([level, dash]) => ({
          type: "line",
          xref: "paper",
          x0: 0,
          x1: 1,
          y0: level,
          y1: level,
          layer: "below",
          line: { color: colour.muted, width: 1, dash },
        })),
      annotations: [
        [rule?.minimum_lift, "promote above", "bottom"],
        [rule && -rule.maximum_loss, "roll back below", "top"],
      ]
        .filter(([level]) => typeof level === "number")
        .map(([level, text, yanchor]) => ({
          xref: "paper",
          x: 0,
          xanchor: "left",
          y: level,
          yanchor,
          text,
          showarrow: false,
          font: { size: 11, color: colour.muted },
        })),
    },
  };
}

function range(points, rule) {
  const settled = points.slice(Math.floor(points.length * SETTLED));
  const levels = settled.flatMap(({ low, high, lift }) => [low, high, lift]);
  if (rule) levels.push(rule.minimum_lift, -rule.maximum_loss);
  const known = [0, ...levels].filter((level) => typeof level === "number");
  const [lowest, highest] = [Math.min(...known), Math.max(...known)];
  const room = ROOM * (highest - lowest || 0.01);
  return [lowest - room, highest + room];
}

const liftTable = (points) =>
  tableBehind(
    "Lift as requests came in, the newest first",
    ["Requests", "Lift", "Interval", "|Decision"],
    points
      .slice(-TABLE_ROWS)
      .toReversed()
      .map((point) => [
        format.count(point.requests),
        format.change(point.lift),
        format.interval(point.low, point.high, format.change),
        point.decision,
      ]),
  );
