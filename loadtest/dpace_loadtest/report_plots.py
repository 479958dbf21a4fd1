"""The plots of the page, as plotly.js takes them; every text in them is escaped for it."""

import html
from collections.abc import Callable, Sequence
from typing import Any

from dpace_loadtest.comparison_of_arms import METRICS, Comparison, Metric
from dpace_loadtest.knee import MIN_ANSWERED_SHARE
from dpace_loadtest.percentiles import PERCENTS, Distribution
from dpace_loadtest.plot_parts import Plot, Trace, axes, error_bars, level, vertical
from dpace_loadtest.report_style import COLOURS, NEUTRAL
from dpace_loadtest.run_result import RunResult
from dpace_loadtest.summary import LoadSummary
from dpace_loadtest.timeline import Timeline, TimelineBin
from dpace_loadtest.wording import METRIC_NAMES, drafter_name

_SHOWN = {"p50": "solid", "p95": "dash", "p99": "dot"}
_LOG_RATIO = 30.0
"""Largest over smallest latency from which a linear axis hides what happens before the knee."""
_ROW_REM, _FRAME_REM, _LOWEST_REM = 1.6, 6.0, 11.0
"""Height of one comparison in its plot, of what is around them, and of the lowest plot."""


def arm_colours(result: RunResult) -> dict[str, str]:
    """Colour of each arm; with more arms than colours they come again."""
    names = [arm.name for arm in result.facts.arms]
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


def has_sweep(result: RunResult) -> bool:
    """Whether several loads were measured."""
    return len({one.load for one in result.summaries}) > 1


def latency_plots(result: RunResult) -> tuple[Plot, ...]:
    """Percentiles over the load; at a single load, the values of all percentiles."""
    kinds = {
        "ttft_from_schedule": "Time to first token, from the schedule",
        "tpot": "Time per output token",
        "end_to_end": "End to end, from the schedule",
    }
    draw = _over_load if has_sweep(result) else _over_percents
    return tuple(draw(result, name, title) for name, title in kinds.items())


def throughput_plots(result: RunResult) -> tuple[Plot, ...]:
    """Tokens per second, answered rate and goodput over the load, where there are several."""
    if not has_sweep(result):
        return ()
    unit = result.facts.load_unit
    tokens = Plot(
        "Throughput",
        tuple(_load_trace(result, arm, _tokens_per_second) for arm in arm_colours(result)),
        axes(unit, "tokens/s") | _knee_lines(result),
    )
    if result.facts.mode == "closed":
        return (tokens, *_goodput_plot(result))
    layout = axes(unit, "share of the offered requests") | _knee_lines(result)
    layout["yaxis"] |= {"tickformat": ".0%"}
    layout["shapes"] = [*layout.get("shapes", []), level(MIN_ANSWERED_SHARE)]
    answered = Plot(
        "Answered while load was offered",
        tuple(_load_trace(result, arm, _answered_share) for arm in arm_colours(result)),
        layout,
    )
    return (tokens, answered, *_goodput_plot(result))


def acceptance_plots(result: RunResult) -> tuple[Plot, ...]:
    """Acceptance by position of each drafter over all requests of its arm, with intervals."""
    colours = arm_colours(result)
    traces = []
    for one in result.acceptances:
        if one.workload is not None:
            continue
        for drafter in one.acceptance:
            known = [at for at in drafter.positions if at.rate is not None]
            rates = [at.rate for at in known if at.rate is not None]
            is_shadow = drafter.role == "shadow"
            trace = {
                "x": [at.position for at in known],
                "y": [rate.value for rate in rates],
                "name": html.escape(f"{one.arm}: {drafter_name(drafter)}"),
                "mode": "lines+markers",
                "line": {"color": colours[one.arm], "dash": "dot" if is_shadow else "solid"},
                "error_y": error_bars([(rate.value, rate.low, rate.high) for rate in rates]),
                "marker": {"symbol": "circle-open" if is_shadow else "circle", "size": 7},
            }
            traces.append(trace)
    if not traces:
        return ()
    layout = axes("draft position", "share accepted up to here")
    layout["xaxis"] |= {"dtick": 1}
    layout["yaxis"] |= {"range": [0, 1.03]}
    return (Plot("Acceptance by draft position", tuple(traces), layout),)


