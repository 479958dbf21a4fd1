"""How long steps of two drafters take, which verdicts weigh their acceptance by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dpace_serve.acceptance.step_times import StepTimes, time_of_length
from dpace_serve.acceptance.verdict import StepTime
from dpace_serve.live.hosted import Rivals
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine.calibration import read_step_times, read_times

MAX_UNMEASURED_SHARE = 0.1
"""Share of the steps that may have a batch size without a measured time."""


@dataclass(frozen=True, slots=True)
class StepTimeRatio:
    """Time of the steps of a challenger against that of the champion's.

    All drafters of a server draft the same number of tokens in the same steps: with equal shapes
    the times are equal. With others each step of the comparison is given the calibrated time that
    it takes with either, at its own batch size. A mean batch size would not do: drafters differ
    most where the batch is full.

    Attributes:
        times: Calibrated times by name of the drafter.
        num_draft_tokens: Draft tokens of a step, by batch size.
    """

    times: dict[str, StepTimes]
    num_draft_tokens: Callable[[int], int]

    def __call__(self, rivals: Rivals, num_steps: Mapping[int, int]) -> StepTime | None:
        """The ratio; none where it is not known.

        Args:
            rivals: Who is compared.
            num_steps: Steps of the engine since the comparison began, by batch size.
        """
        if rivals.have_same_shape:
            return StepTime(1.0, "same_shape")
        champion = challenger = 0.0
        num_measured = 0
        for batch_size, count in num_steps.items():
            of_champion = self._seconds(rivals.champion.name, batch_size)
            of_challenger = self._seconds(rivals.challenger.name, batch_size)
            if of_champion is not None and of_challenger is not None:
                champion += count * of_champion
                challenger += count * of_challenger
                num_measured += count
        total = sum(num_steps.values())
        if not num_measured or total - num_measured > MAX_UNMEASURED_SHARE * total:
            return None
        return StepTime(challenger / champion, "calibration")

    def _seconds(self, drafter: str, batch_size: int) -> float | None:
        times = self.times.get(drafter)
        seconds = None if times is None else times.seconds_at(batch_size)
        if times is None or seconds is None:
            return None
        return time_of_length(times.lengths, seconds, self.num_draft_tokens(batch_size))


def calibrated_times(config: ServeConfig, champion: str) -> dict[str, StepTimes]:
    """Step times by drafter: the server's own for the champion it started with, and those named.

    Raises:
        ConfigError: If a file cannot be read or holds no usable times.
    """
    own = read_step_times(config)
    times = {} if own is None else {champion: own}
    return times | {name: read_times(path) for name, path in config.verdict.step_times.items()}
