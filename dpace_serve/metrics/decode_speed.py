"""How fast the engine decodes: its timed steps as series, as sums, and over the last minute."""

from collections import Counter as Multiset
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import Counter

from dpace_serve.acceptance.break_even import break_even_line
from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.decode_step import DecodeStep
from dpace_serve.acceptance.step_times import StepTimes
from dpace_serve.metrics import names
from dpace_serve.metrics.decode_sums import DecodeSums
from dpace_serve.metrics.names import MetricSpec
from dpace_serve.metrics.window import DecodeWindow

WINDOW_SECONDS = 60


class DecodeSpeed:
    """Counts timed steps; one at an uncalibrated batch size enters neither side of the speed-up.

    Attributes:
        sums: Everything since the start; the series have exactly these values.
        num_steps: Steps since the start by batch size.
    """

    def __init__(
        self,
        counters: Mapping[MetricSpec, Counter],
        step_times: StepTimes | None,
        now: Callable[[], float],
    ) -> None:
        """Start with every series at 0.

        Args:
            counters: The registered metrics.
            step_times: Calibrated times; none leaves the speed-up unknown.
            now: The time, in seconds.
        """
        self.sums = DecodeSums.zero(step_times)
        self.num_steps: Multiset[int] = Multiset()
        self._step_times = step_times
        self._counters = counters
        self._by_length = [
            counters[names.CALIBRATED_STEP_SECONDS].labels(length)
            for length in (() if step_times is None else step_times.lengths)
        ]
        self._window = DecodeWindow(self.sums, seconds=WINDOW_SECONDS, now=now)

    def observe(self, step: DecodeStep) -> None:
        """Count a step."""
        added = DecodeSums.of_step(step, self._step_times)
        self.sums += added
        self.num_steps[step.batch_size] += 1
        self._window.add(added)
        counters, calibrated = self._counters, added.calibrated
        counters[names.DECODE_STEPS].inc(added.steps)
        counters[names.DECODE_SECONDS].inc(added.seconds)
        counters[names.DECODE_TOKENS].inc(added.tokens)
        counters[names.DECODE_REQUESTS].inc(added.requests)
        if calibrated is not None:
            counters[names.CALIBRATED_DECODE_STEPS].inc(calibrated.steps)
            counters[names.CALIBRATED_DECODE_SECONDS].inc(calibrated.seconds)
            counters[names.PLAIN_DECODE_SECONDS].inc(calibrated.plain_seconds)
            for series, seconds in zip(self._by_length, calibrated.seconds_by_length, strict=True):
                series.inc(seconds)

    def to_dict(self, counts: AcceptanceCounts) -> dict[str, Any] | None:
        """The speed over the last minute for JSON; none if nothing was timed in it.

        Step time and tokens per second are one engine's; the time of prompts is in neither.

        Args:
            counts: Of the drafter whose break-even line is wanted.
        """
        recent = self._window.total()
        if not recent.steps:
            return None
        speedup, line, batch_sizes = None, [], None
        if self._step_times is not None:
            # Tells "never calibrated" from "calibrated, but not for the batches of this minute".
            batch_sizes = [self._step_times.batch_sizes[0], self._step_times.batch_sizes[-1]]
            if recent.calibrated and recent.calibrated.steps:
                speedup = recent.calibrated.plain_seconds / recent.calibrated.seconds
                line = break_even_line(
                    counts, self._step_times.lengths, recent.calibrated.seconds_by_length
                )
        return {
            "window_seconds": WINDOW_SECONDS,
            "steps": recent.steps,
            "mean_batch_size": recent.requests / recent.steps,
            "step_ms": 1000 * recent.seconds / recent.steps,
            "tokens_per_second": recent.tokens / recent.seconds,
            "calibrated_batch_sizes": batch_sizes,
            "speedup": speedup,
            "break_even": [point._asdict() for point in line],
        }