def timeline_plots(result: RunResult) -> tuple[Plot, ...]:
    """Requests in flight, time to the first token and throughput over the time of the run."""
    seconds = "seconds since the start"
    in_flight = [_time_trace(result, line, lambda at: at.in_flight) for line in result.timelines]
    tokens = [
        _time_trace(result, line, lambda at: at.tokens_per_second) for line in result.timelines
    ]
    ttfts = [
        trace
        for line in result.timelines
        for trace in (
            _time_trace(result, line, lambda at: _in_ms(at.ttft_p50)),
            _time_trace(result, line, lambda at: _in_ms(at.ttft_p95), dash="dot"),
        )
    ]
    return (
        Plot("Requests in flight", tuple(in_flight), axes(seconds, "requests")),
        Plot("Time to first token, p50 and p95 (dotted)", tuple(ttfts), axes(seconds, "ms")),
        Plot("Throughput", tuple(tokens), axes(seconds, "tokens/s")),
    )


def ratio_plots(result: RunResult) -> tuple[Plot, ...]:
    """Ratio to the baseline over the load, all requests together, where there are several loads."""
    over_all = [one for one in result.comparisons if one.workload is None and one.ratio]
    if len({one.load for one in over_all}) < 2:
        return ()
    plots = []
    for metric in METRICS:
        rows = [one for one in over_all if one.metric == metric]
        traces = [
            {
                "x": [one.load for one in of_arm],
                "y": [one.ratio for one in of_arm],
                "name": html.escape(arm),
                "mode": "lines+markers",
                "line": {"color": colour},
                "error_y": _intervals(of_arm),
            }
            for arm, colour in arm_colours(result).items()
            if (of_arm := [one for one in rows if one.arm == arm])
        ]
        if traces:
            layout = axes(result.facts.load_unit, "times the baseline")
            layout["yaxis"] |= {"type": "log", "dtick": "D2"}
            layout["shapes"] = [level(1.0)]
            plots.append(Plot(f"{_metric_title(metric)}, over load", tuple(traces), layout))
    return tuple(plots)


def comparison_plots(result: RunResult) -> tuple[Plot, ...]:
    """Ratios and intervals by workload at the headline load of each arm; 1 is the baseline."""
    found = result.headline_comparisons()
    return tuple(
        _comparison_plot(result, metric, rows)
        for metric in METRICS
        if (rows := [one for one in found if one.metric == metric])
    )


def _comparison_plot(result: RunResult, metric: Metric, rows: Sequence[Comparison]) -> Plot:
    has_arms = len({one.arm for one in rows}) > 1
    names = [(f"{one.arm}: " if has_arms else "") + (one.workload or "all") for one in rows]
    places = list(range(len(rows)))
    traces = tuple(
        {
            "x": [rows[place].ratio for place in of_arm],
            "y": of_arm,
            "mode": "markers",
            "marker": {"color": colour, "size": 9},
            "error_x": _intervals([rows[place] for place in of_arm]),
            "text": [html.escape(names[place]) for place in of_arm],
            "hovertemplate": "%{text}: %{x:.3f}<extra></extra>",
        }
        for arm, colour in arm_colours(result).items()
        if (of_arm := [place for place in places if rows[place].arm == arm])
    )
    layout = axes("times the baseline", "")
    layout["xaxis"] |= {"type": "log", "dtick": "D2"}
    layout["yaxis"] |= {
        "tickvals": places,
        "ticktext": [html.escape(name) for name in names],
        "range": [len(rows) - 0.5, -0.5],
        "showgrid": False,
    }
    layout["hovermode"] = "closest"
    layout["shapes"] = [vertical(1.0, NEUTRAL, "dash")]
    height = _FRAME_REM + _ROW_REM * len(rows)
    return Plot(_metric_title(metric), traces, layout, max(_LOWEST_REM, height))


