"""Train the demo target: a deep, thin Qwen3 language model, grown from a shallow one.

The shallow model learns most of what there is to learn at a quarter of the cost; its stack of
layers is then repeated to the full depth and trained on (G_stack, arXiv 2405.15319).
"""

import copy
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from dpace_serve.config import Config
from dpace_training.demo.packing import Document, PackedRows, packed_rows

logger = logging.getLogger(__name__)


class Stage(Config):
    """One stretch of training at one depth."""

    layers: Annotated[int, Field(ge=1)]
    """Decoder layers; a multiple of the stage before, whose layers are repeated."""
    steps: Annotated[int, Field(ge=1)]
    """Optimizer steps."""
    rows: Annotated[int, Field(ge=1)]
    """Rows in a batch."""
    peak: Annotated[float, Field(gt=0)]
    """Learning rate of the matrices (Muon) after warm-up."""
    final: Annotated[float, Field(ge=0, le=1)]
    """Share of the peak that is left at the end of the stage."""


class TargetConfig(Config):
    """Shape and training of the demo target."""

    hidden_size: int = 192
    """Width of the residual stream; thin, so that a step on a CPU is mostly depth."""
    intermediate_size: int = 384
    """Width of the feed-forward layers."""
    num_attention_heads: int = 6
    """Query heads of 32 dimensions: the CPU attention kernel takes no smaller ones."""
    num_key_value_heads: int = 2
    """Key and value heads."""
    stages: tuple[Stage, ...] = (
        Stage(layers=7, steps=1500, rows=16, peak=0.02, final=0.4),
        Stage(layers=28, steps=320, rows=16, peak=0.008, final=0.02),
    )
    """Training stages, shallow to deep."""
    tokens: int = 256
    """Tokens in a row."""
    code_share: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the tokens that are library source and documentation."""
    embedding_rate: float = 0.15
    """AdamW learning rate of embedding and norms, as a share of the matrices' rate."""
    warmup_steps: int = 40
    """Steps of linear warm-up at the start of each stage."""
    seed: int = 0
    """Seed of initialisation and data."""
    save_every_steps: int = 100
    """Steps between two saves of the full state."""


HEAD_DIM = 32
MAX_POSITIONS = 2048


def build_model(config: TargetConfig, layers: int, vocab_size: int) -> Qwen3ForCausalLM:
    """Return a freshly initialised target of the given depth, in float32."""
    torch.manual_seed(config.seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=HEAD_DIM,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def grow(model: Qwen3ForCausalLM, layers: int, config: TargetConfig) -> Qwen3ForCausalLM:
    """Return a model of `layers` layers whose stack repeats the given model's."""
    shallow = model.config.num_hidden_layers
    if layers % shallow:
        raise ValueError(f"depth must be a multiple of {shallow}, got {layers}")
    deep = build_model(config, layers, model.config.vocab_size)
    deep.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    deep.model.norm.load_state_dict(model.model.norm.state_dict())
    for index, layer in enumerate(deep.model.layers):
        layer.load_state_dict(model.model.layers[index % shallow].state_dict())
    return deep


@dataclass(slots=True)
class _Run:
    """One stage under way: fp32 weights that learn, and the bf16 copy that computes."""

    master: Qwen3ForCausalLM
    working: Qwen3ForCausalLM
    matrices: torch.optim.Muon
    others: torch.optim.AdamW
    step: int = 0

    @classmethod
    def start(cls, model: Qwen3ForCausalLM) -> "_Run":
        hidden = [p for n, p in model.model.layers.named_parameters() if p.ndim == 2]
        rest = [p for p in model.parameters() if all(p is not h for h in hidden)]
        return cls(
            master=model,
            working=copy.deepcopy(model).bfloat16(),
            matrices=torch.optim.Muon(
                hidden, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original"
            ),
            others=torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0),
        )

    def update(self, rate: float, embedding_rate: float) -> None:
        for learned, used in zip(self.master.parameters(), self.working.parameters(), strict=True):
            learned.grad = None if used.grad is None else used.grad.float()
            used.grad = None
        torch.nn.utils.clip_grad_norm_(self.master.parameters(), 1.0)
        both: tuple[tuple[torch.optim.Optimizer, float], ...] = (
            (self.matrices, 1.0),
            (self.others, embedding_rate),
        )
        for optimizer, scale in both:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
        with torch.no_grad():
            for learned, used in zip(
                self.master.parameters(), self.working.parameters(), strict=True
            ):
                used.copy_(learned)
        self.step += 1


