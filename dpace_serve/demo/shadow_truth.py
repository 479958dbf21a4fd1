"""Whether a shadow tells the truth: a drafter in another's shadow, and the same served alone.

A challenger in the shadow drafts where the champion's blocks start. Served alone, its blocks start
where its own ended. So the acceptance that a shadow shows is that at the champion's anchors, which
may differ from its own: this measures by how much, over the same prompts on the same server.
Greedy answers are the same in both; sampled ones are two draws of the same distribution.
"""

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx2
from pydantic import Field
from rich.console import Console

from dpace_serve.acceptance.arm import Arm
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.demo.plan import TARGET_NAME, DemoModels, serve_configs
from dpace_serve.demo.progress import DemoProgress
from dpace_serve.demo.prompts import DemoPrompt, choose_prompts, read_prompts
from dpace_serve.demo.running_streams import ask_all
from dpace_serve.demo.server_process import ServerProcess, free_port, running_server
from dpace_serve.demo.settings import DemoSettings
from dpace_serve.demo.streamed_answer import Question, StreamedAnswer
from dpace_serve.errors import EngineError
from dpace_serve.serve_config import AcceptanceLogConfig, ServeConfig

POLL_SECONDS = 0.1


class TruthSettings(DemoSettings):
    """What one comparison decides beside the settings of a demo run."""

    prompts_per_workload: Annotated[int, Field(ge=1)] = 16
    """Held-out prompts of each workload."""
    temperatures: tuple[float, ...] = (0.0, 1.0)
    """Sampling temperatures that are compared, each for itself; 0 is greedy."""
    samples: Annotated[int, Field(ge=1)] = 4
    """Answers to each prompt where they are sampled; greedy ones are all the same."""


@dataclass(frozen=True, slots=True)
class PromptRecords:
    """What is known of one prompt and one drafter, over all samples.

    Attributes:
        shadow: The drafter in the champion's shadow.
        alone: The drafter serving, with nobody in its shadow.
    """

    shadow: tuple[RequestAcceptance, ...]
    alone: tuple[RequestAcceptance, ...]


@dataclass(frozen=True, slots=True)
class TruthRun:
    """One drafter in the shadow of one champion at one temperature.

    Attributes:
        drafter: Who is in the shadow, and serves alone.
        champion: In whose shadow.
        temperature: Sampling temperature.
        num_draft_tokens: Draft positions.
        prompts: Each prompt that has a counted record in both arms.
        num_left_out: Prompts that have not, as their answers took no verification step.
        num_different: Greedy answers that depend on who drafted, which none may; 0 if sampled.
    """

    drafter: str
    champion: str
    temperature: float
    num_draft_tokens: int
    prompts: tuple[PromptRecords, ...]
    num_left_out: int
    num_different: int


def measure_truth(
    models: DemoModels,
    settings: TruthSettings,
    *,
    command: Callable[[ServeConfig], list[str]],
    progress_console: Console,
) -> list[TruthRun]:
    """Let each drafter be champion once and the other its shadow.

    Raises:
        EngineError: If a server does not start, fails a request or does not record it.
    """
    prompts = choose_prompts(
        read_prompts(models.prompts), per_workload=settings.prompts_per_workload
    )
    runs: list[TruthRun] = []
    with DemoProgress(progress_console) as progress:
        for champion, challenger in itertools.permutations(models.drafters, 2):
            progress.stage(f"{challenger} in {champion}'s shadow: starting", total=None)
            with tempfile.TemporaryDirectory() as folder:
                log = Path(folder) / "acceptance.jsonl"
                config = serve_configs(models, settings)[champion].model_copy(
                    update={
                        "port": free_port(),
                        "challengers": (models.drafters[challenger],),
                        "allow_drafter_choice": True,
                        "spare_drafter_slots": 0,
                        "acceptance_log": AcceptanceLogConfig(path=log),
                    }
                )
                with running_server(
                    command(config),
                    name=champion,
                    port=config.port,
                    log=Path(folder) / "server.log",
                    stop_timeout_seconds=settings.stop_timeout_seconds,
                ) as server:
                    server.wait_until_healthy(settings.start_timeout_seconds)
                    session = _Session(server, champion, challenger, log, settings)
                    for temperature in settings.temperatures:
                        progress.stage(
                            f"{challenger} in {champion}'s shadow: temperature {temperature:g}",
                            total=None,
                        )
                        runs.append(asyncio.run(session.run(prompts, temperature)))
    return runs


