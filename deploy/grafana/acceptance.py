"""Which draft positions are accepted, by which drafter, and which of them pay."""

from collections.abc import Callable

from grafana_foundation_sdk.models.dashboard import Dashboard

from board import DRAFTER, WORKLOAD_REPLICA, board
from panels import RATE, SHARE, TAU, Look, Query, bars, lines, note
from promql import in_range, per_second

WHO = "{{drafter}} {{revision}} {{arm}}"
POSITION = f"{WHO} {{{{position}}}}"
DRAFTER_LABELS = ("drafter", "revision", "arm")

HOW_TO_READ = """\
**Intervals.** Steps of one request depend on each other, so an interval from counted steps is
several times too narrow. Those of tau and of each position come from sums over requests: of the
last hour, all workloads and replicas, for one look, each position by itself. Where everything or
nothing was accepted there is none. The bars have none: look at the steps beside them. Intervals
of the difference between two drafters are in the service itself, at `GET /dpace/verdict`.

**Positions count from 1** (vLLM's own metrics count from 0). A rate divides by the steps that
drafted the position, so shorter drafts are not rejections. Where a schedule drafts less at high
load, late positions are of quiet times only.
"""


def build() -> Dashboard:
    """Acceptance by position."""
    return board(
        "acceptance",
        "Acceptance by position",
        "Which draft positions are accepted, by which drafter, and which of them pay?",
        [*_positions(), note("How to read this board", HOW_TO_READ, height=6), *_pay(), *_tau()],
    )


def _positions() -> list:
    def ratio(counted: Callable[..., str]) -> str:
        accepted, drafted = (
            counted(f"dpace_{kind}_tokens_total", WORKLOAD_REPLICA, *DRAFTER_LABELS, "position")
            for kind in ("accepted", "drafted")
        )
        return f"{accepted} / ({drafted} > 0)"

    return [
        bars(
            "Acceptance by position (S_k), time range",
            "Share of the steps that drafted position k in which positions 1 to k were all "
            "accepted. Falls with k by definition. Intervals: below, of the last hour.",
            Query(ratio(in_range), POSITION),
            SHARE,
            height=12,
        ),
        bars(
            "Steps behind each bar",
            "Verification steps that drafted the position in the time range: what the bar on the "
            "left divides by. A few hundred steps of a handful of requests say little.",
            Query(
                in_range(
                    "dpace_drafted_tokens_total", WORKLOAD_REPLICA, *DRAFTER_LABELS, "position"
                ),
                POSITION,
            ),
            Look(decimals=0, low=0),
            height=12,
        ),
        lines(
            "Acceptance by position over time",
            "All lines that fall together: other text, or another target. The first alone: "
            "weights or taps. All but the first: masks, block size or positions.",
            [Query(ratio(per_second), POSITION)],
            SHARE,
            width=24,
        ),
    ]


def _pay() -> list:
    rate, error = (
        f"dpace:acceptance_overall:ratio1h{{{DRAFTER}}}",
        f"dpace:acceptance_overall_se:ratio1h{{{DRAFTER}}}",
    )
    return [
        lines(
            "Acceptance against the break-even, with its 95 % interval",
            "Drafting position k pays if its S_k lies above its break-even: tau of the positions "
            "before it times the extra time of one more draft token. A break-even between low and "
            "high leaves it open. S_k of the last hour, all workloads; break-even of 5 minutes, "
            "present batch sizes, empty until step times are calibrated (`dpace tune`).",
            [
                Query(rate, POSITION),
                Query(f"clamp_min({rate} - 1.96 * {error}, 0)", f"{POSITION} low"),
                Query(f"clamp_max({rate} + 1.96 * {error}, 1)", f"{POSITION} high"),
                Query(f"dpace:break_even:rate5m{{{DRAFTER}}}", f"{POSITION} break-even"),
            ],
            Look(unit="percentunit", low=0),
        ),
        bars(
            "Marginal gain by position",
            "S_k minus its break-even, 5 minutes. Red positions cost more than they bring at this "
            "load: draft shorter blocks, or serve with a schedule of lengths. Each length sees "
            "other masks, so confirm with `dpace tune --verify`.",
            Query(f"dpace:marginal_gain:rate5m{{{DRAFTER}}}", POSITION),
            Look(unit="percentunit", decimals=1, warn_below=0),
        ),
    ]


def _tau() -> list:
    tau, error = (
        f"dpace:tau_overall:rate1h{{{DRAFTER}}}",
        f"dpace:tau_overall_se:rate1h{{{DRAFTER}}}",
    )
    buckets = per_second("dpace_request_tau_bucket", WORKLOAD_REPLICA, *DRAFTER_LABELS, "le")
    steps = per_second("dpace_verification_steps_total", WORKLOAD_REPLICA, *DRAFTER_LABELS)
    settled = per_second("dpace_drafted_tokens_total", WORKLOAD_REPLICA, *DRAFTER_LABELS)
    unsettled = per_second(
        "dpace_unsettled_tokens_total", f'{WORKLOAD_REPLICA}, kind="drafted"', *DRAFTER_LABELS
    )
    return [
        lines(
            "Tau of the last hour, with its 95 % interval",
            "Tokens per verification step. Request as unit, one look: watched until it pleases, "
            "the interval is too narrow. All workloads and replicas.",
            [
                Query(tau, WHO),
                Query(f"{tau} - 1.96 * {error}", f"{WHO} low"),
                Query(f"{tau} + 1.96 * {error}", f"{WHO} high"),
            ],
            TAU,
        ),
        lines(
            "Tau of single requests",
            "What users feel: 10 %, 50 % and 90 % of the requests have less. Interpolated inside "
            "buckets of width 1. The tau above weighs steps instead, so long answers count more.",
            [
                Query(f"histogram_quantile({share}, {buckets})", f"{WHO} {name}")
                for share, name in ((0.1, "p10"), (0.5, "p50"), (0.9, "p90"))
            ],
            TAU,
        ),
        lines(
            "Verification steps",
            "Steps per second with at least one draft token.",
            [Query(steps, WHO)],
            RATE,
        ),
        lines(
            "Unsettled positions",
            "Drafted past the end of an answer, as a share of all that was drafted: neither "
            "accepted nor rejected, and in no rate above. High with short answers.",
            [Query(f"{unsettled} / ({unsettled} + {settled} > 0)", WHO)],
            SHARE,
        ),
    ]
