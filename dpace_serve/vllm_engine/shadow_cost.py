"""What a challenger's shadow costs: the time of an engine step with it and without.

    python -m dpace_serve.vllm_engine.shadow_cost CONFIG.yaml --json result.json

One engine hosts the drafter and a challenger. The same prompts are answered again and again, a
round at a time: without a shadow, and with the challenger shadowing each share of the requests in
turn. Ratios are taken inside a round, so that a machine whose speed drifts slows all alike.
Answers run to a fixed length, past their own end, so that every arm takes the same steps: only
their time means anything.
"""

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from dpace_serve.config import Config, load_config
from dpace_serve.drafter.checkpoint import read_config
from dpace_serve.result_file import require_writable, write_json
from dpace_serve.vllm_engine.drafter_worker import WORKER_EXTENSION
from dpace_serve.vllm_engine.hosted_checkpoints import additional_config
from dpace_serve.vllm_engine.offline_process import DEFAULT_ENVIRONMENT, REQUIRED_ENVIRONMENT
from dpace_serve.vllm_engine.row_binding import BINDING, RowBinding
from dpace_serve.vllm_engine.server import CPU_ENVIRONMENT, UNIPROC_EXECUTOR

if TYPE_CHECKING:
    from vllm import LLM

SERVED, CHALLENGER = 0, 1
NO_SHADOW = 0.0


class StepSettings(Config):
    """How steps are timed."""

    batch_sizes: tuple[int, ...] = (1, 4, 16)
    """Requests in flight at a time."""
    shadow_shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1.0, 0.5)
    """Shares of the requests that the challenger shadows, each an arm."""
    rounds: Annotated[int, Field(ge=1)] = 9
    """How often each arm takes the prompts at each batch size."""
    max_new_tokens: Annotated[int, Field(ge=2)] = 32
    """Length of every answer in tokens."""
    batches_per_round: Annotated[int, Field(ge=2)] = 2
    """Batches of different prompts in a round; a share of a batch of one needs two."""


