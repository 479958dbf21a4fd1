"""`make bench`: tokens per second with and without speculation, compiled and eager, by batch size.

In each mode the servers of all arms stand side by side and take the same prompts in turn, a round
at a time, so that a machine whose speed drifts slows all arms alike. Ratios are taken inside a
round; their median and range over the rounds are what is reported.
"""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console

from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.demo.acceptance_rows import fetch_rows
from dpace_serve.demo.machine import this_machine
from dpace_serve.demo.plan import NO_DRAFTER, TARGET_NAME, DemoModels, serve_configs
from dpace_serve.demo.progress import DemoProgress
from dpace_serve.demo.prompts import WARM_UP_PROMPTS, DemoPrompt, choose_prompts, read_prompts
from dpace_serve.demo.server_process import ServerProcess, free_port, running_server
from dpace_serve.demo.settings import DemoSettings
from dpace_serve.demo.traffic import Answer, Traffic
from dpace_serve.serve_config import ServeConfig

CPU_INFO = Path("/proc/cpuinfo")


class SpeedSettings(DemoSettings):
    """What one speed measurement decides beside the settings of a demo run."""

    prompts_per_workload: Annotated[int, Field(ge=1)] = 1
    """Held-out prompts of each workload in one round."""
    rounds: Annotated[int, Field(ge=1)] = 5
    """How often each arm takes the prompts at each batch size."""
    batch_sizes: tuple[int, ...] = (1, 4)
    """Requests in flight at a time."""


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One arm in one mode at one batch size; every figure is a median over the rounds.

    Attributes:
        mode: `compiled` or `eager`.
        batch_size: Requests in flight.
        arm: Name of the arm.
        tokens_per_second: Tokens of all answers over the time from first request to last byte.
        speedup: Ratio to the arm without speculation in the same round.
        speedup_low: Smallest of the rounds.
        speedup_high: Largest of the rounds.
        tau: Tokens per verification step of the same answers; none without a drafter.
    """

    mode: str
    batch_size: int
    arm: str
    tokens_per_second: float
    speedup: float
    speedup_low: float
    speedup_high: float
    tau: float | None

    @property
    def speedup_over_tau(self) -> float | None:
        """Share of tau that is left as speed after paying for drafting and wider steps."""
        return None if self.tau is None else self.speedup / self.tau


def measure_speed(
    models: DemoModels,
    settings: SpeedSettings,
    *,
    command: Callable[[ServeConfig], list[str]],
    progress_console: Console,
) -> list[SpeedRow]:
    """Serve all arms side by side, eager and then compiled, and time them in turn.

    Raises:
        DpaceError: If a server does not start or fails a request.
    """
    prompts = choose_prompts(
        read_prompts(models.prompts), per_workload=settings.prompts_per_workload
    )
    rows: list[SpeedRow] = []
    with DemoProgress(progress_console) as progress:
        for mode in ("eager", "compiled"):
            configs = {
                name: config.model_copy(update={"eager": mode == "eager"})
                for name, config in serve_configs(models, settings).items()
            }
            with ExitStack() as stack, tempfile.TemporaryDirectory() as logs:
                servers = {
                    name: _start(stack, name, config, command, settings, Path(logs), progress)
                    for name, config in configs.items()
                }
                for batch_size in settings.batch_sizes:
                    progress.stage(f"{mode}, batch {batch_size}", total=settings.rounds)
                    rounds = _take_rounds(servers, prompts, batch_size, settings, progress)
                    rows += _rows(mode, batch_size, servers, rounds, settings)
    return rows


def speed_report(rows: Sequence[SpeedRow]) -> dict[str, Any]:
    """The rows for JSON, with the machine they were measured on."""
    return {
        "machine": asdict(this_machine(CPU_INFO)),
        "rows": [{**asdict(row), "speedup_over_tau": row.speedup_over_tau} for row in rows],
    }


def _start(
    stack: ExitStack,
    name: str,
    config: ServeConfig,
    command: Callable[[ServeConfig], list[str]],
    settings: SpeedSettings,
    logs: Path,
    progress: DemoProgress,
) -> ServerProcess:
    progress.stage(f"{name}: starting the server", total=None)
    port = free_port()
    server = stack.enter_context(
        running_server(
            command(config.model_copy(update={"port": port})),
            name=name,
            port=port,
            log=logs / f"{name}.log",
            stop_timeout_seconds=settings.stop_timeout_seconds,
        )
    )
    server.wait_until_healthy(settings.start_timeout_seconds)
    _ask(server, WARM_UP_PROMPTS, max(settings.batch_sizes), settings)
    return server


Round = Mapping[str, tuple[float, list[Answer]]]
"""For each arm, tokens per second and the answers."""


def _take_rounds(
    servers: Mapping[str, ServerProcess],
    prompts: Sequence[DemoPrompt],
    batch_size: int,
    settings: SpeedSettings,
    progress: DemoProgress,
) -> list[Round]:
    rounds: list[Round] = []
    names = list(servers)
    for number in range(settings.rounds):
        # Who goes first changes, so that no arm always follows the same other.
        order = names[number % len(names) :] + names[: number % len(names)]
        timed = {}
        for name in order:
            answers = _ask(servers[name], prompts, batch_size, settings)
            # From the first request: making a client costs more than some answers.
            started = min(answer.started for answer in answers)
            ended = max(answer.started + answer.seconds for answer in answers)
            tokens = sum(answer.completion_tokens for answer in answers)
            timed[name] = (tokens / (ended - started), answers)
        rounds.append(timed)
        progress.advance()
    return rounds


def _ask(
    server: ServerProcess,
    prompts: Sequence[DemoPrompt],
    batch_size: int,
    settings: SpeedSettings,
) -> list[Answer]:
    traffic = Traffic(
        url=server.url,
        model=TARGET_NAME,
        max_new_tokens=settings.max_new_tokens,
        timeout_seconds=settings.request_timeout_seconds,
        concurrency=batch_size,
    )
    return traffic.ask_all(prompts, on_answer=lambda: None)


def _rows(
    mode: str,
    batch_size: int,
    servers: Mapping[str, ServerProcess],
    rounds: Sequence[Round],
    settings: SpeedSettings,
) -> list[SpeedRow]:
    rows = []
    for name, server in servers.items():
        ratios = [timed[name][0] / timed[NO_DRAFTER][0] for timed in rounds]
        rows.append(
            SpeedRow(
                mode=mode,
                batch_size=batch_size,
                arm=name,
                tokens_per_second=statistics.median(timed[name][0] for timed in rounds),
                speedup=statistics.median(ratios),
                speedup_low=min(ratios),
                speedup_high=max(ratios),
                tau=None if name == NO_DRAFTER else _tau(server, rounds[-1][name][1], settings),
            )
        )
    return rows


def _tau(server: ServerProcess, answers: Sequence[Answer], settings: SpeedSettings) -> float:
    rows = fetch_rows(
        server.url,
        [answer.response_id for answer in answers],
        timeout_seconds=settings.records_timeout_seconds,
    )
    return AcceptanceMoments.from_requests([record for record in rows.records if record]).tau