def train_target(
    documents: Callable[[int], Iterable[Document]],
    config: TargetConfig,
    work: Path,
    *,
    vocab_size: int,
) -> Qwen3ForCausalLM:
    """Return the trained target; a run that was stopped goes on from its last save.

    Args:
        documents: Gives the endless documents of a seed.
        config: Shape and stages.
        work: Folder for the saved state and a log per stage.
        vocab_size: Tokens of the vocabulary.
    """
    work.mkdir(parents=True, exist_ok=True)
    model = build_model(config, config.stages[0].layers, vocab_size)
    for index, stage in enumerate(config.stages):
        if index:
            model = grow(model, stage.layers, config)
        done = work / f"stage-{index}-done.safetensors"
        if done.exists():
            model.load_state_dict(load_file(done), strict=False)
            continue
        rows = packed_rows(documents(config.seed + index), rows=stage.rows, tokens=config.tokens)
        model = _train_stage(model, stage, config, rows, work / f"stage-{index}")
        _save_tensors(_weights(model), done)
    return model


def _train_stage(
    model: Qwen3ForCausalLM,
    stage: Stage,
    config: TargetConfig,
    rows: Iterator[PackedRows],
    state: Path,
) -> Qwen3ForCausalLM:
    run = _Run.start(model)
    _resume(run, state)
    for _ in range(run.step):  # the stream is seeded: skipping is cheap and exact
        next(rows)
    started = time.perf_counter()
    while run.step < stage.steps:
        loss = _loss(run, next(rows))
        loss.backward()
        rate = stage.peak * _schedule(run.step, stage, config.warmup_steps)
        run.update(rate, config.embedding_rate)
        _log(state.with_suffix(".jsonl"), run.step, stage, loss.item(), rate, started)
        if run.step % config.save_every_steps == 0:
            _save(run, state)
    return run.master


def _loss(run: _Run, rows: PackedRows) -> Tensor:
    hidden = run.working.model(
        input_ids=rows.input_ids, attention_mask=rows.attention(), position_ids=rows.position_ids
    ).last_hidden_state
    labels = rows.labels[:, 1:]
    wanted = labels >= 0
    logits = run.working.lm_head(hidden[:, :-1][wanted])
    return torch.nn.functional.cross_entropy(logits.float(), labels[wanted])


def _schedule(step: int, stage: Stage, warmup: int) -> float:
    """Warm-up, a flat half, then a linear fall to the stage's final share."""
    if step < warmup:
        return (step + 1) / warmup
    fall = max(0.0, step / stage.steps - 0.5) * 2
    return 1 - (1 - stage.final) * fall


def _log(path: Path, step: int, stage: Stage, loss: float, rate: float, started: float) -> None:
    seconds = time.perf_counter() - started
    record = {"step": step, "layers": stage.layers, "loss": loss, "rate": rate, "seconds": seconds}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    if step % 20 == 0:
        logger.info(
            "layers %d step %d of %d: loss %.3f, %.0f s",
            stage.layers,
            step,
            stage.steps,
            loss,
            seconds,
        )


def _weights(model: Qwen3ForCausalLM) -> dict[str, Tensor]:
    # The head is tied to the embedding: one tensor, saved once.
    return {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}


def _save(run: _Run, state: Path) -> None:
    tensors = {f"weights/{name}": value for name, value in _weights(run.master).items()}
    for part, optimizer in (("matrices", run.matrices), ("others", run.others)):
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                tensors[f"{part}/{index}/{key}"] = torch.as_tensor(value).contiguous()
    tensors["step"] = torch.tensor(run.step)
    _save_tensors(tensors, state.with_suffix(".safetensors"))


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.rename(path)


def _resume(run: _Run, state: Path) -> None:
    path = state.with_suffix(".safetensors")
    if not path.exists():
        return
    saved = load_file(path)
    run.step = int(saved.pop("step"))
    weights = {k.removeprefix("weights/"): v for k, v in saved.items() if k.startswith("weights/")}
    run.master.load_state_dict(weights, strict=False)
    run.working.load_state_dict(run.master.state_dict())
    for part, optimizer in (("matrices", run.matrices), ("others", run.others)):
        whole = optimizer.state_dict()
        for name, value in saved.items():
            if name.startswith(f"{part}/"):
                _, index, key = name.split("/")
                whole["state"].setdefault(int(index), {})[key] = value
        optimizer.load_state_dict(whole)
    logger.info("going on from step %d of %s", run.step, path)
