// Tau of each arm over time.

import { asText, draw, say } from "./charts.js";
import { byId, h, show } from "./dom.js";
import * as format from "./format.js";
import { tauOverTime } from "./history.js";
import { labelOf, mark, SYMBOLS } from "./series.js";
import { tableBehind } from "./tables.js";

const TABLE_ROWS = 30;

export function showOverTime(points, isServers, styleOf) {
  const chart = byId("over-time-chart");
  const lines = [...tauOverTime(points).values()].map((line) => ({
    ...line,
    style: styleOf(line.drafter, line.revision),
  }));
  show(byId("over-time-legend"), lines.map((line) => h("li", {}, mark(line.style), labelOf(line))));
  if (lines.length === 0) {
    say(chart, "Two moments with requests between them make the first point, ten seconds apart.");
    show(byId("over-time"));
    return;
  }
  draw(chart, inWords(lines), (colour, axis) => figure(lines, colour, axis));
  const note = h("p", { class: "muted small" }, "As seen since this page was opened.");
  show(byId("over-time"), !isServers && note, tauTable(lines));
}

const inWords = (lines) =>
  lines
    .map((line) => {
      const known = line.taus.filter((tau) => tau !== null);
      return `${labelOf(line)}: last ${format.tau(known.at(-1))}, between ${format.tau(Math.min(...known))} and ${format.tau(Math.max(...known))}`;
    })
    .join(". ");

const figure = (lines, colour, axis) => ({
  data: lines.map((line) => ({
    type: "scatter",
    mode: "lines+markers",
    name: asText(labelOf(line)),
    x: line.times.map(localTime),
    y: line.taus,
    line: { color: colour[line.style], width: 2 },
    marker: { color: colour[line.style], symbol: SYMBOLS[line.style], size: 6 },
    hovertemplate: "%{x|%H:%M:%S}: tau %{y:.2f}",
  })),
  layout: {
    xaxis: axis({ type: "date", tickformat: "%H:%M", hoverformat: "%H:%M:%S", showgrid: false, nticks: 6 }),
    yaxis: axis({ title: { text: "tau", standoff: 8 }, rangemode: "normal", tickformat: ".1f" }),
  },
});

// plotly.js shows times as they are written, so the time zone goes in here.
function localTime(seconds) {
  const moment = new Date(1000 * seconds);
  return new Date(moment - 60_000 * moment.getTimezoneOffset()).toISOString().replace("Z", "");
}

function tauTable(lines) {
  const times = [...new Set(lines.flatMap((line) => line.times))].sort((a, b) => b - a).slice(0, TABLE_ROWS);
  const byTime = lines.map((line) => new Map(line.times.map((time, index) => [time, line.taus[index]])));
  return tableBehind(
    `Tau over time, the newest ${format.counted(times.length, "window")} first`,
    ["Until", ...lines.map(labelOf)],
    times.map((time) => [format.clock(time), ...byTime.map((taus) => format.tau(taus.get(time)))]),
  );
}
