"""Drafters swapped under load: failed and changed answers, memory, and what users notice.

One server with one spare slot, streams that never pause, and swaps one after another through
PUT /dpace/drafters/champion. The drafters take turns, more of them than slots, so that each swap
loads one from disk and has to wait for the last requests of the champion before last.

Two things are measured before the first swap, on the same server: the answers that all later ones
must equal, and how many differ where streams run without a swap.
"""

import asyncio
import itertools
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import httpx2
from pydantic import Field
from rich.console import Console

from dpace_serve.demo.drafter_copies import write_drafter_root
from dpace_serve.demo.plan import TARGET_NAME, DemoModels, serve_configs
from dpace_serve.demo.progress import DemoProgress
from dpace_serve.demo.prompts import choose_prompts, read_prompts
from dpace_serve.demo.resident_memory import process_tree, resident_bytes
from dpace_serve.demo.running_streams import StreamLog, ask_all, running_streams
from dpace_serve.demo.server_process import ServerProcess, free_port, running_server
from dpace_serve.demo.settings import DemoSettings
from dpace_serve.demo.streamed_answer import Question, StreamedAnswer
from dpace_serve.errors import EngineError
from dpace_serve.serve_config import ServeConfig

ROUTE = "/dpace/drafters/champion"
FIRST = "dpace"
NUM_PERTURBED = 2
BUSY_PAUSE_SECONDS = 0.2
SMALL_CACHES = ("env", "ONEDNN_PRIMITIVE_CACHE_CAPACITY=8")
"""Before the server's command. On a CPU, oneDNN keeps what it compiled for each of the last 1024
batch shapes: some hundred megabytes, which take thousands of requests to fill, with swaps or
without. A leak would hide behind them."""
CACHE_BLOCKS_PER_STREAM = 3
"""Blocks of the engine's cache: so few that the warm-up writes to all of them. Memory of a block
counts as resident only once it was written to, which would look like a leak."""


