// Charts by plotly.js, in the page's own colours. Each has a table beside it that says the same.

const SOURCE = "static/plotly.min.js";
// plotly.js writes the styles of maps into the page unless an element has this id. Ours has no maps,
// and its security policy would refuse them.
const MAP_STYLES = "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53";

const CONFIG = { displayModeBar: false, responsive: true, doubleClick: false, showTips: false };

const drawn = new Map();
let loading = null;

function load() {
  loading ??= new Promise((resolve, reject) => {
    const marker = document.createElement("meta");
    marker.id = MAP_STYLES;
    const script = document.createElement("script");
    script.src = SOURCE;
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => reject(new Error("plotly.js is missing")));
    document.head.append(marker, script);
  });
  return loading;
}

/**
 * Draw a chart, or draw it anew if it has changed.
 *
 * @param element where
 * @param summary the chart in words
 * @param figure called with the colours and a maker of axes: {data, layout}
 */
export async function draw(element, summary, figure) {
  element.setAttribute("aria-label", summary);
  const chart = drawn.get(element) ?? { shown: null };
  chart.figure = figure;
  drawn.set(element, chart);
  let plotly;
  try {
    plotly = await load();
  } catch {
    say(element, "Charts need plotly, which this server does not have. The table has the numbers.");
    return;
  }
  // A newer one may have come while plotly.js was loading.
  if (chart.figure !== figure || drawn.get(element) !== chart || !element.isConnected) return;
  const colour = colours();
  const { data, layout } = figure(colour, (more) => ({ ...axis(colour), ...more }));
  const shown = JSON.stringify([data, layout]);
  if (chart.shown === shown) return;
  chart.shown = shown;
  if (element.classList.contains("empty")) {
    element.classList.remove("empty");
    element.replaceChildren();
  }
  await plotly.react(element, data, { ...frame(colour), ...layout }, CONFIG);
}

/** Show words where a chart would be empty. */
export function say(element, words) {
  if (drawn.delete(element)) window.Plotly?.purge(element);
  element.classList.add("empty");
  element.setAttribute("aria-label", words);
  if (element.textContent !== words) element.textContent = words;
}

/** Forget a chart whose element goes away. */
export function forget(element) {
  if (drawn.delete(element)) window.Plotly?.purge(element);
}

/** Draw everything in the colours that are shown now. */
export function redraw() {
  for (const [element, { figure }] of drawn) draw(element, element.getAttribute("aria-label"), figure);
}

/** plotly.js reads some HTML in names; here they are text. */
export const asText = (name) =>
  name.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function colours() {
  const probe = document.body.appendChild(document.createElement("span"));
  const read = (token) => {
    probe.style.color = `var(--${token})`;
    return getComputedStyle(probe).color;
  };
  const tokens = ["text", "muted", "line", "surface", "series-1", "series-2", "series-3", "series-4"];
  const found = Object.fromEntries(tokens.map((token) => [token, read(token)]));
  probe.remove();
  return { ...found, former: found.muted };
}

const axis = (colour) => ({
  gridcolor: colour.line,
  linecolor: colour.line,
  zeroline: false,
  fixedrange: true,
  automargin: true,
  ticks: "",
});

const frame = (colour) => ({
  paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: "rgba(0,0,0,0)",
  font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour.muted },
  margin: { l: 50, r: 12, t: 10, b: 40 },
  showlegend: false,
  dragmode: false,
  hovermode: "closest",
  hoverlabel: {
    bgcolor: colour.surface,
    bordercolor: colour.line,
    font: { color: colour.text, size: 12 },
    namelength: 24,
  },
});
