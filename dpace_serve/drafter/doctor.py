"""Named checks of a drafter against its target, before any engine is started."""

from dataclasses import dataclass
from pathlib import Path

from dpace_serve.drafter.checkpoint import DrafterConfig, validate
from dpace_serve.drafter.sliding import SlidingAttention
from dpace_serve.drafter.target import (
    TargetFacts,
    find_target_folder,
    ordinary_token,
    read_target,
)
from dpace_serve.errors import CheckpointError

_MIN_CPU_HEAD_DIM = 32
_OTHER_PAIR = "Give the target this drafter was trained for, or retrain it."


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome; `ok` with a cure is a note: it serves, but look at it."""

    check: str
    ok: bool
    message: str
    cure: str = ""
    """What to do; empty where nothing is, or where the message already says it."""

    @property
    def is_note(self) -> bool:
        """Whether this stops nothing, yet deserves a look."""
        return self.ok and bool(self.cure)

    def line(self) -> str:
        """Message and cure as one line."""
        return f"{self.message} {self.cure}".strip()


def examine(
    target: str | Path, drafter_dir: Path, num_draft_tokens: int | None = None
) -> list[Finding]:
    """Check a drafter, its target and the setting they are to be served with.

    Args:
        target: Folder of the target, or its hub name: then what its local copy allows is checked.
        drafter_dir: Folder of the drafter.
        num_draft_tokens: Draft tokens per step asked of the engine; none takes the full block.

    Returns:
        All findings, good ones too, in the order of the checks.
    """
    findings: list[Finding] = []
    folder, facts = _examine_target(target, findings)
    config = _examine_drafter(drafter_dir, findings)
    if config is None:
        return findings
    if folder is not None and facts is not None:
        findings += [
            _check_equal(
                "hidden size", "the drafter's hidden_size", config.hidden_size, facts.hidden_size
            ),
            _check_equal(
                "vocabulary", "the drafter's vocab_size", config.vocab_size, facts.vocab_size
            ),
            _check_layers(config, facts),
            _check_mask_token(config, facts, folder),
            _check_rotation(config, facts),
        ]
    findings.append(_check_draft_length(config, num_draft_tokens))
    findings.append(_check_head_dim(config))
    if config.sliding is not None:
        findings.append(_check_windows(config, config.sliding))
    return findings


def require_servable(
    target: str | Path, drafter_dir: Path, num_draft_tokens: int | None = None
) -> list[Finding]:
    """Examine, and refuse what cannot be served well.

    Returns:
        The findings, all good; some may be notes.

    Raises:
        CheckpointError: With the first finding that failed.
    """
    findings = examine(target, drafter_dir, num_draft_tokens)
    for finding in findings:
        if not finding.ok:
            raise CheckpointError(finding.line())
    return findings


def _examine_target(
    target: str | Path, findings: list[Finding]
) -> tuple[Path | None, TargetFacts | None]:
    check = "target config"
    try:
        folder = find_target_folder(target)
        if folder is None:
            message = f"{target}: no local folder or copy, so the pair was not compared."
            cure = "If it is a hub name, download it and look again."
            findings.append(Finding(check, ok=True, message=message, cure=cure))
            return None, None
        facts = read_target(folder)
    except CheckpointError as error:
        findings.append(Finding(check, ok=False, message=str(error)))
        return None, None
    findings.append(Finding(check, ok=True, message=f"{folder}: readable."))
    return folder, facts


def _examine_drafter(drafter_dir: Path, findings: list[Finding]) -> DrafterConfig | None:
    check = "drafter files"
    try:
        config = validate(drafter_dir)
    except CheckpointError as error:
        findings.append(Finding(check, ok=False, message=str(error)))
        return None
    message = f"{drafter_dir}: complete, {config.num_hidden_layers} layers."
    findings.append(Finding(check, ok=True, message=message))
    return config


def _check_equal(check: str, name: str, given: int, needed: int) -> Finding:
    if given == needed:
        return Finding(check, ok=True, message=f"{name} is {given}, as the target needs.")
    message = f"{name} must be {needed} for this target, got {given}."
    return Finding(check, ok=False, message=message, cure=_OTHER_PAIR)


def _check_layers(config: DrafterConfig, target: TargetFacts) -> Finding:
    check, ids, num_layers = "target layers", config.target_layer_ids, target.num_hidden_layers
    if max(ids) >= num_layers:
        message = (
            f"target_layer_ids must lie in 0..{num_layers - 1}, the target's layers,"
            f" got {list(ids)}."
        )
        return Finding(check, ok=False, message=message, cure=_OTHER_PAIR)
    return _check_equal(check, "num_target_layers", config.num_target_layers, num_layers)


def _check_mask_token(config: DrafterConfig, target: TargetFacts, folder: Path) -> Finding:
    check, mask = "mask token", config.mask_token_id
    cure = "Write the mask token the drafter was trained with into dflash_config."
    if mask >= target.vocab_size:
        message = f"mask_token_id must be below the target's {target.vocab_size}, got {mask}."
        return Finding(check, ok=False, message=message, cure=cure)
    if mask in target.eos_token_ids:
        message = f"mask_token_id must not be the target's end of text, got {mask}."
        return Finding(check, ok=False, message=message, cure=cure)
    if not (folder / "tokenizer.json").exists():
        message = f"mask_token_id {mask} could not be compared: the target has no tokenizer.json."
        return Finding(check, ok=True, message=message, cure="Make sure that no text produces it.")
    try:
        text = ordinary_token(folder, mask)
    except CheckpointError as error:
        return Finding(check, ok=False, message=str(error))
    if text is not None:
        message = f"mask_token_id must be an unused or special token, {mask} is {text!r}."
        return Finding(check, ok=False, message=message, cure=cure)
    return Finding(check, ok=True, message=f"mask_token_id {mask} is unused or special.")


def _check_rotation(config: DrafterConfig, target: TargetFacts) -> Finding:
    check = "rotation"
    if target.rope_theta is None or target.rope_theta == config.rope_theta:
        return Finding(check, ok=True, message=f"rope_theta is {config.rope_theta:g}.")
    message = f"rope_theta is {config.rope_theta:g}, the target's is {target.rope_theta:g}."
    cure = "Good if the drafter was trained so: the drafter's own value counts."
    return Finding(check, ok=True, message=message, cure=cure)


def _check_draft_length(config: DrafterConfig, asked: int | None) -> Finding:
    check, full = "draft length", config.num_draft_tokens
    if asked is None or asked == full:
        return Finding(check, ok=True, message=f"{full} draft tokens, the full block.")
    if 1 <= asked < full:
        message = f"{asked} draft tokens, although the drafter was trained for {full}."
        return Finding(check, ok=True, message=message, cure=f"Ask for {full} to use the block.")
    message = f"num_draft_tokens must lie in 1..{full} (block_size - 1), got {asked}."
    cure = "Drop the setting or retrain with a larger block_size."
    return Finding(check, ok=False, message=message, cure=cure)


def _check_head_dim(config: DrafterConfig) -> Finding:
    message = f"head_dim is {config.head_dim}."
    if config.head_dim >= _MIN_CPU_HEAD_DIM:
        return Finding("head size", ok=True, message=message)
    cure = f"On CPU the attention kernel needs {_MIN_CPU_HEAD_DIM} or more: serve it on a GPU."
    return Finding("head size", ok=True, message=message, cure=cure)


def _check_windows(config: DrafterConfig, sliding: SlidingAttention) -> Finding:
    num_windowed, num_layers = len(sliding.layers), config.num_hidden_layers
    message = f"{num_windowed} of {num_layers} layers have a window of {sliding.window} tokens"
    if num_windowed == num_layers:
        return Finding("windows", ok=True, message=f"{message}.")
    # vLLM 0.32, model_executor/models/qwen3_dflash.py:152 and config/vllm.py:756.
    message += ", which vLLM serves with its second model runner only; dpace serve uses the first."
    cure = "Give a drafter with a window in all layers or in none."
    return Finding("windows", ok=False, message=message, cure=cure)