def _metric_title(metric: Metric) -> str:
    name = METRIC_NAMES[metric]
    return name[0].upper() + name[1:]


def _intervals(rows: Sequence[Comparison]) -> dict[str, Any]:
    return error_bars([(one.ratio or 0.0, one.low, one.high) for one in rows])


def _over_load(result: RunResult, name: str, title: str) -> Plot:
    traces = []
    for arm in arm_colours(result):
        for percent, dash in _SHOWN.items():
            trace = _load_trace(result, arm, _latency_of(name, percent))
            trace["line"] |= {"dash": dash}
            trace["name"] += f" {percent}"
            traces.append(trace)
    layout = axes(result.facts.load_unit, "ms")
    values = [value for trace in traces for value in trace["y"] if value]
    if values and max(values) > _LOG_RATIO * min(values):
        layout["yaxis"] |= {"type": "log", "dtick": 1}
    return Plot(title, tuple(traces), layout | _knee_lines(result))


def _over_percents(result: RunResult, name: str, title: str) -> Plot:
    traces = [
        {
            "x": [f"p{percent}" for percent in PERCENTS],
            "y": [_latency_of(name, f"p{percent}")(one) for percent in PERCENTS],
            "name": html.escape(one.arm),
            "mode": "lines+markers",
            "line": {"color": arm_colours(result)[one.arm]},
            "marker": {"size": 7},
        }
        for one in result.summaries
    ]
    layout = axes("percentile of the requests", "ms")
    layout["xaxis"] |= {"type": "category"}
    return Plot(title, tuple(traces), layout)


def _latency_of(name: str, percent: str) -> Callable[[LoadSummary], float | None]:
    """Gives a percentile of a latency in ms."""

    def value(one: LoadSummary) -> float | None:
        distribution: Distribution = getattr(one.total.latency, name)
        return _in_ms(getattr(distribution, percent))

    return value


def _goodput_plot(result: RunResult) -> tuple[Plot, ...]:
    if not result.facts.slo.has_limits:
        return ()
    layout = axes(result.facts.load_unit, "share of the requests") | _knee_lines(result)
    layout["yaxis"] |= {"range": [0, 1.03], "tickformat": ".0%"}
    share = result.facts.slo.min_goodput_share
    if share is not None:
        layout["shapes"] = [*layout.get("shapes", []), level(share)]
    traces = tuple(_load_trace(result, arm, _goodput_share) for arm in arm_colours(result))
    return (Plot("Goodput: requests that kept the SLO", traces, layout),)


def _load_trace(
    result: RunResult, arm: str, value_of: Callable[[LoadSummary], float | None]
) -> Trace:
    rows = [one for one in result.summaries if one.arm == arm]
    return {
        "x": [one.load for one in rows],
        "y": [value_of(one) for one in rows],
        "name": html.escape(arm),
        "mode": "lines+markers",
        "line": {"color": arm_colours(result)[arm]},
        "marker": {"size": 7},
    }


def _time_trace(
    result: RunResult,
    line: Timeline,
    value_of: Callable[[TimelineBin], float | None],
    dash: str = "solid",
) -> Trace:
    return {
        "x": [at.start_seconds for at in line.bins],
        "y": [value_of(at) for at in line.bins],
        "name": html.escape(line.arm) + (" p95" if dash == "dot" else ""),
        "mode": "lines",
        "line": {"color": arm_colours(result)[line.arm], "width": 1.5, "dash": dash},
    }


def _knee_lines(result: RunResult) -> dict[str, Any]:
    colours = arm_colours(result)
    lines = [
        vertical(knee.load, colours[arm], "dot")
        for arm, knee in result.knees.items()
        if knee.load is not None and not knee.is_above
    ]
    return {"shapes": lines} if lines else {}


def _in_ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _tokens_per_second(one: LoadSummary) -> float | None:
    return one.total.tokens_per_second


def _answered_share(one: LoadSummary) -> float | None:
    return None if one.offered is None else one.offered.answered_share


def _goodput_share(one: LoadSummary) -> float | None:
    return None if one.total.goodput is None else one.total.goodput.share
