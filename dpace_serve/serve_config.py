"""What `dpace serve` decides, and what it keeps of the requests."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpace_serve.config import Config
from dpace_serve.gate_config import LimitsConfig, ObservationConfig, TlsConfig

OTHER_WORKLOAD = "other"
"""Workload label of requests that carry no known one."""

FsyncPolicy = Literal["never", "rotate", "always"]


class AcceptanceLogConfig(Config):
    """A log with one line of JSON for every record of a request that has ended."""

    path: Path
    """File to append to; full ones are renamed to path.1, path.2 and so on, path.1 the newest."""
    max_megabytes: Annotated[int, Field(ge=1)] = 64
    """Size at which a file is full, in 10^6 bytes."""
    keep_files: Annotated[int, Field(ge=1)] = 8
    """Full files that are kept; the oldest one makes room."""
    fsync: FsyncPolicy = "never"
    """When lines are forced to the disk. never: they outlive a crash of the server, a power cut may
    cost the last seconds; rotate: full files outlive a power cut too; always: each line does, at
    the price of one flush per record."""


class CaptureConfig(Config):
    """Finished requests kept as token ids, to train the next drafter on.

    No text is kept, but token ids are the text for whoever has the target's tokenizer.
    """

    folder: Path
    """Folder of the capture files; made, for this user alone, where there is none."""
    workloads: Annotated[tuple[str, ...], Field(min_length=1)]
    """Workload labels whose requests are kept; `other` stands for requests without a known one."""
    max_megabytes: Annotated[int, Field(ge=1)] = 1000
    """Most that all files of the folder may take; then no request is kept, and none is deleted."""
    max_file_megabytes: Annotated[int, Field(ge=1)] = 100
    """A file that would grow beyond this is left as it is, and the next one begun."""
    max_tokens: Annotated[int, Field(ge=2)] = 16384
    """Most tokens of a kept request, prompt and answer together."""


class VerdictConfig(Config):
    """What a challenger must show. Fixed at the start, before the data comes in."""

    minimum_lift: Annotated[float, Field(ge=0)] = 0.02
    """Gain in tokens/s that the interval must lie above to promote a challenger."""
    maximum_loss: Annotated[float, Field(ge=0)] = 0.02
    """Loss of tokens/s that the interval must lie beyond to roll it back."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Coverage of the intervals, however often one looks."""
    planned_requests: Annotated[int, Field(ge=50)] = 1000
    """Requests of each drafter at which the intervals are tightest."""
    minimum_requests: Annotated[int, Field(ge=50)] = 100
    """Requests of each drafter below which there is no answer. Intervals hold for many requests:
    with 50 of widely spread lengths 6 % were wrong instead of 5 %, with 100 no more than 5 %."""
    workload_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Fixed weight of each workload that counts; none pools all requests. With weights a shift of
    the traffic towards an easy workload cannot look like a better drafter."""
    step_times: dict[str, Path] = Field(default_factory=dict)
    """Files of `dpace tune` by drafter: step times of drafters whose shapes differ. Where shapes
    are equal, so are the times; where they differ and are not known, nothing is decided."""

    @model_validator(mode="after")
    def _plans_what_it_needs(self) -> "VerdictConfig":
        if self.planned_requests < self.minimum_requests:
            raise ValueError(
                f"planned_requests must be at least minimum_requests = {self.minimum_requests}, "
                f"got {self.planned_requests}"
            )
        return self


class ServeConfig(Config):
    """Everything `dpace serve` decides; what it does not name is the engine's own default."""

    engine: Literal["vllm", "sglang"] = "vllm"
    """Whose server it is. SGLang lives in an environment of its own and can do less."""
    target: str
    """Folder or hub name of the target model."""
    drafter: Path | None = None
    """Folder of the drafter; none serves the target without speculation."""
    drafter_name: str | None = None
    """Name of the drafter in labels and results; its folder's name when not given."""
    served_model_name: str | None = None
    """Model name that clients use; the target's own name when not given."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port to listen on."""
    dtype: str = "auto"
    """Number format the engine computes in."""
    eager: bool = False
    """Run without compilation and captured graphs: starts sooner, steps take longer."""
    num_draft_tokens: Annotated[int, Field(ge=1)] | None = None
    """Draft tokens per block; the drafter's block size - 1 when not given."""
    block_schedule: Path | None = None
    """File of `dpace tune`: draft tokens by batch size; none drafts full blocks always."""
    step_times: Path | None = None
    """File of `dpace tune` whose measured step times are used; the block schedule's own when not
    given."""
    workloads: tuple[str, ...] = (
        "json", "csv", "sql", "dates", "units", "arithmetic", "letters", "code",
    )  # fmt: skip
    """Workload labels that a request may carry; any other tag is counted as `other`."""
    acceptance_log: AcceptanceLogConfig | None = None
    """Where every record of acceptance is written; none keeps only the newest in memory."""

    capture: CaptureConfig | None = None
    """Which finished requests are kept as training data; none keeps none."""
    verdict: VerdictConfig = VerdictConfig()
    """What a challenger must show to be promoted."""
    shutdown_timeout_seconds: Annotated[int, Field(ge=0)] = 30
    """How long SIGTERM lets running answers finish before they end with an error."""
    challengers: tuple[Path, ...] = ()
    """Folders of further drafters, to be compared with the first."""
    mode: Literal["shadow", "split"] = "shadow"
    """Challengers only draft along for comparison, or each serves a share of the requests."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the requests that each challenger serves in split mode; together below 1."""
    shadow_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the requests that the challengers draft along with in shadow mode."""
    draw_salt: Annotated[
        Annotated[str, Field(pattern=r"^[!-~]{16,64}$")] | None, Field(repr=False)
    ] = None
    """Secret that decides, with a request's id, who serves and who shadows it: 16 to 64 printable
    ASCII characters, the same on servers that shall draw alike; a new one at each start when not
    given."""
    spare_drafter_slots: Annotated[int, Field(ge=0)] | None = None
    """Drafters that can be loaded beside those given at start, each compiled and with memory of its
    own; 0 switches loading off. When not given 1 where drafters can be loaded, which needs
    drafter_root and an admin key, else 0."""
    api_key_file: Path | None = None
    """File with one API key per line, of which a client must send one; where there is none, the
    engine's own. Without any the server listens on loopback only, unless allow_anonymous is set."""
    metrics_key_file: Path | None = None
    """File with the key of Prometheus, which opens /metrics and nothing else."""
    allow_anonymous: bool = False
    """Serve everyone who reaches the address, where there is no API key."""
    allowed_hosts: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.:\[\]_-]+$")], ...] = ()
    """Host names, without a port, that clients may ask by. When not given, any; but names of
    loopback alone where only that is listened on and there is no API key: a web page could
    otherwise reach the server by a name of its own."""
    open_routes: tuple[Annotated[str, Field(pattern=r"^[A-Z]+ /[!-~]*$")], ...] = ()
    """Routes of the engine to open to API keys beside those that are, as `POST /tokenize`."""
    observation: ObservationConfig | None = None
    """A listener of its own for /metrics and everything below /dpace; none: they are on the main
    one."""
    tls: TlsConfig | None = None
    """Encrypted connections; none: a proxy does that."""
    limits: LimitsConfig = LimitsConfig()
    """Most that a request may ask for."""
    drafter_root: Path | None = None
    """Folder that drafters may be loaded from while the server runs; none: none may."""
    admin_key_file: Path | None = None
    """File with the admin key, else DPACE_ADMIN_KEY; without one the drafters cannot be changed."""
    allow_drafter_choice: bool = False
    """Let a request name the drafter that serves it."""
    drain_timeout_seconds: Annotated[int, Field(ge=0)] = 60
    """How long a swap waits for the requests of a former drafter whose slot it needs."""
    load_timeout_seconds: Annotated[int, Field(ge=1)] = 600
    """How long the engine may take to load a drafter before the swap is given up."""
    engine_args: tuple[str, ...] = ()
    """Further arguments for the engine's own server, passed on as they are."""

    def num_spare_slots(self, *, has_admin_key: bool) -> int:
        """Slots beside those of the drafters given at start.

        Args:
            has_admin_key: Whether there is a key that the drafters can be changed with.
        """
        if self.spare_drafter_slots is not None:
            return self.spare_drafter_slots
        return int(has_admin_key and self.drafter_root is not None)

    @model_validator(mode="after")
    def _challengers_have_a_champion(self) -> "ServeConfig":
        if self.challengers and self.drafter is None:
            raise ValueError("challengers need a drafter to be compared with: set drafter too")
        return self

    @model_validator(mode="after")
    def _times_steps_of_a_drafter(self) -> "ServeConfig":
        if self.step_times is not None and self.drafter is None:
            raise ValueError("step_times needs a drafter: name one, or leave step_times out")
        return self

    @model_validator(mode="after")
    def _champion_keeps_a_share(self) -> "ServeConfig":
        if self.mode == "split" and len(self.challengers) * self.share >= 1:
            raise ValueError(
                f"the challengers' shares must sum to less than 1, "
                f"{len(self.challengers)} of {self.share:g} do not"
            )
        return self

    @model_validator(mode="after")
    def _captures_known_workloads(self) -> "ServeConfig":
        known = {*self.workloads, OTHER_WORKLOAD}
        unknown = sorted(set(self.capture.workloads) - known) if self.capture else []
        if unknown:
            raise ValueError(
                f"capture.workloads must be among workloads and {OTHER_WORKLOAD}, "
                f"{', '.join(unknown)} is not"
            )
        return self

    @model_validator(mode="after")
    def _weighs_known_workloads(self) -> "ServeConfig":
        unknown = sorted(set(self.verdict.workload_weights) - {*self.workloads, OTHER_WORKLOAD})
        if unknown:
            raise ValueError(
                f"verdict.workload_weights must be among workloads and {OTHER_WORKLOAD}, "
                f"{', '.join(unknown)} is not"
            )
        return self

    @model_validator(mode="after")
    def _captures_drafted_answers(self) -> "ServeConfig":
        # Finished requests are looked at where drafts are counted, and nowhere else.
        if self.capture is not None and self.drafter is None:
            raise ValueError("capture needs a drafter: name one, or leave capture out")
        return self
