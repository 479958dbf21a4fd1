"""Reason of a verdict: one plain sentence with the numbers in it."""

from dataclasses import dataclass

from dpace_serve.acceptance.confidence_sequence import Interval
from dpace_serve.acceptance.sample_ratio import SampleRatio
from dpace_serve.acceptance.verdict import Design, lift_of
from dpace_serve.acceptance.verdict_rule import VerdictRule


@dataclass(frozen=True, slots=True)
class Sides:
    """Who is compared, and on what.

    Attributes:
        champion: Name of the champion.
        challenger: Name of the challenger.
        design: How they are compared.
        requests: Requests of each; equal if paired.
    """

    champion: str
    challenger: str
    design: Design
    requests: tuple[int, int]

    def lead(self, lift: Interval, unit: str) -> str:
        """What the challenger gains, with its interval and on how many requests."""
        return (
            f"{self.challenger} makes {_gain(lift.estimate)} {unit} {_as_or_than(lift.estimate)} "
            f"{self.champion} [{_percent(lift_of(lift.low))}, {_percent(lift_of(lift.high))}] "
            f"over {self._number_of_requests()}"
        )

    def more(self, num_requests: int) -> str:
        """So many further requests of the smaller arm, to two digits."""
        about = round(num_requests, min(0, 2 - len(str(num_requests))))
        if self.design == "paired":
            return f"{about:,} more paired requests"
        smaller = self.champion if self.requests[0] < self.requests[1] else self.challenger
        return f"{about:,} more requests of {smaller}"

    def _number_of_requests(self) -> str:
        of_champion, of_challenger = self.requests
        if self.design == "paired":
            return f"{of_challenger:,} paired requests"
        return f"{of_challenger:,} requests against {of_champion:,}"


def too_little_data(
    design: Design, requests: tuple[int, int], workload: str | None, rule: VerdictRule
) -> str:
    """How many requests there are, in which workload if one lacks them, and how many it takes."""
    where = "" if workload is None else f" in workload {workload}"
    needed = f"an answer needs {rule.minimum_requests:,}"
    if design == "paired":
        return f"There are {requests[1]:,} paired requests{where}; {needed}."
    return (
        f"There are {requests[1]:,} requests of the challenger and {requests[0]:,} of the "
        f"champion{where}; {needed} of each."
    )


def sample_ratio_mismatch(ratio: SampleRatio) -> str:
    """What was counted against what was configured."""
    counts = ", ".join(f"{count:,}" for count in ratio.counts)
    shares = ", ".join(f"{100 * share:.4g} %" for share in ratio.shares)
    return (
        f"The arms counted [{counts}] requests where shares of [{shares}] were configured: "
        "something other than the draw decides what is counted, so the arms cannot be compared."
    )


def lost_pairs(num_lost: int, num_pairs: int, max_share: float) -> str:
    """How many shadows are missing."""
    shadowed = num_pairs + num_lost
    return (
        f"The shadows of {num_lost:,} of {shadowed:,} requests "
        f"({_percent(num_lost / shadowed)}) were lost, more than {100 * max_share:g} %: the pairs "
        "that are left may be of another kind."
    )


def step_time_unknown(sides: Sides, tau: Interval) -> str:
    """What is known of tokens per step, and that tokens per second are not."""
    return (
        f"{sides.lead(tau, 'tokens per step')}; how long its steps take is not known, so tokens/s "
        "are not known either."
    )


def promoted(sides: Sides, effect: Interval, rule: VerdictRule) -> str:
    """The gain, and what was asked for."""
    asked = f"more than {100 * rule.minimum_lift:g} % was asked for"
    return f"{sides.lead(effect, 'tokens/s')}; {asked}."


def rolled_back(sides: Sides, effect: Interval, rule: VerdictRule) -> str:
    """The loss, and what was allowed."""
    allowed = f"at most {_margin(-lift_of(rule.roll_back_below))} fewer is allowed"
    return f"{sides.lead(effect, 'tokens/s')}; {allowed}."


def held(sides: Sides, effect: Interval, rule: VerdictRule, more_requests: int | None) -> str:
    """What is known, what a decision takes, and when it may come."""
    zone = f"{_margin(lift_of(rule.roll_back_below))} or above {_margin(rule.minimum_lift)}"
    when = "" if more_requests is None else f", in about {sides.more(more_requests)}"
    return (
        f"{sides.lead(effect, 'tokens/s')}; a decision needs an interval that lies below {zone}"
        f"{when}."
    )


def _gain(log_lift: float) -> str:
    size = _percent(abs(lift_of(log_lift)))
    if size == _percent(0):
        return "as many"
    return f"{size} more" if log_lift > 0 else f"{size} fewer"


def _as_or_than(log_lift: float) -> str:
    return "as" if _gain(log_lift) == "as many" else "than"


def _percent(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f} %"  # never -0.0


def _margin(share: float) -> str:
    return f"{100 * share:.3g} %"
