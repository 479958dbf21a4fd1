"""A self-contained HTML page: figures, their numbers, and tables of facts; all text is escaped."""

import html
from collections.abc import Sequence

from dpace_training.plots.figure import Figure, NumberTable
from dpace_training.plots.interactive import plot_fragment, plotly_script

# Nothing may be fetched or sent, whatever a name in the data or plotly.js says.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)

# Plotly writes its colours into the elements, so that only !important reaches its text.
STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --text: #24292f; --faint: #d8dee4; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181d; --text: #e6e8eb; --faint: #3a3f47; }
}
body { background: var(--paper); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
figure { margin: 0; } figcaption { margin: 0.25rem 0 0.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { border-bottom: 1px solid var(--faint); padding: 0.2rem 0.7rem 0.2rem 0;
         text-align: left; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; max-height: 24rem; overflow-y: auto; }
summary { cursor: pointer; }
.js-plotly-plot .cartesianlayer text, .js-plotly-plot .infolayer text {
  fill: var(--text) !important;
}
.js-plotly-plot .legend .bg { fill: none !important; }
.js-plotly-plot .gridlayer path { stroke: var(--faint) !important; }
"""


def html_page(
    title: str,
    introduction: str,
    figures: Sequence[Figure],
    facts: Sequence[tuple[str, NumberTable]],
) -> str:
    """The page as text; it holds plotly.js and loads nothing.

    Args:
        title: Heading, also the page's title.
        introduction: A sentence or two under it.
        figures: In the order of the page; names must differ.
        facts: Tables that belong to no figure, with their headings.
    """
    parts = [_figure(figure) for figure in figures]
    parts += [f"<section><h2>{_text(name)}</h2>{_table(table)}</section>" for name, table in facts]
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{STYLE}</style>
<script>{plotly_script()}</script>
</head>
<body>
<main>
<h1>{_text(title)}</h1>
<p>{_text(introduction)}</p>
{body}
</main>
</body>
</html>
"""


def _figure(figure: Figure) -> str:
    return f"""<figure>
<h2>{_text(figure.title)}</h2>
<div role="img" aria-label="{_text(f"{figure.title}. {figure.description}")}">
{plot_fragment(figure)}
</div>
<figcaption>{_text(figure.description)}</figcaption>
<details><summary>Numbers: {_text(figure.title)}</summary>{_table(figure.table)}</details>
</figure>"""


def _table(table: NumberTable) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.header)
    rows = "\n".join(_row(row) for row in table.rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(row: tuple[str, ...]) -> str:
    first, *others = (_text(cell) for cell in row)
    cells = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<tr><th scope="row">{first}</th>{cells}</tr>'


def _text(text: str) -> str:
    return html.escape(text, quote=True)
