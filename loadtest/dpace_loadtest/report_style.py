"""How the page looks, and the few lines that draw its plots."""

# Nothing may be fetched or sent, whatever a name in the data or plotly.js says.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of the arms, in order; told apart by the colour-blind, on light and on dark.

Source:
    Okabe and Ito (2008), without black and yellow, which vanish on a dark or a light page.
"""
NEUTRAL = "#808080"

# Plotly writes its colours into the elements, so that only !important reaches its text.
STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #ffffff; --text: #1f2630;
        --muted: #5a6473; --faint: #dde2e9; --good: #13693a; --bad: #b0241c; --warn: #75510a;
        --good-wash: #e5f4ea; --bad-wash: #fce9e7; --warn-wash: #fcf2db; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0e1218; --card: #161c25; --text: #e9edf4; --muted: #a4afc1; --faint: #2f3948;
          --good: #77dda0; --bad: #ff9f96; --warn: #f0c469;
          --good-wash: #12301f; --bad-wash: #3b1b19; --warn-wash: #33290f; }
}
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--text); margin: 0;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 0.25rem; }
h3 { font-size: 0.95rem; margin: 1rem 0 0.25rem; overflow-wrap: anywhere; }
figure h3 { margin-top: 0; }
p { margin: 0.25rem 0 0.75rem; max-width: 52rem; }
.muted, figcaption { color: var(--muted); }
section, header { background: var(--card); border: 1px solid var(--faint); border-radius: 12px;
                  padding: 1.1rem 1.2rem; margin-bottom: 1rem; min-width: 0; }
.verdict { display: inline-block; border-radius: 999px; padding: 0.1rem 0.8rem; font-weight: 650; }
.verdict.good { color: var(--good); background: var(--good-wash); }
.verdict.bad { color: var(--bad); background: var(--bad-wash); }
.note { border-radius: 8px; padding: 0.5rem 0.8rem; margin: 0.75rem 0 0; max-width: none; }
.note.warn { color: var(--warn); background: var(--warn-wash); }
.note.plain { background: var(--paper); }
.headline { list-style: none; padding: 0; margin: 0.9rem 0 0; display: grid; gap: 0.75rem;
            grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
.headline li { background: var(--paper); border-radius: 8px; padding: 0.7rem 0.9rem; }
.headline b { display: block; font-size: 1.45rem; line-height: 1.25;
              font-variant-numeric: tabular-nums; }
.headline span { color: var(--muted); font-size: 0.87rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1.2rem;
     margin: 0.5rem 0 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin-top: 0.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.87rem; }
th, td { border-bottom: 1px solid var(--faint); padding: 0.28rem 0.9rem 0.28rem 0;
         text-align: right; white-space: nowrap; vertical-align: top; }
th[scope=row], th:first-child { text-align: left; }
thead th { color: var(--muted); font-weight: 500; vertical-align: bottom; }
td.text, thead th.text { text-align: left; white-space: normal; }
td.text { min-width: 11rem; }
td.bad { color: var(--bad); font-weight: 600; } td.good { color: var(--good); }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.1rem; margin: 0.5rem 0 0; padding: 0;
          list-style: none; font-size: 0.87rem; }
.legend i { display: inline-block; width: 0.8rem; height: 0.8rem; border-radius: 3px;
            margin-right: 0.4rem; vertical-align: -0.08rem; }
.plots { display: grid; gap: 1rem;
         grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0.6rem 0 0; min-width: 0; }
.plot { height: 18rem; }
details { margin-top: 0.75rem; } summary { cursor: pointer; color: var(--muted); }
.js-plotly-plot .cartesianlayer text, .js-plotly-plot .infolayer text {
  fill: var(--text) !important; font-family: inherit !important;
}
.js-plotly-plot .gridlayer path { stroke: var(--faint) !important; }
.js-plotly-plot .zerolinelayer path { stroke: var(--muted) !important; }
.js-plotly-plot .errorbars path { stroke-opacity: 1; }
@media (max-width: 40rem) {
  main { padding: 0.75rem 0.5rem 3rem; } section, header { padding: 0.9rem 0.8rem; }
  h1 { font-size: 1.3rem; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 0.4rem; }
}
@media print { .plot { break-inside: avoid; } section { border: 0; } }
"""

# The buttons are named one by one: some of plotly's others open a web site with the plot's data.
SCRIPT = """
const CONFIG = { displaylogo: false, responsive: true,
                 modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
for (const holder of document.querySelectorAll("[data-plot]")) {
  const figure = JSON.parse(document.getElementById(holder.dataset.plot).textContent);
  Plotly.newPlot(holder, figure.data, figure.layout, CONFIG);
}
"""
