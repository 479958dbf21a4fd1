"""How long steps of two drafters take, which verdicts weigh their acceptance by."""

from collections.abc import Callable
from dataclasses import dataclass

from dpace_serve.acceptance.step_times import StepTimes, time_of_length
from dpace_serve.acceptance.verdict import StepTime
from dpace_serve.live.hosted import Rivals
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine.calibration import read_step_times, read_times


@dataclass(frozen=True, slots=True)
class StepTimeRatio:
    """Time of a step of a challenger against that of the champion.

    All drafters of a server draft the same number of tokens in the same steps: with equal shapes
    the times are equal. With others they are read from calibrations, at the mean batch size.

    Attributes:
        times: Calibrated times by name of the drafter.
        num_draft_tokens: Draft tokens of a step, by batch size.
        mean_batch_size: Mean batch size of the steps so far; none before the first.
    """

    times: dict[str, StepTimes]
    num_draft_tokens: Callable[[int], int]
    mean_batch_size: Callable[[], float | None]

    def __call__(self, rivals: Rivals) -> StepTime | None:
        """The ratio; none where it is not known."""
        if rivals.have_same_shape:
            return StepTime(1.0, "same_shape")
        mean = self.mean_batch_size()
        if mean is None:
            return None
        champion = self._seconds(rivals.champion.name, max(1, round(mean)))
        challenger = self._seconds(rivals.challenger.name, max(1, round(mean)))
        if champion is None or challenger is None:
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
