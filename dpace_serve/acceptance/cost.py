"""Which draft length pays at which batch size: tokens per step against the time of a step.

With K draft tokens per step, B requests in the batch and T the time of a step, drafting included,

    goodput(K, B) = B * tau(K) / T(K, B),   goodput(0, B) = B / T(0, B)

and a longer draft K' pays over K if and only if

    tau(K') - tau(K) > tau(K) * (T(K') - T(K)) / T(K)

which for K' = K + 1 and a drafter that drafts token by token reads S(K+1) > ..., with S(k) the
chance that the first k draft tokens are all accepted. A block drafter sees another number of masks
at another length and drafts other tokens, so tau is measured at each length: nothing here says
anything about a length that was not measured.

A shorter draft wins a tie. A length ties with the best one if its estimated loss is at most one
standard error of that estimate, and at most a bound that the caller sets: on a noisy machine the
standard error alone would give away speed.

Source:
    The condition is that of Leviathan et al., arXiv 2211.17192, for measured times; the rule of
    one standard error is that of Breiman et al., "Classification and Regression Trees", 1984, 3.4.
"""

import bisect
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpace_serve.acceptance.moments import AcceptanceMoments, paired_tau_ratio

LengthRange = tuple[int, int, int]
"""First and last batch size, and the draft tokens per step between them."""

_ONE_STANDARD_ERROR = math.erf(math.sqrt(0.5))  # coverage of plus and minus one
_DEVIATION_OVER_MAD = 1.4826  # of a normal distribution
_ROUNDING = 1e-9  # of logarithms, so that equal lengths are seen to be equal
_MEDIAN_ERROR_OVER_MEAN_ERROR = math.sqrt(math.pi / 2)


@dataclass(frozen=True, slots=True)
class MeasuredLength:
    """What one draft length brings and costs.

    Lengths that are compared were measured on the same prompts and in the same rounds.

    Attributes:
        num_draft_tokens: Draft tokens per step; 0 is speculation off.
        pairs: (accepted draft tokens, steps) of each prompt.
        step_seconds: For each measured batch size, the time of a full step in each round.
    """

    num_draft_tokens: int
    pairs: tuple[tuple[int, int], ...]
    step_seconds: Mapping[int, tuple[float, ...]]

    def __post_init__(self) -> None:
        """Refuse what has no tau or no standard error."""
        if len(self.pairs) < 2 or not any(steps for _, steps in self.pairs):
            raise ValueError(
                f"a draft length needs at least 2 prompts and 1 step, got {len(self.pairs)} "
                "prompts. Give more prompts."
            )
        num_rounds = {len(rounds) for rounds in self.step_seconds.values()}
        if len(num_rounds) != 1 or min(num_rounds) < 2:
            raise ValueError(
                "every batch size needs the same number of rounds, at least 2, got "
                f"{sorted(num_rounds)}. Measure them side by side."
            )

    @property
    def tau(self) -> float:
        """Tokens per step, bonus token included; 1 without drafts."""
        return AcceptanceMoments.from_pairs(self.pairs).tau

    def seconds_at(self, batch_size: int) -> tuple[float, ...]:
        """Time of a full step in each round.

        Between two measured batch sizes the time is taken as linear in the batch size.

        Raises:
            ValueError: If the batch size lies outside the measured ones.
        """
        sizes = sorted(self.step_seconds)
        if not sizes[0] <= batch_size <= sizes[-1]:
            raise ValueError(
                f"step times are known from batch size {sizes[0]} to {sizes[-1]}, got {batch_size}."
            )
        right = sizes[bisect.bisect_left(sizes, batch_size)]
        if right == batch_size:
            return self.step_seconds[right]
        left = sizes[bisect.bisect_left(sizes, batch_size) - 1]
        share = (batch_size - left) / (right - left)
        return tuple(
            before + share * (after - before)
            for before, after in zip(self.step_seconds[left], self.step_seconds[right], strict=True)
        )

    def goodput(self, batch_size: int) -> float:
        """Tokens per second of a batch of this size that is always full."""
        return batch_size * self.tau / statistics.median(self.seconds_at(batch_size))


@dataclass(frozen=True, slots=True)
class GoodputGain:
    """Goodput of one draft length over that of another, as a logarithm.

    Attributes:
        log_ratio: Above 0 the other one is faster.
        standard_error: Of `log_ratio`, over prompts and rounds.
    """

    log_ratio: float
    standard_error: float


def goodput_gain(base: MeasuredLength, other: MeasuredLength, batch_size: int) -> GoodputGain:
    """What `other` gains over `base` on the same prompts and in the same rounds.

    The time's part is the median over rounds of ln(T_base / T_other), so that a machine whose speed
    drifts slows both alike, and its error is that of a median, from the median absolute deviation.
    """
    tau = paired_tau_ratio(base.pairs, other.pairs, _ONE_STANDARD_ERROR)
    rounds = [
        math.log(before / after)
        for before, after in zip(
            base.seconds_at(batch_size), other.seconds_at(batch_size), strict=True
        )
    ]
    return GoodputGain(
        log_ratio=math.log(tau.ratio) + statistics.median(rounds),
        standard_error=math.hypot(math.log(tau.high / tau.ratio), _median_error(rounds)),
    )


def break_even_tokens(base: MeasuredLength, longer: MeasuredLength, batch_size: int) -> float:
    """Tokens per step that `longer` must add to those of `base` to pay for its longer step.

    For neighbouring lengths of a drafter that drafts token by token this is the break-even line:
    the chance of acceptance that the added position needs.
    """
    before = statistics.median(base.seconds_at(batch_size))
    after = statistics.median(longer.seconds_at(batch_size))
    return base.tau * (after - before) / before


def best_length(
    lengths: Sequence[MeasuredLength], batch_size: int, *, max_tie_loss: float
) -> MeasuredLength:
    """The measured length to draft with; the shortest of those that tie with the fastest.

    Args:
        lengths: At least one, in any order.
        batch_size: Requests in the batch.
        max_tie_loss: Largest estimated loss of goodput that is still a tie, as a share.
    """
    rising = sorted(lengths, key=lambda length: length.num_draft_tokens)
    gains = [goodput_gain(rising[0], length, batch_size).log_ratio for length in rising]
    fastest = rising[gains.index(max(gains))]
    for length in rising:
        loss = goodput_gain(length, fastest, batch_size)
        tie = min(loss.standard_error, -math.log1p(-max_tie_loss)) + _ROUNDING
        if loss.log_ratio <= tie:
            return length
    return fastest


def length_ranges(
    lengths: Sequence[MeasuredLength], *, max_tie_loss: float
) -> tuple[LengthRange, ...]:
    """The best length for each batch size from 1 to the largest that was measured."""
    largest = max(lengths[0].step_seconds)
    best = [
        best_length(lengths, batch_size, max_tie_loss=max_tie_loss).num_draft_tokens
        for batch_size in range(1, largest + 1)
    ]
    ranges = []
    for num_draft_tokens, group in itertools.groupby(
        enumerate(best, start=1), key=lambda place: place[1]
    ):
        batch_sizes = [batch_size for batch_size, _ in group]
        ranges.append((batch_sizes[0], batch_sizes[-1], num_draft_tokens))
    return tuple(ranges)


def _median_error(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    deviation = _DEVIATION_OVER_MAD * statistics.median(abs(value - middle) for value in values)
    return _MEDIAN_ERROR_OVER_MEAN_ERROR * deviation / math.sqrt(len(values))
