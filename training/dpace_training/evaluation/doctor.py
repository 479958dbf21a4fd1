"""`dpace doctor --replay`: whether a drafter drafts better under another reading of its config.

A wrong layer id, mask token or rotation loads, runs and drafts badly. Each is tried against its
likely alternatives on the same answers of the target; one that is clearly better is the fault.
Every token of the answers is an anchor, so that few prompts show much.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from dpace_serve.acceptance.moments import AcceptanceMoments, PairedRatio, paired_tau_ratio
from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_serve.drafter.finding import Finding
from dpace_serve.drafter.rope import Rope
from dpace_serve.drafter.rotation import describe_rope, read_target_rope, rope_differences
from dpace_serve.drafter.target import find_target_folder
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_training.data.conversations import spread
from dpace_training.data.sources import read_source
from dpace_training.data.target_model import Target, load_target
from dpace_training.data.tokenize import TokenizedConversation
from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.compare import answer_prompts, load_drafter, require_fit
from dpace_training.evaluation.config import ComparisonConfig
from dpace_training.evaluation.held_out import (
    HeldOutPrompt,
    held_out_prompts,
    measure_leading_runs,
)

logger = logging.getLogger(__name__)

NUM_MASK_TOKENS = 4
CONFIDENCE = 0.99
MIN_GAIN = 1.02
MIN_RUN = 1.1
READING_CURE = "Write that into the drafter's config, the largest gain first, and look again."

Pairs = tuple[tuple[int, int], ...]


def examine_by_replay(
    target: str | Path, drafter_dir: Path, config: ComparisonConfig, *, device: torch.device
) -> list[Finding]:
    """Replay the target's answers under the drafter's configuration, and under its alternatives.

    Args:
        target: Folder of the target, or the hub name of a local copy.
        drafter_dir: Folder of the drafter.
        config: Prompts, how many, how the target answers them, and the number format.
        device: Where target and drafter compute.

    Returns:
        One finding per question. An alternative counts as better where the mean leading run is at
        least 2 % longer, and the 99 % interval of the paired ratio lies above 1.

    Raises:
        ConfigError: If the prompts cannot be read.
        CheckpointError: If a model cannot be loaded, or they do not fit.
    """
    folder = find_target_folder(target)
    if folder is None:
        raise CheckpointError(f"{target}: no local copy to replay. Download it first.")
    if config.conversations is None:
        raise ConfigError("no prompts to replay. Give a JSONL file of conversations.")
    source = read_source(config.conversations, config.input, needs_prompt=True)
    sources = spread(source, config.max_documents)
    dtype: torch.dtype = getattr(torch, config.dtype)
    drafter = load_drafter(drafter_dir).to(device, dtype)
    loaded = load_target(
        folder, dtype=dtype, device=device, enable_thinking=drafter.config.enable_thinking
    )
    require_fit(drafter_dir, drafter, loaded)
    documents = answer_prompts(loaded, sources, config, None)
    replays = _Replays(loaded, drafter, documents, batch_size=config.batch_size)
    given = drafter.config
    own = replays.pairs(given)
    findings = [_revision_finding(given, loaded), _acceptance_finding(own)]
    for check, key, alternatives in (
        ("layer ids, replayed", "target_layer_ids", _layer_shifts(given)),
        ("mask token, replayed", "mask_token_id", _masks(given, loaded)),
        ("rotation, replayed", "rope", _rotations(given, loaded)),
    ):
        gains = {
            _shown(other, key): paired_tau_ratio(own, replays.pairs(other), CONFIDENCE)
            for other in alternatives
        }
        shown = _shown(given, key)
        named = shown if key == "rope" else f"{key} {shown}"
        findings.append(_reading_finding(check, named, gains))
    return findings


@dataclass(frozen=True, slots=True)
class _Replays:
    """The same weights under any configuration, on the same answers."""

    target: Target
    drafter: BlockDrafter
    documents: list[TokenizedConversation]
    batch_size: int
    _prompts: dict[tuple[int, ...], list[HeldOutPrompt]] = field(default_factory=dict)

    def pairs(self, config: DrafterConfig) -> Pairs:
        """(Right leading drafts, anchors) of each answer, after every token of it."""
        weight = self.drafter.fc.weight
        reading = BlockDrafter(config).to(weight.device, weight.dtype).eval()
        reading.load_state_dict(self.drafter.state_dict())
        layer_ids = config.target_layer_ids
        # Most alternatives read the same layers: the target runs once for all of them.
        if layer_ids not in self._prompts:
            self._prompts[layer_ids] = held_out_prompts(
                self.target, self.documents, layer_ids, batch_size=self.batch_size
            )
        model = self.target.model
        runs = measure_leading_runs(
            "the drafter",
            reading,
            self._prompts[layer_ids],
            embedding=model.get_input_embeddings().weight,
            head=model.get_output_embeddings().weight,
        )
        return tuple(run.pair for run in runs)


def _reading_finding(check: str, given: str, gains: Mapping[str, PairedRatio]) -> Finding:
    """Judge what the configuration says by how much each alternative gains over it."""
    if not gains:
        return Finding(check, ok=True, message=f"{given} has no likely alternative.")
    better = [other for other, gain in gains.items() if gain.ratio >= MIN_GAIN and gain.low > 1]
    if not better:
        return Finding(
            check, ok=True, message=f"{given} is not clearly worse than {' or '.join(gains)}."
        )
    best = max(better, key=lambda other: gains[other].ratio)
    gain = 100 * (gains[best].ratio - 1)
    message = f"accepted runs are {gain:.0f} % longer with {best} than with {given}."
    return Finding(check, ok=False, message=message, cure=READING_CURE)


def _shown(config: DrafterConfig, key: str) -> str:
    value = getattr(config, key)
    if isinstance(value, Rope):
        return describe_rope(value)
    return str(list(value) if isinstance(value, tuple) else value)


def _layer_shifts(config: DrafterConfig) -> list[DrafterConfig]:
    """Each tap one layer deeper and one shallower, where such layers exist."""
    ids = config.target_layer_ids
    shifts = [tuple(layer_id + offset for layer_id in ids) for offset in (-1, 1)]
    return [
        replace(config, target_layer_ids=shifted)
        for shifted in shifts
        if shifted[0] >= 0 and shifted[-1] < config.num_target_layers
    ]


def _masks(config: DrafterConfig, target: Target) -> list[DrafterConfig]:
    """The tokenizer's mask token, its first unused id, and tokens called a mask."""
    tokenizer = target.tokenizer
    added = tokenizer.get_added_vocab()
    named = [token_id for text, token_id in sorted(added.items()) if "mask" in text.lower()]
    ids = dict.fromkeys([tokenizer.mask_token_id, len(tokenizer), *named])
    return [
        replace(config, mask_token_id=token_id)
        for token_id in list(ids)[:NUM_MASK_TOKENS]
        if token_id not in (None, config.mask_token_id) and token_id < config.vocab_size
    ]


