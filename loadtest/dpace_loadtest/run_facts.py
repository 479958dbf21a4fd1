"""RunFacts: what a run was, which its rows do not say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["open", "closed"]


@dataclass(frozen=True, slots=True)
class SloLimits:
    """What a request must keep to count as good; none of a limit asks nothing.

    Attributes:
        ttft_seconds: Longest time to the first token, from the scheduled time.
        tpot_seconds: Longest time per output token after the first.
        end_to_end_seconds: Longest time to the end, from the scheduled time.
        min_goodput_share: Share of the requests that must be good, in (0, 1]; none only reports.
    """

    ttft_seconds: float | None
    tpot_seconds: float | None
    end_to_end_seconds: float | None
    min_goodput_share: float | None

    @property
    def has_limits(self) -> bool:
        """Whether anything is asked."""
        limits = (self.ttft_seconds, self.tpot_seconds, self.end_to_end_seconds)
        return any(limit is not None for limit in limits)


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """One arm of a run.

    Attributes:
        name: As in the rows.
        url: Address of its server, as the service records name it.
        drafter: Drafter that its requests asked for; none where they did not choose.
    """

    name: str
    url: str
    drafter: str | None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a report needs to know of a run beside its rows.

    Attributes:
        name: Of the scenario.
        mode: Open loop: requests came at their times; closed loop: each user waited.
        arms: In the order of the scenario; at least one.
        baseline: Name of the arm that others are compared with; none takes an arm whose server
            has no drafter, or else the first.
        loads: What was offered, in order: requests/s in an open loop, users in a closed one.
        slo: What makes a request good.
        max_failed_share: Share of the requests that may fail, in [0, 1].
        saturation_seconds: Largest p99 of the send lag with which the generator kept up.
        seed: Of everything random.
        prompt_hash: Of the prompts, so that two runs can be told to have asked the same.
        versions: Of what took part, by name.
        started_at: When it started, ISO 8601 with the zone.
        generator_cpu: CPU time over time of the generator's busiest process, by arm and load, where
            it is known; near 1 the generator is at its end.
    """

    name: str
    mode: Mode
    arms: tuple[ArmFacts, ...]
    baseline: str | None
    loads: tuple[float, ...]
    slo: SloLimits
    max_failed_share: float
    saturation_seconds: float
    seed: int
    prompt_hash: str
    versions: Mapping[str, str]
    started_at: str
    generator_cpu: Mapping[tuple[str, float], float] = field(default_factory=dict)

    @property
    def load_unit(self) -> str:
        """What `load` counts."""
        return "requests/s" if self.mode == "open" else "users"
