"""The report for people: one HTML file that loads nothing; every text in it is escaped."""

import html
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from dpace_loadtest import report_plots, report_tables, wording
from dpace_loadtest.knee import MIN_ANSWERED_SHARE
from dpace_loadtest.plot_parts import Plot
from dpace_loadtest.report_style import POLICY, SCRIPT, STYLE
from dpace_loadtest.report_tables import PageTable
from dpace_loadtest.run_result import RunResult
from dpace_serve.errors import ConfigError

PLOTLY = "plotly.min.js"
MAX_OPEN_ROWS = 12
"""Rows of a table that is shown unasked."""
_TEXT_CLASS = ' class="text"'


def report_html(result: RunResult) -> str:
    """The page as text, with plotly.js inside.

    Raises:
        ConfigError: If plotly is not installed.
    """
    title = f"Load test: {result.facts.name}"
    names = (f"plot-{number}" for number in itertools.count())
    body = "\n".join([_header(result), *_sections(result, names)])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{_text(title)}</title>
<style>{STYLE}</style>
<script>{_plotly_script()}</script>
</head>
<body>
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _plotly_script() -> str:
    # Found, not imported: the package is large, and only one file of it is wanted.
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ConfigError("the report needs plotly, which is not installed. Install plotly.")
    return (Path(spec.origin).parent / "package_data" / PLOTLY).read_text(encoding="utf-8")


def _header(result: RunResult) -> str:
    facts, verdict = result.facts, result.verdict
    is_good = verdict.exit_code == 0
    tone, word = ("good", "✓ good") if is_good else ("bad", "✗ not good")
    loop_tone = "plain" if facts.mode == "open" else "warn"
    return f"""<header>
<p class="muted">Load test, {_text(facts.started_at)}</p>
<h1>{_text(facts.name)}</h1>
<p><span class="verdict {tone}">{word}</span> {_text(verdict.reason)}</p>
<p class="note {loop_tone}">{_text(wording.loop_in_words(facts))}</p>
<ul class="headline">{"".join(_headlines(result))}</ul>
</header>"""


def _headlines(result: RunResult) -> Iterator[str]:
    """At most one number a comparison and a knee, then tau and throughput of each arm."""
    unit = result.facts.load_unit
    for one in result.headline_comparisons():
        if one.workload is None and one.metric == "tokens_per_second":
            yield _headline(
                f"{wording.number(one.ratio)}×",
                f"tokens/s of a request, {one.arm} against {one.baseline} at {one.load:g} {unit}: "
                f"{wording.ratio(one)}, {one.num_units} prompts {one.design}; "
                f"{wording.finding(one)}",
            )
    for arm, knee in result.knees.items():
        if knee.load is not None:
            above = "≥ " if knee.is_above else ""
            yield _headline(f"{above}{knee.load:g}/s", f"knee of {arm}. {knee.reason}")
    for summary in result.acceptances:
        if summary.workload is None:
            for drafter in summary.acceptance:
                yield _headline(
                    f"{drafter.tau.value:.2f}",
                    f"tau of {wording.drafter_name(drafter)} in {summary.arm}: "
                    f"{wording.bounded(drafter.tau)}, {drafter.num_requests:,} requests",
                )


def _headline(number: str, words: str) -> str:
    return f"<li><b>{_text(number)}</b><span>{_text(words)}</span></li>"


def _sections(result: RunResult, names: Iterator[str]) -> Iterator[str]:
    legend = _legend(result)
    yield _section("Terms", "", _terms(result))
    yield _section(
        "Arms",
        "Throughput is of measured requests, from the first scheduled time to the last end. "
        "Offered and answered are per second while load was offered. Settled means that the second "
        "half of the time was like the first.",
        _table(report_tables.throughput_table(result)),
    )
    yield _section(
        "Latency",
        "Milliseconds, of requests answered to the end"
        + ("; p50 solid, p95 dashed, p99 dotted. " if report_plots.has_sweep(result) else ". ")
        + "With fewer than 100 requests the p99 is next to the largest. A gap is between chunks, "
        "of which one carries several tokens under speculation.",
        legend,
        _plots(report_plots.latency_plots(result), names),
        _details("All percentiles", report_tables.latency_table(result)),
    )
    yield _throughput_section(result, names)
    yield _acceptance_section(result, names)
    if result.comparisons:
        yield _comparison_section(result, names)
    yield _section(
        "Over time",
        "Warm-up included.",
        legend,
        _plots(report_plots.timeline_plots(result), names),
    )
    yield _section("By workload", "", _long_table(report_tables.workload_table(result)))
    yield _section("How requests ended", "", _table(report_tables.outcome_table(result)))
    yield _section(
        "Generator and servers",
        "Milliseconds that requests were sent late. The run fails as saturated above "
        f"{wording.milliseconds(result.facts.saturation_seconds)} ms at p99.",
        _table(report_tables.generator_table(result)),
        _table(report_tables.service_table(result)),
    )


