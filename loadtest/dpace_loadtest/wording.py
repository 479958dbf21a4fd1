"""Numbers and terms of a report in words, the same on the terminal and on the page."""

from dpace_loadtest.acceptance_summary import Bounded, DrafterAcceptance, JoinCounts
from dpace_loadtest.comparison_of_arms import Comparison, Metric
from dpace_loadtest.join import UnjoinedReason
from dpace_loadtest.knee import Knee
from dpace_loadtest.run_facts import RunFacts, SloLimits
from dpace_loadtest.steadiness import Steadiness
from dpace_serve.acceptance.exclusion import ExclusionReason

UNKNOWN = "–"
"""Stands for what is not known; never a zero."""

METRIC_NAMES: dict[Metric, str] = {
    "tokens_per_second": "tokens/s of a request",
    "tpot": "time per output token",
    "ttft": "time to first token",
    "tau": "tau",
}
UNJOINED_WORDS: dict[UnjoinedReason, str] = {
    "no_service": "the server gives no records",
    "no_drafter": "the server drafts nothing",
    "not_taken": "failed before the engine took it",
    "missed": "record forgotten before it was read",
    "not_found": "no record names it",
    "several_records": "several records name it",
}
EXCLUDED_WORDS: dict[ExclusionReason, str] = {
    "aborted": "aborted",
    "several_outputs": "several answers",
    "stop_string": "ended by a stop string",
    "no_record": "engine gave no steps",
    "no_step": "no verification step",
    "no_shadow": "shadow's drafts lost",
}


def loop_in_words(facts: RunFacts) -> str:
    """What kind of loop it was, and what that means for the numbers."""
    if facts.mode == "open":
        return (
            "Open loop: requests came at their scheduled times, whether or not earlier ones had "
            "been answered. Waiting caused by a slow server is in the numbers."
        )
    return (
        "CLOSED loop: each user waited for an answer before asking again. A slow server was "
        "asked less, so waiting is hidden: these latencies are not what independent users "
        "would have seen."
    )


def slo_in_words(slo: SloLimits) -> str:
    """The limits in one line."""
    limits = {
        "TTFT": slo.ttft_seconds,
        "TPOT": slo.tpot_seconds,
        "end to end": slo.end_to_end_seconds,
    }
    set_limits = [
        f"{name} at most {milliseconds(limit)} ms"
        for name, limit in limits.items()
        if limit is not None
    ]
    if not set_limits:
        return "none"
    share = slo.min_goodput_share
    asked = "" if share is None else f", kept by at least {share:.1%} of the requests"
    return f"{', '.join(set_limits)}{asked}"


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds, with three digits that matter."""
    if seconds is None:
        return UNKNOWN
    return number(seconds * 1000)


def number(value: float | None) -> str:
    """A number with about three digits that matter."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def share(value: float | None) -> str:
    """A share in percent."""
    return UNKNOWN if value is None else f"{value:.1%}"


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """A number and its interval, where there is one."""
    if value is None:
        return UNKNOWN
    if low is None or high is None:
        return f"{value:.2f}"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def bounded(one: Bounded | None) -> str:
    """The same of a bounded number."""
    return UNKNOWN if one is None else interval(one.value, one.low, one.high)


def ratio(one: Comparison) -> str:
    """A speed-up with its interval."""
    return interval(one.ratio, one.low, one.high)


def finding(one: Comparison) -> str:
    """What a comparison says, without a word on size."""
    if one.ratio is None:
        return "no data"
    if one.low is None or one.high is None:
        return "too few prompts to tell"
    if one.low > 1:
        return "better"
    return "worse" if one.high < 1 else "no difference shown"


def drafter_name(one: DrafterAcceptance) -> str:
    """A drafter, and its role where it did not serve."""
    return f"{one.drafter} (shadow)" if one.role == "shadow" else one.drafter


def lost_records(counts: JoinCounts) -> str:
    """Why requests are not in the acceptance statistics, with how many; empty if all are."""
    reasons = [f"{UNJOINED_WORDS[reason]} ({n:,})" for reason, n in counts.unjoined.items()]
    reasons += [f"{EXCLUDED_WORDS[reason]} ({n:,})" for reason, n in counts.excluded.items()]
    return ", ".join(reasons)


def knee_in_words(knee: Knee) -> str:
    """Where the knee is, and why there."""
    if knee.load is None:
        return f"no knee. {knee.reason}"
    return f"knee at {'or above ' if knee.is_above else ''}{knee.load:g} requests/s. {knee.reason}"


def steady(one: Steadiness) -> str:
    """Whether a load had settled."""
    if one.is_steady is None:
        return "too few requests to tell"
    return "yes" if one.is_steady else "NO"
