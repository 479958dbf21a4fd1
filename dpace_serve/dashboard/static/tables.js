// Tables with a caption. On a narrow screen one scrolls sideways in its frame, which shows at its
// edge that there is more, or stacks: each row then is a block of labels and values.

import { h, svg } from "./dom.js";

/**
 * A table.
 *
 * @param caption what it shows
 * @param columns names; one that starts with "|" is of words, set to the left
 * @param rows cells: text, or an element; the first one heads its row
 * @param narrow what it does on a narrow screen: "scrolls" or "stacks"
 */
export function table(caption, columns, rows, narrow = "scrolls") {
  const isWords = columns.map((name) => name.startsWith("|"));
  const names = columns.map((name) => name.replace("|", ""));
  const heads = names.map((name, index) =>
    h("th", { scope: "col", role: "columnheader", class: isWords[index] ? "words" : null }, name),
  );
  const cells = (row) =>
    row.map((cell, index) =>
      index === 0
        ? h("th", { scope: "row", role: "rowheader", class: isWords[0] ? "words" : null, "data-label": names[0] }, cell)
        : h("td", { role: "cell", class: kindOf(cell, isWords[index]), "data-label": names[index] }, cell),
    );
  // The roles say what the elements are, also where their display no longer does.
  return h(
    "div",
    { class: narrow === "stacks" ? "scroll stacks" : "scroll", tabindex: "0", role: "group", "aria-label": caption },
    h(
      "table",
      { role: "table" },
      h("caption", {}, h("span", {}, caption)),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
      h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" }, cells(row)))),
    ),
  );
}

const kindOf = (cell, isWords) => (cell?.classList?.contains("interval") ? "meter" : isWords ? "words" : null);

/** The same behind a line that opens it: what a chart shows, as numbers. */
export const tableBehind = (caption, columns, rows, narrow) =>
  h("details", {}, h("summary", {}, "The same as a table"), table(caption, columns, rows, narrow));

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
