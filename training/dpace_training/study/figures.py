"""The figures of a study: ratio to the baseline, tau by step, acceptance by position."""

from typing import Any

from dpace_training.plots.figure import Figure, Line, NumberTable, Panel, number_text
from dpace_training.plots.look import CATEGORIES, HIGHLIGHT, NEUTRAL

NUM_COLUMNS = 4
SMALL_PANEL_HEIGHT = 1.9
ROW_HEIGHT = 0.24
MIN_PANEL_HEIGHT = 2.2

Record = dict[str, Any]


def study_figures(result: Record) -> list[Figure]:
    """All figures of a study's result.

    Args:
        result: What `dpace study --json` writes.
    """
    figures = [_ratio(result)]
    if any(arm["curve"] for arm in result["arms"]):
        figures.append(_tau_by_step(result))
    return figures + [_acceptance(result, held_out) for held_out in result["arms"][0]["sets"]]


def by_ratio(result: Record) -> list[Record]:
    """The arms, the highest ratio on the first held-out set first; one without a ratio last."""
    first = next(iter(result["arms"][0]["sets"]))

    def place(arm: Record) -> float:
        ratio = arm["sets"][first]["ratio"]["tau_ratio"]
        return 0.0 if ratio is None else -float(ratio)

    return sorted(result["arms"], key=place)


def _ratio(result: Record) -> Figure:
    arms = by_ratio(result)
    sets = list(arms[0]["sets"])
    baseline, percent = result["baseline"], round(100 * result["confidence"])
    return Figure(
        name="tau-ratio",
        title=f"Tau of each objective over that of {baseline}",
        description=(
            f"{arms[0]['name']} is first on {sets[0]} with a ratio of "
            f"{number_text(arms[0]['sets'][sets[0]]['ratio']['tau_ratio'])} to {baseline}. "
            f"Thick bars are {percent} % intervals over prompts, for these very runs; thin bars "
            f"over the seeds {', '.join(map(str, result['seeds']))}, for a run with another seed."
        ),
        panels=tuple(
            Panel(
                _ratio_lines([arm["sets"][name]["ratio"] for arm in arms]),
                f"tau / tau of {baseline}",
                "",
                title=name,
                y_names=tuple(arm["name"] for arm in arms),
                x_reference=1.0,
            )
            for name in sets
        ),
        num_columns=min(len(sets), 2),
        panel_height=max(MIN_PANEL_HEIGHT, 0.7 + ROW_HEIGHT * len(arms)),
        table=NumberTable(
            ("objective", "held-out set", "tau", "ratio", "over seeds", "over prompts"),
            tuple(
                (
                    arm["name"],
                    name,
                    number_text(arm["sets"][name]["tau"]),
                    number_text(arm["sets"][name]["ratio"]["tau_ratio"]),
                    interval_text(arm["sets"][name]["ratio"]["across_seeds"]),
                    interval_text(arm["sets"][name]["ratio"]["across_prompts"]),
                )
                for arm in arms
                for name in sets
            ),
        ),
    )


def interval_text(bounds: list[float | None]) -> str:
    """An interval with three decimals, or a dash where there is none."""
    low, high = bounds
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _ratio_lines(ratios: list[Record]) -> tuple[Line, ...]:
    rows = tuple(range(len(ratios)))
    points = tuple(ratio["tau_ratio"] for ratio in ratios)
    return (
        _bars("over prompts", [ratio["across_prompts"] for ratio in ratios], CATEGORIES[5], 7.0),
        _bars("over seeds", [ratio["across_seeds"] for ratio in ratios], CATEGORIES[0], 2.0),
        Line("ratio", x=points, y=rows, colour=HIGHLIGHT, width=0.0, has_markers=True),
    )


def _bars(name: str, intervals: list[list[float | None]], colour: str, width: float) -> Line:
    # One broken line holds all bars.
    x = tuple(place for low, high in intervals for place in (low, high, None))
    y = tuple(place for row in range(len(intervals)) for place in (row, row, None))
    return Line(name, x=x, y=y, colour=colour, width=width)


def _tau_by_step(result: Record) -> Figure:
    def curve(name: str, arm: Record, *, is_baseline: bool) -> Line:
        points = arm["curve"]
        return Line(
            name,
            x=tuple(point["step"] for point in points),
            y=tuple(point["tau"] for point in points),
            colour=NEUTRAL if is_baseline else HIGHLIGHT,
            is_dashed=is_baseline,
        )

    baseline = _baseline(result)
    return Figure(
        name="tau-by-step",
        title="Held-out tau by step",
        description=(
            "Mean over the seeds of tau on the held-out prompts of training. Each panel has one "
            f"objective and, dashed, the baseline {result['baseline']}."
        ),
        panels=tuple(
            Panel(
                (
                    curve(f"baseline {result['baseline']}", baseline, is_baseline=True),
                    curve("this objective", arm, is_baseline=False),
                ),
                "optimizer step",
                "tau",
                title=arm["name"],
            )
            for arm in _others(result)
        ),
        num_columns=min(NUM_COLUMNS, len(_others(result))),
        panel_height=SMALL_PANEL_HEIGHT,
        shares_axes=True,
        table=NumberTable(
            ("objective", "step", "tau"),
            tuple(
                (arm["name"], str(point["step"]), number_text(point["tau"]))
                for arm in result["arms"]
                for point in arm["curve"]
            ),
        ),
    )


def _acceptance(result: Record, held_out: str) -> Figure:
    def rates(arm: Record) -> tuple[float | None, ...]:
        shares = arm["sets"][held_out]["accepted_per_position"]
        return tuple(None if share is None else 100 * share for share in shares)

    positions = tuple(range(1, len(rates(result["arms"][0])) + 1))
    baseline = _baseline(result)

    def curve(name: str, arm: Record, *, is_baseline: bool) -> Line:
        return Line(
            name,
            x=positions,
            y=rates(arm),
            colour=NEUTRAL if is_baseline else HIGHLIGHT,
            is_dashed=is_baseline,
        )

    return Figure(
        name=f"acceptance-{held_out}",
        title=f"Acceptance by draft position, {held_out}",
        description=(
            "Share of drafts accepted at each position, over all seeds; a draft counts as "
            "accepted when all before it were, too. Each panel has one objective and, dashed, the "
            f"baseline {result['baseline']}."
        ),
        panels=tuple(
            Panel(
                (
                    curve(f"baseline {result['baseline']}", baseline, is_baseline=True),
                    curve("this objective", arm, is_baseline=False),
                ),
                "draft position",
                "accepted, %",
                title=arm["name"],
                y_starts_at_zero=True,
                x_ticks=positions,
            )
            for arm in _others(result)
        ),
        num_columns=min(NUM_COLUMNS, len(_others(result))),
        panel_height=SMALL_PANEL_HEIGHT,
        shares_axes=True,
        table=NumberTable(
            ("objective", *(f"position {position}, %" for position in positions)),
            tuple(
                (arm["name"], *(number_text(rate, 1) for rate in rates(arm)))
                for arm in result["arms"]
            ),
        ),
    )


def _baseline(result: Record) -> Record:
    return next(arm for arm in result["arms"] if arm["name"] == result["baseline"])


def _others(result: Record) -> list[Record]:
    """The arms beside the baseline, or the baseline where it is alone."""
    others = [arm for arm in result["arms"] if arm["name"] != result["baseline"]]
    return others or result["arms"]