def _throughput_section(result: RunResult, names: Iterator[str]) -> str:
    plots = report_plots.throughput_plots(result)
    return _section(
        "Throughput and goodput",
        "The knee is the highest load that holds with all below it: answered at least "
        f"{MIN_ANSWERED_SHARE:.0%} of the offered rate and, where a share of good requests is "
        "asked for, kept the SLO. Dotted vertical lines mark it.",
        _legend(result) if plots else "",
        _plots(plots, names) if plots else "",
        *(
            f"<p>{_text(f'{arm}: {wording.knee_in_words(knee)}')}</p>"
            for arm, knee in result.knees.items()
        ),
    )


def _acceptance_section(result: RunResult, names: Iterator[str]) -> str:
    plots = report_plots.acceptance_plots(result)
    drawn = (
        _legend(result),
        _plots(plots, names),
        _details("Tau and rates, by workload", report_tables.acceptance_table(result)),
    )
    return _section(
        "Acceptance",
        "From the service's own records of exactly these requests. The rate of a position is the "
        "share of the steps that drafted it which accepted it and all before it; intervals have "
        "the request as unit. Dotted lines were only compared, in the shadow of others.",
        *(drawn if plots else ("<p>No record of these requests: acceptance is unknown.</p>",)),
        "<h3>Requests and their records</h3>",
        _table(report_tables.join_table(result)),
    )


def _comparison_section(result: RunResult, names: Iterator[str]) -> str:
    loads = {one.load for one in result.headline_comparisons()}
    where = " and ".join(f"{load:g}" for load in sorted(loads))
    why = (
        "the highest load that both kept up with, if there is one: beyond it waiting grows with "
        "the length of the run, and requests share the queue they wait in."
        if result.facts.mode == "open"
        else "the most that were tried."
    )
    return _section(
        f"Against {result.baseline}",
        "Above 1 the arm is better, in times as in rates. Intervals of 95 % with the prompt as "
        "unit, paired where both arms answered the same ones; each is for one look. By workload "
        f"at {where} {result.facts.load_unit}, {why}",
        _legend(result),
        _plots(report_plots.comparison_plots(result), names),
        _plots(ratios, names) if (ratios := report_plots.ratio_plots(result)) else "",
        _details("All ratios", report_tables.comparison_table(result)),
    )


def _terms(result: RunResult) -> str:
    facts = result.facts
    loads = ", ".join(f"{load:g}" for load in facts.loads)
    rows = {
        "Loop": "open" if facts.mode == "open" else "CLOSED",
        "Loads": f"{loads} {facts.load_unit}",
        "SLO": wording.slo_in_words(facts.slo),
        "Failures allowed": wording.share(facts.max_failed_share),
        "Baseline": result.baseline if len(facts.arms) > 1 else "none, one arm",
        "Prompts": facts.prompt_hash,
        "Seed": str(facts.seed),
        "Versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }
    cells = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in rows.items())
    return f"<dl>{cells}</dl>"


def _section(title: str, words: str, *parts: str) -> str:
    introduction = f'<p class="muted">{_text(words)}</p>' if words else ""
    return f"<section>\n<h2>{_text(title)}</h2>{introduction}\n{''.join(parts)}\n</section>"


def _legend(result: RunResult) -> str:
    colours = report_plots.arm_colours(result)
    items = (
        f'<li><i style="background:{colour}"></i>{_text(arm)}</li>'
        for arm, colour in colours.items()
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _plots(plots: Iterable[Plot], names: Iterator[str]) -> str:
    drawn = "".join(_plot(plot, name) for plot, name in zip(plots, names, strict=False))
    return f'<div class="plots">{drawn}</div>'


def _plot(plot: Plot, name: str) -> str:
    figure = json.dumps({"data": plot.traces, "layout": plot.layout}, allow_nan=False)
    # No text of the data may end the element that it stands in.
    figure = figure.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    tall = "" if plot.height_rem is None else f' style="height:{plot.height_rem:.1f}rem"'
    return (
        f'<figure><h3>{_text(plot.title)}</h3><div class="plot"{tall} role="img" '
        f'aria-label="{_text(plot.title)}" data-plot="{name}"></div>'
        f'<script type="application/json" id="{name}">{figure}</script></figure>'
    )


def _details(words: str, table: PageTable) -> str:
    return f"<details><summary>{_text(words)}</summary>{_table(table)}</details>"


def _long_table(table: PageTable) -> str:
    if len(table.rows) <= MAX_OPEN_ROWS:
        return _table(table)
    return _details(f"{len(table.rows)} rows", table)


def _table(table: PageTable) -> str:
    tones = [cell.tone for cell in table.rows[0]] if table.rows else ["plain"] * len(table.header)
    head = "".join(
        f'<th scope="col"{_TEXT_CLASS if tone == "text" else ""}>{_text(name)}</th>'
        for name, tone in zip(table.header, tones, strict=True)
    )
    rows = "".join(_row(row) for row in table.rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(row: Sequence[report_tables.Cell]) -> str:
    first, *others = row
    cells = "".join(
        f"<td>{_text(cell.text)}</td>"
        if cell.tone == "plain"
        else f'<td class="{cell.tone}">{_text(cell.text)}</td>'
        for cell in others
    )
    return f'<tr><th scope="row">{_text(first.text)}</th>{cells}</tr>'


def _text(text: str) -> str:
    return html.escape(text, quote=True)
