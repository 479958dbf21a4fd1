"""Acceptance of the drafters in a run, from the records of exactly its requests."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpace_loadtest.join import JoinedRow, UnjoinedReason
from dpace_serve.acceptance.arm import Arm
from dpace_serve.acceptance.exclusion import ExclusionReason
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.split_moments import ArmMoments

CONFIDENCE = 0.95
"""Coverage of every interval of a report."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """A number and its interval with the request as unit; bounds are none where there is none.

    Attributes:
        value: The estimate.
        low: Lower bound.
        high: Upper bound.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class PositionAcceptance:
    """Acceptance of one draft position.

    Attributes:
        position: From 1.
        drafted: Steps that drafted it.
        accepted: Of these, steps that accepted it and all before it.
        rate: Their ratio; none where it was never drafted.
    """

    position: int
    drafted: int
    accepted: int
    rate: Bounded | None


@dataclass(frozen=True, slots=True)
class DrafterAcceptance:
    """What one drafter came to in one role.

    Attributes:
        drafter: Its name.
        revision: Of its checkpoint.
        role: Whether it served the requests or was compared in their shadow.
        num_requests: Counted requests.
        num_steps: Their verification steps.
        tau: Tokens per step, bonus included, weighted by steps.
        mean_request_tau: Mean of the requests' own tau, each weighted alike: what a user meets.
        positions: By draft position.
    """

    drafter: str
    revision: str
    role: Arm
    num_requests: int
    num_steps: int
    tau: Bounded
    mean_request_tau: float
    positions: tuple[PositionAcceptance, ...]


@dataclass(frozen=True, slots=True)
class JoinCounts:
    """Where the requests went: counted, excluded and unjoined are all of them.

    Attributes:
        num_requests: Measured requests.
        num_counted: With a record that is in the statistics.
        excluded: With a record that is not, by its reason.
        unjoined: Without a record, by the reason.
        shadows_excluded: Records of challengers that are not in the statistics, by reason.
    """

    num_requests: int
    num_counted: int
    excluded: Mapping[ExclusionReason, int]
    unjoined: Mapping[UnjoinedReason, int]
    shadows_excluded: Mapping[ExclusionReason, int]


def drafter_acceptances(
    joined: Sequence[JoinedRow], num_draft_tokens: int
) -> tuple[DrafterAcceptance, ...]:
    """Acceptance of every drafter and role among the requests; those that served come first.

    Args:
        joined: Measured requests.
        num_draft_tokens: Draft positions to show.
    """
    groups: dict[tuple[bool, str, str, Arm], list[RequestAcceptance]] = {}
    for one in joined:
        for record in _records(one):
            if record.excluded is None:
                key = (record.arm == "shadow", record.drafter, record.revision, record.arm)
                groups.setdefault(key, []).append(record)
    return tuple(
        _drafter_acceptance(records, num_draft_tokens) for _, records in sorted(groups.items())
    )


def join_counts(joined: Sequence[JoinedRow]) -> JoinCounts:
    """Count where the requests went."""
    served = [one.served for one in joined if one.served is not None]
    shadows = [shadow for one in joined for shadow in one.shadows]
    return JoinCounts(
        num_requests=len(joined),
        num_counted=sum(record.excluded is None for record in served),
        excluded=_reasons(served),
        unjoined=Counter(one.unjoined for one in joined if one.unjoined is not None),
        shadows_excluded=_reasons(shadows),
    )


def most_draft_tokens(joined: Sequence[JoinedRow]) -> int:
    """The longest draft among the records, 0 without one."""
    return max(
        (max(record.per_step_drafted, default=0) for one in joined for record in _records(one)),
        default=0,
    )


def _records(one: JoinedRow) -> tuple[RequestAcceptance, ...]:
    return one.shadows if one.served is None else (one.served, *one.shadows)


def _reasons(records: Sequence[RequestAcceptance]) -> Mapping[ExclusionReason, int]:
    return Counter(record.excluded for record in records if record.excluded is not None)


def _drafter_acceptance(
    records: Sequence[RequestAcceptance], num_draft_tokens: int
) -> DrafterAcceptance:
    first = records[0]
    moments = ArmMoments.zero(num_draft_tokens)
    for record in records:
        moments += ArmMoments.from_request(record, num_draft_tokens)
    total = moments.total
    return DrafterAcceptance(
        drafter=first.drafter,
        revision=first.revision,
        role=first.arm,
        num_requests=total.requests,
        num_steps=total.steps,
        tau=_bounded(total.tau, total.tau_interval(CONFIDENCE)),
        mean_request_tau=math.fsum(record.tau for record in records) / len(records),
        positions=tuple(
            _position(position, sums) for position, sums in enumerate(moments.positions, start=1)
        ),
    )


def _position(position: int, sums: AcceptanceMoments) -> PositionAcceptance:
    # In the moments of a position the steps are those that drafted it.
    rate = _bounded(sums.rate, sums.share_interval(CONFIDENCE)) if sums.steps else None
    return PositionAcceptance(position, sums.steps, sums.accepted, rate)


def _bounded(value: float, bounds: tuple[float, float]) -> Bounded:
    low, high = (None if math.isnan(bound) else bound for bound in bounds)
    return Bounded(value, low, high)
