"""Calibrated times of an engine's steps, by draft length and batch size."""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self


class TimedPoint(NamedTuple):
    """The measured time of a full step."""

    num_draft_tokens: int
    batch_size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StepTimes:
    """T(K, B): how long a step with K draft tokens takes in a batch of B requests.

    Attributes:
        lengths: Measured draft tokens per step, rising from 0.
        batch_sizes: Measured batch sizes, rising.
        seconds: For each of these batch sizes, the time of each of the lengths.
    """

    lengths: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]

    @classmethod
    def from_points(cls, points: Iterable[TimedPoint]) -> Self:
        """Arrange measured points, in any order.

        Raises:
            ValueError: If there is none, one is given twice or takes no time, a length was not
                measured at each batch size, or speculation was never off.
        """
        given = list(points)
        found = {(point.num_draft_tokens, point.batch_size): point.seconds for point in given}
        lengths = tuple(sorted({length for length, _ in found}))
        batch_sizes = tuple(sorted({size for _, size in found}))
        if len(found) != len(given) or len(found) != len(lengths) * len(batch_sizes):
            raise ValueError(
                "step times need each length once at each batch size, got "
                f"{len(given)} times of {len(lengths)} lengths at {len(batch_sizes)} batch sizes."
            )
        if not lengths or lengths[0] != 0:
            raise ValueError(
                "step times need those without drafts, got the lengths "
                f"{', '.join(map(str, lengths)) or 'none'}."
            )
        if min(found.values()) <= 0:
            raise ValueError(f"a step takes time, got {min(found.values()):g} s.")
        return cls(
            lengths,
            batch_sizes,
            tuple(tuple(found[length, size] for length in lengths) for size in batch_sizes),
        )

    def seconds_at(self, batch_size: int) -> tuple[float, ...] | None:
        """Time of a step of each length; none where the batch size is outside the measured ones.

        Between two measured batch sizes the time is taken as linear in the batch size.
        """
        sizes = self.batch_sizes
        if not sizes[0] <= batch_size <= sizes[-1]:
            return None
        right = bisect.bisect_left(sizes, batch_size)
        if sizes[right] == batch_size:
            return self.seconds[right]
        left = right - 1
        share = (batch_size - sizes[left]) / (sizes[right] - sizes[left])
        return tuple(
            before + share * (after - before)
            for before, after in zip(self.seconds[left], self.seconds[right], strict=True)
        )


def time_of_length(
    lengths: Sequence[int], times: Sequence[float], num_draft_tokens: int
) -> float | None:
    """The time of one length among those of others; none where it cannot be told.

    Between two measured lengths the time is taken as linear in the length. Not between 0 and the
    first other one: a step with any draft also runs the drafter, one without does not.

    Args:
        lengths: Measured draft tokens per step, rising.
        times: The time of each of them, in any unit.
        num_draft_tokens: The length that is asked for.
    """
    right = bisect.bisect_left(lengths, num_draft_tokens)
    if right == len(lengths):
        return None
    if lengths[right] == num_draft_tokens:
        return times[right]
    if right == 0 or lengths[right - 1] == 0:
        return None
    share = (num_draft_tokens - lengths[right - 1]) / (lengths[right] - lengths[right - 1])
    return times[right - 1] + share * (times[right] - times[right - 1])
