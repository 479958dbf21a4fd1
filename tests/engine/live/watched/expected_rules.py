"""The value of every recording rule, from the records of the server and the known traffic."""

from collections.abc import Callable
from typing import NamedTuple

from tests.engine.live.watched import numbers
from tests.engine.live.watched.numbers import MOMENTS, POSITION_MOMENTS, WHERE, WHO, Series
from tests.engine.live.watched.watched_server import STEP_MS

AT, AT_WHERE = (*WHO, "position"), (*WHERE, "position")


class Expected(NamedTuple):
    """What a rule or query gives.

    Attributes:
        labels: Labels that tell its series apart.
        of: The values that are expected of a watched server, by those labels.
        is_count: Whether all values may be too high by one factor, that of `increase` between two
            scrapes. Anything else agrees to nine digits, errors to six.
        fixture: The server: `watched_split` where only one that splits has a value.
        rel: Relative tolerance: six digits where a difference of nearly equal sums is behind it.
    """

    labels: tuple[str, ...]
    of: Callable[..., Series]
    is_count: bool = False
    fixture: str = "watched"
    rel: float = 1e-9


def _champion(watched) -> Series:
    return {("dpace",): 1}


def _challengers(watched) -> Series:
    return {("dflash", "shadow"): 1, ("dflash", "challenger"): 1}


RULES: dict[str, Expected] = {
    "dpace:drafted_tokens:increase5m": Expected(
        AT_WHERE, lambda w: numbers.position_moments(w, WHERE, "drafted"), is_count=True
    ),
    "dpace:accepted_tokens:increase5m": Expected(
        AT_WHERE, lambda w: numbers.position_moments(w, WHERE, "accepted"), is_count=True
    ),
    "dpace:acceptance_steps:increase5m": Expected(
        WHERE, lambda w: numbers.moments(w, WHERE, "steps"), is_count=True
    ),
    "dpace:acceptance_accepted:increase5m": Expected(
        WHERE, lambda w: numbers.moments(w, WHERE, "accepted"), is_count=True
    ),
    "dpace:acceptance:ratio5m": Expected(AT_WHERE, lambda w: numbers.acceptance(w, WHERE)),
    "dpace:acceptance_overall:ratio5m": Expected(AT, lambda w: numbers.acceptance(w, WHO)),
    "dpace:tau:rate5m": Expected(WHERE, lambda w: numbers.tau(w, WHERE)),
    "dpace:tau_overall:rate5m": Expected(WHO, lambda w: numbers.tau(w, WHO)),
    **{
        f"dpace:acceptance_{name}:increase1h": Expected(
            WHERE, lambda w, n=name: numbers.moments(w, WHERE, n), is_count=True
        )
        for name in MOMENTS
    },
    "dpace:tau:rate1h": Expected(WHERE, lambda w: numbers.tau(w, WHERE)),
    "dpace:tau_overall:rate1h": Expected(WHO, lambda w: numbers.tau(w, WHO)),
    "dpace:tau_se:rate1h": Expected(WHERE, lambda w: numbers.tau_error(w, WHERE), rel=1e-6),
    "dpace:tau_overall_se:rate1h": Expected(WHO, lambda w: numbers.tau_error(w, WHO), rel=1e-6),
    "dpace:champion:info": Expected(("drafter",), _champion),
    "dpace:challenger:info": Expected(WHO, _challengers),
    "dpace:tau_log_lift:rate1h": Expected(WHERE, lambda w: numbers.log_lift(w, WHERE), rel=1e-6),
    "dpace:tau_overall_log_lift:rate1h": Expected(
        WHO, lambda w: numbers.log_lift(w, WHO), rel=1e-6
    ),
    "dpace:tau_log_lift_se:rate1h": Expected(
        WHERE, lambda w: numbers.log_lift_error(w, WHERE), rel=1e-6
    ),
    "dpace:tau_overall_log_lift_se:rate1h": Expected(
        WHO, lambda w: numbers.log_lift_error(w, WHO), rel=1e-6
    ),
    **{
        f"dpace:position_{name}:increase1h": Expected(
            AT, lambda w, n=name: numbers.position_moments(w, WHO, n), is_count=True
        )
        for name in POSITION_MOMENTS
    },
    "dpace:acceptance_overall:ratio1h": Expected(AT, lambda w: numbers.acceptance(w, WHO)),
    "dpace:acceptance_overall_se:ratio1h": Expected(AT, numbers.acceptance_error, rel=1e-6),
    "dpace:acceptance_requests:increase1d": Expected(
        WHERE, lambda w: numbers.moments(w, WHERE, "requests"), is_count=True
    ),
    "dpace:tau:rate1d": Expected(WHERE, lambda w: numbers.tau(w, WHERE)),
    "dpace:arm_requests:increase1h": Expected(
        ("instance", "arm"),
        lambda w: {(w.instance, *key): value for key, value in numbers.drawn(w).items()},
        is_count=True,
        fixture="watched_split",
    ),
    "dpace:arm_expected:increase1h": Expected(
        ("instance",),
        lambda w: {(w.instance,): sum(numbers.drawn(w).values()) / 2},
        is_count=True,
        fixture="watched_split",
    ),
    "dpace:arm_variance:increase1h": Expected(
        ("instance",),
        lambda w: {(w.instance,): sum(numbers.drawn(w).values()) / 4},
        is_count=True,
        fixture="watched_split",
    ),
    "dpace:arm_imbalance_replica:chi2_1h": Expected(
        ("instance",),
        lambda w: {(w.instance,): numbers.chi_squared(w)},
        is_count=True,
        fixture="watched_split",
    ),
    "dpace:arm_imbalance:chi2_1h": Expected(
        (), lambda w: {(): numbers.chi_squared(w)}, is_count=True, fixture="watched_split"
    ),
    "dpace:speedup_estimate:rate5m": Expected((), lambda w: {(): numbers.speedup(w)}),
    "dpace:step_cost:ratio5m": Expected(
        ("num_draft_tokens",), lambda w: numbers.step_costs(w, STEP_MS)
    ),
    "dpace:break_even:rate5m": Expected(AT, lambda w: numbers.break_even(w, STEP_MS), rel=1e-6),
    "dpace:marginal_gain:rate5m": Expected(
        AT, lambda w: numbers.marginal_gain(w, STEP_MS), rel=1e-6
    ),
}