@dataclass(frozen=True, slots=True)
class _Session:
    """A server with one champion and one challenger in its shadow."""

    server: ServerProcess
    champion: str
    challenger: str
    log: Path
    settings: TruthSettings

    async def run(self, prompts: Sequence[DemoPrompt], temperature: float) -> TruthRun:
        num_samples = self.settings.samples if temperature else 1
        async with httpx2.AsyncClient(
            base_url=self.server.url,
            timeout=self.settings.request_timeout_seconds,
            trust_env=False,
        ) as client:
            # By sample, then by prompt.
            shadowed = await self._ask(client, prompts, num_samples, temperature, drafter=None)
            alone = await self._ask(
                client, prompts, num_samples, temperature, drafter=self.challenger
            )
            num_draft_tokens = await self._wait_until_settled(client)
        names = [answer.response_id for answer in (*shadowed, *alone)]
        records = self._read_log(2 * len(shadowed) + len(alone), names)
        pairs = [
            PromptRecords(
                shadow=_counted(records, shadowed[number :: len(prompts)], "shadow"),
                alone=_counted(records, alone[number :: len(prompts)], "challenger"),
            )
            for number in range(len(prompts))
        ]
        kept = tuple(pair for pair in pairs if pair.shadow and pair.alone)
        return TruthRun(
            drafter=self.challenger,
            champion=self.champion,
            temperature=temperature,
            num_draft_tokens=num_draft_tokens,
            prompts=kept,
            num_left_out=len(pairs) - len(kept),
            num_different=0 if temperature else _num_different(shadowed, alone),
        )

    async def _ask(
        self,
        client: httpx2.AsyncClient,
        prompts: Sequence[DemoPrompt],
        num_samples: int,
        temperature: float,
        *,
        drafter: str | None,
    ) -> list[StreamedAnswer]:
        questions = [
            Question(
                prompt,
                self.settings.max_new_tokens,
                temperature=temperature,
                seed=sample * len(prompts) + number,
                drafter=drafter,
            )
            for sample in range(num_samples)
            for number, prompt in enumerate(prompts)
        ]
        return await ask_all(
            client, questions, model=TARGET_NAME, num_streams=self.settings.max_num_seqs
        )

    async def _wait_until_settled(self, client: httpx2.AsyncClient) -> int:
        """Wait until no request runs and no shadow is open; draft positions of the engine."""
        deadline = time.monotonic() + self.settings.records_timeout_seconds
        while True:
            drafters = (await client.get("/dpace/drafters")).json()["drafters"]
            if not any(slot["running"] for slot in drafters):
                break
            self._require_time(deadline)
            await asyncio.sleep(POLL_SECONDS)
        num_draft_tokens: int = (await client.get("/dpace/acceptance")).json()["num_draft_tokens"]
        return num_draft_tokens

    def _read_log(
        self, num_records: int, response_ids: Sequence[str]
    ) -> dict[tuple[str, Arm], RequestAcceptance]:
        """The records of these requests, by response and arm, once all are written."""
        deadline = time.monotonic() + self.settings.records_timeout_seconds
        # A completion is a list of prompts to the engine: its request is the response's id and -0.
        wanted = {name: name for name in response_ids}
        wanted |= {f"{name}-0": name for name in response_ids}
        while True:
            records = {}
            for line in self.log.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                del row["time"]
                if row["request_id"] in wanted:
                    record = RequestAcceptance.from_dict(row)
                    records[wanted[record.request_id], record.arm] = record
            if len(records) == num_records:
                return records
            self._require_time(deadline)
            time.sleep(POLL_SECONDS)

    def _require_time(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise EngineError(
                f"{self.server.url} must record every request and its shadow within "
                f"{self.settings.records_timeout_seconds:g} s, but did not. Its log ends:",
                log_lines=self.server.log_end(),
            )


def _counted(
    records: dict[tuple[str, Arm], RequestAcceptance], answers: Sequence[StreamedAnswer], arm: Arm
) -> tuple[RequestAcceptance, ...]:
    found = (records[answer.response_id, arm] for answer in answers)
    return tuple(record for record in found if record.excluded is None)


def _num_different(some: Sequence[StreamedAnswer], others: Sequence[StreamedAnswer]) -> int:
    return sum(one.token_ids != other.token_ids for one, other in zip(some, others, strict=True))
