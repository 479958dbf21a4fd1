"""`dpace eval`: several drafters on the same prompts, answered by the target beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpace_serve.drafter import checkpoint
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.config import RegenerateConfig
from dpace_training.data.answers import answer_documents
from dpace_training.data.conversations import Document, spread
from dpace_training.data.regenerate import regenerate_file
from dpace_training.data.sources import read_source
from dpace_training.data.target_model import Target, load_target
from dpace_training.data.tokenize import TokenizedConversation, tokenize_document
from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.config import ComparisonConfig
from dpace_training.evaluation.held_out import (
    HeldOutPrompt,
    held_out_prompts,
    measure_acceptance,
    measure_leading_runs,
)
from dpace_training.evaluation.report import evaluation_result
from dpace_training.evaluation.store import answers_file, stored_prompts


def compare_drafters(
    target_folder: Path,
    drafter_folders: Sequence[Path],
    config: ComparisonConfig,
    *,
    device: torch.device,
    answers: Path | None,
    store: Path | None,
) -> dict[str, Any]:
    """Measure acceptance of drafters on the same answers of the target.

    Args:
        target_folder: Folder of the target.
        drafter_folders: Folders of drafters; their names are the names in the result.
        config: Prompts, how many, how the target answers them, and the number format.
        device: Where target and drafters compute.
        answers: JSONL file that keeps the target's answers, so that a run that was cut goes on
            and the next one finds them; none keeps none.
        store: Folder that keeps the target's hidden states, and its answers if no file is given
            for them; none keeps none.

    Raises:
        ConfigError: If the prompts cannot be read, the drafters were trained with different
            settings of thinking, or what is kept was made with another target, other prompts or
            otherwise.
        CheckpointError: If a folder is wrong, or a drafter does not fit the target.
    """
    if config.conversations is None:
        raise ConfigError("no prompts to evaluate on. Give a JSONL file of conversations.")
    _require_different_names(drafter_folders)
    dtype: torch.dtype = getattr(torch, config.dtype)
    drafters = {folder: load_drafter(folder).to(device, dtype) for folder in drafter_folders}
    source = read_source(config.conversations, config.input, needs_prompt=True)
    sources = spread(source, config.max_documents)
    target = load_target(
        target_folder, dtype=dtype, device=device, enable_thinking=_enable_thinking(drafters)
    )
    for folder, drafter in drafters.items():
        require_fit(folder, drafter, target)
    kept = answers_file(store) if answers is None and store is not None else answers
    documents = answer_prompts(target, sources, config, kept)
    embedding = target.model.get_input_embeddings().weight
    head = target.model.get_output_embeddings().weight
    prompts: dict[tuple[int, ...], list[HeldOutPrompt]] = {}
    arms = []
    for folder, drafter in drafters.items():
        layer_ids = drafter.config.target_layer_ids
        if layer_ids not in prompts:
            prompts[layer_ids] = _with_states(target, documents, layer_ids, config, store)
        name, answered = folder.resolve().name, prompts[layer_ids]
        arm = measure_acceptance(name, drafter, answered, embedding=embedding, head=head)
        if config.all_anchors:
            runs = measure_leading_runs(name, drafter, answered, embedding=embedding, head=head)
            arm = replace(arm, leading_runs=runs)
        arms.append(arm)
    block_size = max(drafter.config.block_size for drafter in drafters.values())
    return evaluation_result(
        target_folder.resolve().name,
        block_size,
        arms,
        temperature=config.temperature,
        seed=config.seed,
        dtype=config.dtype,
    )


def _require_different_names(folders: Sequence[Path]) -> None:
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"drafters are told apart by the names of their folders, got {', '.join(names)}. "
            "Rename one, or give each drafter once."
        )


def _with_states(
    target: Target,
    documents: Sequence[TokenizedConversation],
    layer_ids: tuple[int, ...],
    config: ComparisonConfig,
    store: Path | None,
) -> list[HeldOutPrompt]:
    size = config.batch_size
    if store is None:
        return held_out_prompts(target, documents, layer_ids, batch_size=size)
    return stored_prompts(target, documents, layer_ids, store, batch_size=size)


def load_drafter(folder: Path) -> BlockDrafter:
    """A drafter from its folder, on the CPU in float32, in evaluation mode.

    Raises:
        CheckpointError: If the folder is missing or damaged.
    """
    tensors = checkpoint.read_tensors(folder)
    drafter = BlockDrafter(checkpoint.read_config(folder))
    drafter.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return drafter.requires_grad_(False).eval()


def answer_prompts(
    target: Target, sources: Sequence[Document], config: ComparisonConfig, answers: Path | None
) -> list[TokenizedConversation]:
    """The target's answers to all prompts, as token ids.

    Raises:
        ConfigError: If `answers` holds answers to other prompts, or otherwise made.
    """
    settings = RegenerateConfig(
        temperature=config.temperature,
        seed=config.seed,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
    )
    if answers is None:
        answered = answer_documents(target, sources, settings, description="answers of the target")
    else:
        answers.parent.mkdir(parents=True, exist_ok=True)
        answered = regenerate_file(target, sources, answers, settings)
    return [
        tokenize_document(
            target.tokenizer,
            document,
            end_ids=target.end_ids,
            max_tokens=target.max_positions,
            enable_thinking=target.enable_thinking,
        )
        for document in answered
    ]


def _enable_thinking(drafters: Mapping[Path, BlockDrafter]) -> bool | None:
    told = {folder: drafter.config.enable_thinking for folder, drafter in drafters.items()}
    if len(set(told.values())) > 1:
        raise ConfigError(
            "drafters must have been trained with the same enable_thinking, got "
            f"{', '.join(f'{folder.name} {value}' for folder, value in told.items())}. "
            "Measure them apart."
        )
    return next(iter(told.values()))


def require_fit(folder: Path, drafter: BlockDrafter, target: Target) -> None:
    """Check that a drafter was made for a target of this shape.

    Raises:
        CheckpointError: With what differs.
    """
    model, shape = target.text_config, drafter.config
    for what, found, expected in (
        ("hidden_size", shape.target_hidden_size, model.hidden_size),
        ("num_target_layers", shape.num_target_layers, model.num_hidden_layers),
        ("vocab_size", shape.vocab_size, model.vocab_size),
    ):
        if found != expected:
            raise CheckpointError(
                f"{folder}: made for a target with {what} {found}, {target.folder} has {expected}. "
                "Give the target it was trained for."
            )