class ShadowCostConfig(Config):
    """What is timed, and how."""

    target: Path
    """Folder of the target."""
    drafter: Path
    """Folder of the drafter that serves."""
    challenger: Path
    """Folder of the drafter in its shadow."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    """Texts that are continued, taken in turn."""
    dtype: str = "float32"
    """Number format the engine computes in."""
    eager: bool = True
    """Run without compilation."""
    max_model_len: Annotated[int, Field(ge=1)] = 512
    """Longest prompt plus answer in tokens."""
    steps: StepSettings = StepSettings()
    """How steps are timed."""


@dataclass(frozen=True, slots=True)
class ShadowCost:
    """A step of one batch size with the challenger in the shadow of a share of the requests.

    Attributes:
        batch_size: Requests in flight.
        shadow_share: Share of them that the challenger shadows.
        num_steps: Timed steps over all rounds.
        plain_ms: A step without shadows, the median over rounds.
        shadowed_ms: The same with them.
        ratio: Their ratio in the same round, the median over rounds.
        ratio_low: The lowest round.
        ratio_high: The highest.
        cpu_ratio: The same as `ratio` of processor time, which other programs disturb less.
        cpu_ratio_low: Its lowest round.
        cpu_ratio_high: Its highest.
    """

    batch_size: int
    shadow_share: float
    num_steps: int
    plain_ms: float
    shadowed_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    cpu_ratio: float
    cpu_ratio_low: float
    cpu_ratio_high: float


@dataclass(frozen=True, slots=True)
class _Round:
    """One arm in one round: seconds of a step, the median of each batch, and their mean.

    The steps of one batch are alike, so that its median leaves out what other programs disturbed.
    """

    num_steps: int
    wall: float
    cpu: float


def measure_shadow_cost(
    engine: "LLM", prompts: Sequence[Sequence[int]], settings: StepSettings
) -> list[ShadowCost]:
    """Time the steps of an engine in this process that hosts a challenger in slot 1.

    Args:
        engine: The engine; its core must run in this process.
        prompts: Token ids, taken in turn.
        settings: How.

    Returns:
        One row for each batch size and share.
    """
    keys = count(1)
    shares = (NO_SHADOW, *settings.shadow_shares)
    rows = []
    for batch_size in settings.batch_sizes:
        rounds: list[Mapping[float, _Round]] = []
        for number in range(-1, settings.rounds):
            # Who goes first changes, so that no arm always follows the same other.
            first = number % len(shares)
            order = shares[first:] + shares[:first]
            timed = {
                share: _time_arm(engine, prompts, batch_size, share, settings, keys)
                for share in order
            }
            if number >= 0:  # the first round warms up
                rounds.append(timed)
        rows += [_row(batch_size, share, rounds) for share in settings.shadow_shares]
    return rows


def _time_arm(
    engine: "LLM",
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    share: float,
    settings: StepSettings,
    keys: "count[int]",
) -> _Round:
    batches = []
    for batch in range(settings.batches_per_round):
        places = range(batch * batch_size, (batch + 1) * batch_size)
        bindings = [
            RowBinding(next(keys), SERVED, (CHALLENGER,) if _is_shadowed(place, share) else ())
            for place in places
        ]
        chosen = [prompts[place % len(prompts)] for place in places]
        batches.append(_time_batch(engine, chosen, bindings, settings.max_new_tokens))
        taken = [binding.key for binding in bindings]
        left = taken
        while left:
            ((_, left),) = engine.collective_rpc("dpace_take_drafts", args=(left,))
    return _Round(
        num_steps=sum(len(steps) for steps in batches),
        wall=statistics.fmean(statistics.median(wall for wall, _ in steps) for steps in batches),
        cpu=statistics.fmean(statistics.median(cpu for _, cpu in steps) for steps in batches),
    )


def _is_shadowed(place: int, share: float) -> bool:
    """Spread a share evenly over places: one half is every second."""
    return int((place + 1) * share) > int(place * share)


def _time_batch(
    engine: "LLM",
    prompts: Sequence[Sequence[int]],
    bindings: Sequence[RowBinding],
    max_new_tokens: int,
) -> list[tuple[float, float]]:
    """Seconds, and seconds of processor time, of each step that drafts for the whole batch."""
    from vllm import SamplingParams

    for prompt, binding in zip(prompts, bindings, strict=True):
        engine.llm_engine.add_request(
            str(binding.key),
            {"prompt_token_ids": list(prompt)},
            SamplingParams(
                temperature=0,
                max_tokens=max_new_tokens,
                ignore_eos=True,
                detokenize=False,
                extra_args={BINDING: binding.to_list()},
            ),
        )
    steps = []
    was_whole = False
    while engine.llm_engine.has_unfinished_requests():
        wall, cpu = time.perf_counter(), time.process_time()
        outputs = engine.llm_engine.step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        # Steps that read a prompt, or that some of the requests have left, are another work.
        is_whole = len(outputs) == len(prompts)
        if is_whole and was_whole:
            steps.append((wall, cpu))
        was_whole = is_whole
    return steps


def _row(batch_size: int, share: float, rounds: Sequence[Mapping[float, _Round]]) -> ShadowCost:
    ratios = [timed[share].wall / timed[NO_SHADOW].wall for timed in rounds]
    cpu_ratios = [timed[share].cpu / timed[NO_SHADOW].cpu for timed in rounds]
    return ShadowCost(
        batch_size=batch_size,
        shadow_share=share,
        num_steps=sum(timed[share].num_steps for timed in rounds),
        plain_ms=1e3 * statistics.median(timed[NO_SHADOW].wall for timed in rounds),
        shadowed_ms=1e3 * statistics.median(timed[share].wall for timed in rounds),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        cpu_ratio=statistics.median(cpu_ratios),
        cpu_ratio_low=min(cpu_ratios),
        cpu_ratio_high=max(cpu_ratios),
    )


def main(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG", help="What is timed.")],
    json_file: Annotated[Path, typer.Option("--json", help="Write the rows here.")],
) -> None:
    """Time steps with and without a shadow in an engine of this process."""
    require_writable(json_file)
    config = load_config(ShadowCostConfig, config_file, [])
    engine = _engine(config)
    tokenizer = engine.get_tokenizer()
    prompts = [tokenizer.encode(text) for text in config.prompts]
    rows = measure_shadow_cost(engine, prompts, config.steps)
    write_json(json_file, {"rows": [asdict(row) for row in rows]})


def _engine(config: ShadowCostConfig) -> "LLM":
    os.environ.update(REQUIRED_ENVIRONMENT)
    for name, value in {**CPU_ENVIRONMENT, **DEFAULT_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)
    from vllm import LLM
    from vllm.platforms import current_platform

    # On a CPU the engine would give the worker a process of its own: see server.
    executor = UNIPROC_EXECUTOR if current_platform.is_cpu() else None
    return LLM(
        model=str(config.target),
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=max(config.steps.batch_sizes),
        enforce_eager=config.eager,
        seed=0,
        additional_config=additional_config([config.challenger]),
        worker_extension_cls=WORKER_EXTENSION,
        speculative_config={
            "method": "dflash",
            "model": str(config.drafter),
            "num_speculative_tokens": read_config(config.drafter).num_draft_tokens,
            "draft_sample_method": "greedy",
        },
        distributed_executor_backend=executor,
    )


if __name__ == "__main__":
    typer.run(main)
