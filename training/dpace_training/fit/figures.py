"""The figures of a training run, from its history."""

from dpace_training.fit.history import LoggedEvaluation, LoggedSteps, TrainingHistory
from dpace_training.plots.figure import (
    Figure,
    Line,
    NumberTable,
    Panel,
    evenly_spread,
    number_text,
)
from dpace_training.plots.look import FIRST, HIGHLIGHT, ordered_colours

# A long run logs more than a page can hold or an eye can tell apart.
MAX_POINTS = 1500
MAX_ROWS = 100
MAX_EVALUATIONS = 8
# A curve that falls by more than this factor shows nothing of its end on a linear scale.
LOG_SCALE_FROM = 5.0

STEP_LABEL = "optimizer step"
POSITION_LABEL = "draft position, from 1"


def run_figures(history: TrainingHistory) -> list[Figure]:
    """The figures that the log has numbers for: without evaluations there is no tau."""
    figures = []
    if history.evaluations:
        figures += [_tau(history.evaluations), _acceptance(history.evaluations)]
    if history.steps:
        figures += [_weight_share(history.steps), _loss_and_gradient(history.steps)]
    return figures


def _tau(evaluations: tuple[LoggedEvaluation, ...]) -> Figure:
    first, last = evaluations[0], evaluations[-1]
    shown = evenly_spread(evaluations, MAX_POINTS)
    line = Line(
        "held-out tau",
        x=tuple(record.step for record in shown),
        y=tuple(record.tau for record in shown),
        low=tuple(record.tau_low for record in shown),
        high=tuple(record.tau_high for record in shown),
        colour=FIRST,
        has_markers=True,
    )
    return Figure(
        name="tau-by-step",
        title="Held-out tau by step",
        description=(
            f"Tau was {_tau_text(first)} after step {first.step} and {_tau_text(last)} after step "
            f"{last.step}. The band is the 95 % interval over prompts."
        ),
        panels=(Panel((line,), STEP_LABEL, "tau, tokens per verification step"),),
        table=NumberTable(
            ("step", "tau", "95 % from", "to"),
            tuple(
                (
                    str(record.step),
                    number_text(record.tau),
                    number_text(record.tau_low),
                    number_text(record.tau_high),
                )
                for record in evenly_spread(evaluations, MAX_ROWS)
            ),
        ),
    )


def _acceptance(evaluations: tuple[LoggedEvaluation, ...]) -> Figure:
    shown = evenly_spread(evaluations, MAX_EVALUATIONS)
    last = shown[-1]
    positions = _positions(len(last.accepted_per_position))
    colours = (*ordered_colours(len(shown) - 1), HIGHLIGHT)
    lines = tuple(
        Line(
            f"step {record.step}" + (", last" if record is last else ""),
            x=positions,
            y=_percent(record.accepted_per_position),
            colour=colour,
            width=3.0 if record is last else 1.5,
            has_markers=record is last,
        )
        for record, colour in zip(shown, colours, strict=True)
    )
    rates = _percent(last.accepted_per_position)
    return Figure(
        name="acceptance-by-position",
        title="Acceptance by draft position",
        description=(
            f"After step {last.step} the target accepted {number_text(rates[0], 1)} % of the "
            f"drafts at position 1 and {number_text(rates[-1], 1)} % at position {len(rates)}. "
            "A draft counts as accepted when all before it were, too."
        ),
        panels=(
            Panel(
                lines,
                POSITION_LABEL,
                "accepted, % of drafts",
                y_starts_at_zero=True,
                x_ticks=positions,
            ),
        ),
        table=NumberTable(
            ("step", *(f"position {position}, %" for position in positions)),
            tuple(
                (str(r.step), *(number_text(x, 1) for x in _percent(r.accepted_per_position)))
                for r in evenly_spread(evaluations, MAX_ROWS)
            ),
        ),
    )


def _weight_share(steps: tuple[LoggedSteps, ...]) -> Figure:
    shown = evenly_spread(steps, MAX_POINTS)
    positions = _positions(len(steps[0].weight_share))
    lines = tuple(
        Line(
            f"position {position}",
            x=tuple(record.step for record in shown),
            y=_percent(tuple(record.weight_share[position - 1] for record in shown)),
            colour=colour,
        )
        for position, colour in zip(positions, ordered_colours(len(positions)), strict=True)
    )
    first, last = (_percent(record.weight_share) for record in (steps[0], steps[-1]))
    return Figure(
        name="weight-share-by-position",
        title="Share of the weight by draft position",
        description=(
            f"Position 1 had {number_text(first[0], 1)} % of the weight at the start and "
            f"{number_text(last[0], 1)} % at the end, position {len(last)} "
            f"{number_text(first[-1], 1)} % and {number_text(last[-1], 1)} %."
        ),
        panels=(Panel(lines, STEP_LABEL, "share of the total weight, %", y_starts_at_zero=True),),
        table=NumberTable(
            ("step", *(f"position {position}, %" for position in positions)),
            tuple(
                (str(record.step), *(number_text(x, 2) for x in _percent(record.weight_share)))
                for record in evenly_spread(steps, MAX_ROWS)
            ),
        ),
    )


def _loss_and_gradient(steps: tuple[LoggedSteps, ...]) -> Figure:
    shown = evenly_spread(steps, MAX_POINTS)
    x = tuple(record.step for record in shown)
    loss = tuple(record.loss for record in shown)
    norm = tuple(record.gradient_norm for record in shown)
    return Figure(
        name="loss-and-gradient-norm",
        title="Loss and gradient norm by step",
        description=(
            f"The loss went from {number_text(steps[0].loss)} to {number_text(steps[-1].loss)}, "
            f"the norm of the gradient before clipping from {number_text(steps[0].gradient_norm)} "
            f"to {number_text(steps[-1].gradient_norm)}. "
            "Each point is the mean over the steps since the one before."
        ),
        panels=(
            _curve_panel("loss", x, loss, "loss, in nats with ce and kl", FIRST),
            _curve_panel("gradient norm", x, norm, "norm of the gradient", HIGHLIGHT),
        ),
        num_columns=2,
        table=NumberTable(
            ("step", "loss", "gradient norm"),
            tuple(
                (str(record.step), number_text(record.loss, 4), number_text(record.gradient_norm))
                for record in evenly_spread(steps, MAX_ROWS)
            ),
        ),
    )


def _curve_panel(
    name: str, x: tuple[int, ...], y: tuple[float | None, ...], label: str, colour: str
) -> Panel:
    values = [value for value in y if value is not None]
    falls_far = bool(values) and min(values) > 0 and max(values) > LOG_SCALE_FROM * min(values)
    scale = ", log scale" if falls_far else ""
    return Panel(
        (Line(name, x=x, y=y, colour=colour),),
        STEP_LABEL,
        f"{label}{scale}",
        y_scale="log" if falls_far else "linear",
    )


def _positions(count: int) -> tuple[int, ...]:
    return tuple(range(1, count + 1))


def _percent(shares: tuple[float | None, ...]) -> tuple[float | None, ...]:
    return tuple(None if share is None else 100 * share for share in shares)


def _tau_text(record: LoggedEvaluation) -> str:
    low, high = number_text(record.tau_low, 2), number_text(record.tau_high, 2)
    return f"{number_text(record.tau, 2)} ({low} to {high})"
