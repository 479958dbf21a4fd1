"""Time of the forward pass of drafters in one engine of this process."""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dpace_serve.drafter import checkpoint
from dpace_serve.vllm_engine.hosted_checkpoints import additional_config

BATCH_SIZES = (1, 8)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_PLUGINS": "dpace",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}


@contextmanager
def timed_forwards(proposer: Any) -> Iterator[list[tuple[int, float]]]:
    """Rows and seconds of every forward pass of a proposer's drafter meanwhile."""
    model, taken = proposer.model, list[tuple[int, float]]()
    forward = model.forward

    def measure(**inputs: Any) -> torch.Tensor:
        started = time.perf_counter()
        hidden: torch.Tensor = forward(**inputs)
        taken.append((len(hidden), time.perf_counter() - started))
        return hidden

    model.forward = measure
    try:
        yield taken
    finally:
        model.forward = forward


def compare(
    target: Path,
    drafters: dict[str, Path],
    texts: Sequence[str],
    *,
    max_tokens: int,
    eager: bool,
    rounds: int,
    on_answer: Callable[[], None],
) -> dict[str, Any]:
    """Milliseconds by drafter and batch size, and the ratio to the first drafter's.

    Args:
        target: Folder of the target.
        drafters: Folders of the drafters by name.
        texts: Prompts.
        max_tokens: Tokens of an answer.
        eager: Whether nothing is compiled.
        rounds: Answers of each drafter and batch size that are counted; one more comes before.
        on_answer: Called after every answer.
    """
    from vllm import LLM

    first, *others = drafters.values()
    engine = LLM(
        model=str(target),
        dtype="bfloat16",
        max_model_len=512,
        max_num_seqs=max(BATCH_SIZES),
        enforce_eager=eager,
        seed=0,
        additional_config=additional_config(others),
        speculative_config={
            "method": "dflash",
            "model": str(first),
            "num_speculative_tokens": checkpoint.read_config(first).num_draft_tokens,
            "draft_sample_method": "greedy",
        },
    )
    core = engine.llm_engine.engine_core.engine_core
    proposer = core.model_executor.driver_worker.worker.model_runner.drafter
    slots = dict(zip(drafters, proposer.slots, strict=True))
    block = 1 + proposer.num_speculative_tokens
    forwards = []
    for batch_size in BATCH_SIZES:
        seconds: dict[str, list[float]] = {arm: [] for arm in slots}
        for index in range(rounds + 1):
            asked = [texts[(index * batch_size + i) % len(texts)] for i in range(batch_size)]
            for arm in random.Random(index).sample(list(slots), len(slots)):
                with timed_forwards(slots[arm]) as taken:
                    _answer(engine, asked, list(slots).index(arm), max_tokens)
                if index:  # the first round of all allocates
                    full = [time for rows, time in taken if rows == batch_size * block]
                    seconds[arm].append(statistics.median(full))
                on_answer()
        forwards.append(_forward_row(batch_size, seconds))
    return {arm: _held(slot.model) for arm, slot in slots.items()} | {"forwards": forwards}


def _held(model: torch.nn.Module) -> dict[str, float]:
    """What a drafter has for itself: weights, and in memory the tables beside them."""
    shared = ("embed_tokens", "lm_head", "mask_embedding")
    weights = [
        weight
        for name, weight in model.named_parameters()
        if not any(part in name for part in shared)
    ]
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "megabytes": sum(tensor.nbytes for tensor in (*weights, *model.buffers())) / 1e6,
    }


def _answer(engine: Any, texts: Sequence[str], slot: int, max_tokens: int) -> None:
    from vllm import SamplingParams

    params = [
        SamplingParams(
            temperature=0,
            max_tokens=max_tokens,
            ignore_eos=True,
            extra_args={"dpace": [row, slot]},
        )
        for row in range(len(texts))
    ]
    engine.generate(list(texts), params, use_tqdm=False)


def _forward_row(batch_size: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    baseline = next(iter(seconds.values()))
    return {
        "batch_size": batch_size,
        "arms": {
            arm: {
                "milliseconds": 1000 * statistics.median(values),
                "ratio": _quartiles(
                    [own / plain for own, plain in zip(values, baseline, strict=True)]
                ),
            }
            for arm, values in seconds.items()
        },
    }


def _quartiles(ratios: Sequence[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"median": median, "low": low, "high": high}