class SwapSettings(DemoSettings):
    """What a measurement of swaps decides beside the settings of a demo run."""

    swaps: Annotated[int, Field(ge=1)] = 200
    """Swaps that are measured."""
    warm_up_swaps: Annotated[int, Field(ge=1)] = 20
    """Swaps under load before memory is compared."""
    idle_swaps: Annotated[int, Field(ge=1)] = 8
    """Swaps before all others, with no request running."""
    streams: Annotated[int, Field(ge=1)] = 16
    """Requests in flight at a time."""
    control_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long the streams run without a swap."""
    max_num_seqs: Annotated[int, Field(ge=1)] = 16
    """Requests that the engine may run at the same time."""


@dataclass(frozen=True, slots=True)
class Swap:
    """One swap.

    Attributes:
        name: The new champion.
        began: Reading of the clock when it was asked for, in seconds.
        ended: The same when its answer came.
        load_seconds: The server's word of how long the engine was loading.
        total_seconds: The server's word of how long all of it took.
        num_busy: How often it was refused with 409 and asked for again.
        resident_bytes: Memory of the server right after it.
    """

    name: str
    began: float
    ended: float
    load_seconds: float
    total_seconds: float
    num_busy: int
    resident_bytes: int

    @property
    def other_seconds(self) -> float:
        """What was not loading: the check of the files, twice, and the wait for a slot."""
        return self.total_seconds - self.load_seconds


@dataclass(frozen=True, slots=True)
class SwapRun:
    """Everything that was seen; `swap_figures` says what it means.

    Attributes:
        references: The answer to each question before any swap.
        control: Streams without a swap.
        idle: Swaps with no request running.
        warm_up: The first swaps under load.
        swaps: The measured ones.
        loaded: Streams during the measured swaps and those before.
        seconds: How long the streams ran beside swaps.
        client_cpu_seconds: Processor time of this process in that time.
    """

    references: Sequence[StreamedAnswer]
    control: StreamLog
    idle: Sequence[Swap]
    warm_up: Sequence[Swap]
    swaps: Sequence[Swap]
    loaded: StreamLog
    seconds: float
    client_cpu_seconds: float


def measure_swaps(
    models: DemoModels,
    settings: SwapSettings,
    *,
    command: Callable[[ServeConfig], list[str]],
    progress_console: Console,
) -> SwapRun:
    """Serve, keep the streams running, and swap.

    Raises:
        EngineError: If the server does not start, fails before the first swap, or refuses one.
    """
    prompts = choose_prompts(
        read_prompts(models.prompts), per_workload=settings.prompts_per_workload
    )
    questions = [
        Question(prompt, settings.max_new_tokens, temperature=0.0, seed=0, drafter=None)
        for prompt in prompts
    ]
    with tempfile.TemporaryDirectory() as folder, DemoProgress(progress_console) as progress:
        root, key = Path(folder) / "drafters", secrets.token_hex(32)
        root.mkdir()
        first = {FIRST: models.drafters[FIRST], **models.drafters}
        names = write_drafter_root(root, first, num_perturbed=NUM_PERTURBED)
        progress.stage("swaps: starting the server", total=None)
        config = _config(models, settings, Path(folder), key)
        with running_server(
            [*SMALL_CACHES, *command(config)],
            name="swapped",
            port=config.port,
            log=Path(folder) / "server.log",
            stop_timeout_seconds=settings.stop_timeout_seconds,
        ) as server:
            server.wait_until_healthy(settings.start_timeout_seconds)
            session = _Session(server, questions, settings, key, progress)
            # The first of the names is served from the start.
            return asyncio.run(session.run([*names[1:], names[0]]))


def _config(models: DemoModels, settings: SwapSettings, folder: Path, key: str) -> ServeConfig:
    key_file = folder / "admin-key"
    key_file.touch(mode=0o600)
    key_file.write_text(key, encoding="utf-8")
    root = folder / "drafters"
    config = serve_configs(models, settings)[FIRST]
    num_blocks = CACHE_BLOCKS_PER_STREAM * settings.max_num_seqs
    return config.model_copy(
        update={
            "engine_args": (*config.engine_args, f"--num-gpu-blocks-override={num_blocks}"),
            "port": free_port(),
            "drafter": root / FIRST,
            "drafter_root": root,
            "admin_key_file": key_file,
            "spare_drafter_slots": 1,
        }
    )


class _Session:
    """One server's measurement, on one event loop."""

    def __init__(
        self,
        server: ServerProcess,
        questions: Sequence[Question],
        settings: SwapSettings,
        key: str,
        progress: DemoProgress,
    ) -> None:
        self._server = server
        self._processes = process_tree(server.process.pid)
        self._questions = questions
        self._settings = settings
        self._headers = {"Authorization": f"Bearer {key}"}
        self._progress = progress

    async def run(self, names: Sequence[str]) -> SwapRun:
        settings, turns = self._settings, itertools.cycle(names)
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(
            base_url=self._server.url,
            timeout=settings.request_timeout_seconds,
            limits=limits,
            trust_env=False,
        ) as client:
            self._progress.stage("swaps: answers without any", total=None)
            for _ in range(2):  # engines do some work only once
                references = await ask_all(
                    client, self._questions, model=TARGET_NAME, num_streams=settings.streams
                )
            async with self._streams(client) as control:
                await asyncio.sleep(settings.control_seconds)
            idle = await self._swap_all(client, turns, settings.idle_swaps, "idle")
            began, cpu_began = time.perf_counter(), time.process_time()
            async with self._streams(client) as loaded:
                warm_up = await self._swap_all(client, turns, settings.warm_up_swaps, "warm-up")
                swaps = await self._swap_all(client, turns, settings.swaps, "under load")
            return SwapRun(
                references=references,
                control=control,
                idle=idle,
                warm_up=warm_up,
                swaps=swaps,
                loaded=loaded,
                seconds=time.perf_counter() - began,
                client_cpu_seconds=time.process_time() - cpu_began,
            )

    def _streams(self, client: httpx2.AsyncClient) -> AbstractAsyncContextManager[StreamLog]:
        return running_streams(
            client, self._questions, model=TARGET_NAME, num_streams=self._settings.streams
        )

    async def _swap_all(
        self, client: httpx2.AsyncClient, turns: Iterator[str], num_swaps: int, stage: str
    ) -> list[Swap]:
        self._progress.stage(f"swaps: {stage}", total=num_swaps)
        swaps = []
        for name in itertools.islice(turns, num_swaps):
            swaps.append(await self._swap(client, name))
            self._progress.advance()
        return swaps

    async def _swap(self, client: httpx2.AsyncClient, name: str) -> Swap:
        num_busy = 0
        while True:
            began = time.perf_counter()
            response = await client.put(ROUTE, json={"folder": name}, headers=self._headers)
            ended = time.perf_counter()
            if response.status_code != HTTPStatus.CONFLICT:
                break
            num_busy += 1
            await asyncio.sleep(BUSY_PAUSE_SECONDS)
        if not response.is_success:
            raise EngineError(
                f"the swap to {name} must succeed, was answered with status "
                f"{response.status_code}: {response.text}. The server's log ends:",
                log_lines=self._server.log_end(),
            )
        seconds = response.json()["seconds"]
        if not seconds["load"]:
            raise EngineError(f"the swap to {name} must load it, but it was loaded already.")
        return Swap(
            name=name,
            began=began,
            ended=ended,
            load_seconds=seconds["load"],
            total_seconds=seconds["total"],
            num_busy=num_busy,
            resident_bytes=resident_bytes(self._processes),
        )
