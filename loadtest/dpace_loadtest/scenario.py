"""ScenarioConfig: one load test as a file."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpace_loadtest.arrivals import ArrivalConfig
from dpace_loadtest.slo import SloConfig
from dpace_loadtest.workload import WorkloadConfig
from dpace_serve.config import Config

Mode = Literal["open", "closed"]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]


class ArmConfig(Config):
    """One thing that is compared with others: a server, or one of its drafters."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,40}$")]
    """What reports call it."""
    url: Url | None = None
    """Server; none is that of the scenario."""
    observation_url: Url | None = None
    """Where the server has /dpace, if it gave that a listener of its own; none is its address."""
    drafter: str | None = None
    """Drafter that every request asks for; the server must allow it (`allow_drafter_choice`)."""
    model: str | None = None
    """Model that requests name; none asks the server for its first."""
    api_key_file: Path | None = None
    """File with the server's API key; none sends no key."""


class ScenarioConfig(Config):
    """What is sent, when, and where to."""

    url: Url = "http://127.0.0.1:8000"
    """Server of the arms that name none."""
    arms: Annotated[tuple[ArmConfig, ...], Field(min_length=1)] = (ArmConfig(name="served"),)
    """What is compared, in the order of the first round; every second round reverses it."""
    baseline: str | None = None
    """Arm that the others are compared with; none takes one without a drafter, or the first."""
    rounds: Annotated[int, Field(ge=1, le=100)] = 1
    """How often every arm has its turn; each round draws new arrivals, the same for all arms."""

    mode: Mode = "open"
    """`open` sends when a request is due; `closed` has users who wait for their answers first, and
    so ask less of a slow server."""
    loads: Annotated[tuple[Annotated[float, Field(gt=0, le=100_000)], ...], Field(min_length=1)] = (
        1.0,
    )
    """Requests/s in an open loop, users in a closed one; several are a sweep, one after the
    other. Conversations count once, when they begin."""
    arrivals: ArrivalConfig = ArrivalConfig()
    """How requests are spread over the time; for the open loop only."""
    warm_up_seconds: Annotated[float, Field(ge=0, le=3600)] = 5.0
    """First part of every load, which does not count."""
    duration_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """How long a load is measured after its warm-up, in s."""
    num_requests: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """How many requests, or conversations, of a load are measured, in place of the duration."""

    workloads: tuple[WorkloadConfig, ...] = ()
    """Kinds of prompts, mixed by their shares; none takes all bundled ones alike."""
    max_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest answer in tokens, where a workload does not say otherwise."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 is greedy."""
    ignore_end: bool = False
    """Whether answers go on to `max_tokens`, past the model's own end."""
    tag_requests: bool = True
    """Whether requests carry `vllm_xargs` with their workload; servers other than vLLM may refuse
    it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of arrivals, the order of prompts and synthetic words; sampled answers get seeds from it."""

    request_timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """How long a request may take from its sending to its end."""
    max_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 4000
    """Most requests of one worker at a time; more wait, which shows as lag of sending."""
    max_send_lag_ms: Annotated[float, Field(gt=0)] = 50.0
    """p99 of the lag of sending above which the generator counts as saturated, in ms."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Generator processes on this machine; each takes one core."""
    slo: SloConfig = SloConfig()
    """What counts as good."""
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the requests of an arm's lowest load that may fail before the run counts as bad."""

    @model_validator(mode="after")
    def _consistent(self) -> "ScenarioConfig":
        if (self.duration_seconds is None) == (self.num_requests is None):
            raise ValueError("exactly one of duration_seconds and num_requests must be set")
        for names, what in (
            ([arm.name for arm in self.arms], "arms"),
            ([workload.name for workload in self.workloads], "workloads"),
            ([str(load) for load in self.loads], "loads"),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"{what} must differ, got {', '.join(names)}")
        if self.baseline is not None and self.baseline not in [arm.name for arm in self.arms]:
            raise ValueError(f"baseline must be one of the arms, got {self.baseline}")
        if self.mode == "closed":
            if self.arrivals != ArrivalConfig():
                raise ValueError("arrivals are for mode open; a closed loop waits for answers")
            if any(load != int(load) for load in self.loads):
                raise ValueError("loads of mode closed are users and must be whole numbers")
        if not self.tag_requests and any(arm.drafter for arm in self.arms):
            raise ValueError("an arm's drafter is a tag of its requests; keep tag_requests")
        return self

    def url_of(self, arm: ArmConfig) -> str:
        """Server of an arm, without a slash at its end."""
        return (arm.url or self.url).rstrip("/")
