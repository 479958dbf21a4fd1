// Tables with a caption, in a frame that scrolls sideways by itself where the screen is narrow.

import { h, svg } from "./dom.js";

/**
 * A table.
 *
 * @param caption what it shows
 * @param columns names; one that starts with "|" is of words, set to the left
 * @param rows cells: text, or an element; the first one heads its row
 */
export function table(caption, columns, rows) {
  const isWords = columns.map((name) => name.startsWith("|"));
  const heads = columns.map((name, index) =>
    h("th", { scope: "col", class: isWords[index] ? "words" : null }, name.replace("|", "")),
  );
  const cells = (row) =>
    row.map((cell, index) =>
      index === 0
        ? h("th", { scope: "row", class: isWords[0] ? "words" : null }, cell)
        : h("td", { class: cell?.classList?.contains("interval") ? "meter" : isWords[index] ? "words" : null }, cell),
    );
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", {}, h("span", {}, caption)),
      h("thead", {}, h("tr", {}, heads)),
      h("tbody", {}, rows.map((row) => h("tr", {}, cells(row)))),
    ),
  );
}

/** The same behind a line that opens it: what a chart shows, as numbers. */
export const tableBehind = (caption, columns, rows) =>
  h("details", {}, h("summary", {}, "The same as a table"), table(caption, columns, rows));

const WIDTH = 200;

/** An interval on a scale that its neighbours share; the numbers stand beside it. */
export function intervalMark({ value, low, high, from, to, style }) {
  const place = (x) => Math.min(WIDTH, Math.max(0, (WIDTH * (x - from)) / (to - from || 1))).toFixed(1);
  const hasReach = low !== null && high !== null;
  return svg(
    "svg",
    { class: `interval ${style}`, viewBox: `-4 0 ${WIDTH + 8} 18`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { class: "axis", d: `M0 9H${WIDTH}` }),
    hasReach && svg("path", { class: "reach", d: `M${place(low)} 9H${place(high)}M${place(low)} 5v8M${place(high)} 5v8` }),
    svg("rect", { class: "centre", x: place(value) - 2, y: 4, width: 4, height: 10, rx: 1 }),
  );
}