def _rotations(config: DrafterConfig, target: Target) -> list[DrafterConfig]:
    """The target's whole rotation, and its base alone, as far as they are others.

    A rotation that no drafter can have, or not one with heads of this size, is left out.
    """
    values = target.text_config.to_dict()
    base = (values.get("rope_parameters") or {}).get("rope_theta")
    ropes = [] if base is None else [replace(config.rope, theta=float(base))]
    try:
        ropes.insert(0, read_target_rope(values))
    except CheckpointError as error:
        logger.warning("the target's rotation is not replayed: %s", error)
    readings = []
    for rope in dict.fromkeys(ropes):
        if rope_differences(config.rope, rope):
            try:
                readings.append(_rotated(config, rope))
            except CheckpointError as error:
                logger.warning("%s is not replayed: %s", describe_rope(rope), error)
    return readings


def _rotated(config: DrafterConfig, rope: Rope) -> DrafterConfig:
    longest, scaling = config.max_position_embeddings, rope.scaling
    if scaling is not None and scaling.rope_type == "yarn":
        # A drafter's table of angles ends there; no answer is that long.
        whole = scaling.factor * (scaling.original_max_position_embeddings or 0)
        longest = min(longest, int(whole))
    return replace(
        config,
        rope_theta=rope.theta,
        partial_rotary_factor=rope.partial_rotary_factor,
        rope_scaling=scaling,
        max_position_embeddings=longest,
    )


def _acceptance_finding(pairs: Pairs) -> Finding:
    check, moments = "acceptance", AcceptanceMoments.from_pairs(pairs)
    mean = moments.tau  # the same ratio, of anchors instead of steps
    message = (
        f"{mean - 1:.2f} drafts in a row are right, in the mean over {moments.steps} tokens of"
        f" {len(pairs)} answers."
    )
    if mean >= MIN_RUN:
        return Finding(check, ok=True, message=message)
    cure = "Almost no draft is right: correct what fails here, or compare with training's config."
    return Finding(check, ok=False, message=message, cure=cure)


def _revision_finding(config: DrafterConfig, target: Target) -> Finding:
    check, trained, found = "target revision", config.target_revision, target.revision
    if trained is None:
        return Finding(check, ok=True, message="the drafter does not say which it was trained for.")
    if trained == found:
        return Finding(check, ok=True, message=f"{found}, as in training.")
    message = f"trained for {trained}, this target is {found}."
    cure = "Weights, tokenizer or chat template differ: give the same, or train on this one."
    return Finding(check, ok=True, message=message, cure=cure)
