"""What the timed steps of an engine add up to."""

from dataclasses import dataclass
from typing import Self

from dpace_serve.acceptance.decode_step import DecodeStep
from dpace_serve.acceptance.step_times import StepTimes


@dataclass(frozen=True, slots=True)
class CalibratedSums:
    """Sums over the steps whose batch size lies within the calibrated ones.

    Attributes:
        steps: Those steps.
        seconds: Their wall time.
        plain_seconds: Estimated time of their tokens without speculation.
        seconds_by_length: Their calibrated time at each calibrated draft length.
    """

    steps: int
    seconds: float
    plain_seconds: float
    seconds_by_length: tuple[float, ...]

    def __add__(self, other: Self) -> Self:
        """Sums of both sets of steps together."""
        return type(self)(
            self.steps + other.steps,
            self.seconds + other.seconds,
            self.plain_seconds + other.plain_seconds,
            tuple(
                one + more
                for one, more in zip(self.seconds_by_length, other.seconds_by_length, strict=True)
            ),
        )


@dataclass(frozen=True, slots=True)
class DecodeSums:
    """Sums over steps that only decoded.

    Attributes:
        steps: Those steps.
        seconds: Their wall time.
        tokens: Tokens that they put out.
        requests: Sum of their batch sizes.
        calibrated: Sums over those of them that calibrated times can be compared with; none where
            no times were calibrated.
    """

    steps: int
    seconds: float
    tokens: int
    requests: int
    calibrated: CalibratedSums | None

    @classmethod
    def zero(cls, step_times: StepTimes | None) -> Self:
        """Sums of no step."""
        calibrated = None
        if step_times is not None:
            calibrated = CalibratedSums(0, 0.0, 0.0, (0.0,) * len(step_times.lengths))
        return cls(0, 0.0, 0, 0, calibrated)

    @classmethod
    def of_step(cls, step: DecodeStep, step_times: StepTimes | None) -> Self:
        """Sums of one step; calibrated ones are 0 where its batch size is outside."""
        times = None if step_times is None else step_times.seconds_at(step.batch_size)
        if times is None:
            calibrated = cls.zero(step_times).calibrated
        else:
            # Each request of the batch gets one token from each step without drafts.
            num_plain_steps = step.num_tokens / step.batch_size
            calibrated = CalibratedSums(1, step.seconds, num_plain_steps * times[0], times)
        return cls(1, step.seconds, step.num_tokens, step.batch_size, calibrated)

    def __add__(self, other: Self) -> Self:
        """Sums of both sets of steps together.

        Raises:
            ValueError: If only one of them has calibrated sums.
        """
        if (self.calibrated is None) != (other.calibrated is None):
            raise ValueError("calibrated sums add to calibrated ones only. Keep them apart.")
        calibrated = None
        if self.calibrated is not None and other.calibrated is not None:
            calibrated = self.calibrated + other.calibrated
        return type(self)(
            self.steps + other.steps,
            self.seconds + other.seconds,
            self.tokens + other.tokens,
            self.requests + other.requests,
            calibrated,
        )
