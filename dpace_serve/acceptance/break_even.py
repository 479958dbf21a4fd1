"""The break-even line: how often a draft position must be accepted to pay for its time."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.step_times import time_of_length


class BreakEven(NamedTuple):
    """What the acceptance rate of a position must exceed for drafting it to make text faster.

    Below 0 where the longer step was the faster one, above 1 where the position can never pay.
    """

    position: int
    rate: float


def break_even_line(
    counts: AcceptanceCounts, lengths: Sequence[int], times: Sequence[float]
) -> list[BreakEven]:
    """The break-even rate of each position whose two step times and whose tau are known.

    Position K + 1 pays exactly where its rate exceeds tau(K) * (T(K + 1) - T(K)) / T(K), with
    tau(K) = 1 + the rates of positions 1 to K: tokens per second, tau / T, then rise.

    Args:
        counts: Accepted and drafted tokens by position.
        lengths: Draft tokens per step whose times are known, rising.
        times: The time of each of them at the same batch size, or sums over the same steps.
    """
    line = []
    tau = 1.0
    for position in range(1, counts.num_draft_tokens + 1):
        shorter = time_of_length(lengths, times, position - 1)
        longer = time_of_length(lengths, times, position)
        if shorter is not None and longer is not None:
            line.append(BreakEven(position, tau * (longer - shorter) / shorter))
        tau += counts.rate_at(position)
        if math.isnan(tau):
            break
    return line
