"""Named checks of a drafter against its target, before any engine is started."""

from pathlib import Path

from dpace_serve.drafter.checkpoint import DrafterConfig, validate
from dpace_serve.drafter.conventions import (
    check_chat_template,
    check_dtype,
    check_head,
    check_layer_convention,
    check_mask_token,
    check_rotation,
)
from dpace_serve.drafter.finding import Finding
from dpace_serve.drafter.sliding import SlidingAttention
from dpace_serve.drafter.specialists import Specialists
from dpace_serve.drafter.target import TargetFacts, find_target_folder, read_target
from dpace_serve.errors import CheckpointError

__all__ = ["Finding", "examine", "require_servable"]

_MIN_CPU_HEAD_DIM = 32
_OTHER_PAIR = "Give the target this drafter was trained for, or retrain it."


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
            check_mask_token(config, facts, folder),
            check_rotation(config, facts),
            check_head(facts, folder),
            check_chat_template(config, folder),
            check_dtype(drafter_dir, facts),
        ]
    findings.append(check_layer_convention(config))
    findings.append(_check_draft_length(config, num_draft_tokens))
    findings.append(_check_head_dim(config))
    if config.sliding is not None:
        findings.append(_check_windows(config, config.sliding))
    if config.specialists is not None:
        findings.append(_check_specialists(config, config.specialists))
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


def _check_specialists(config: DrafterConfig, specialists: Specialists) -> Finding:
    num_groups = specialists.num_groups(config.num_draft_tokens)
    message = (
        f"{num_groups} groups of draft positions have a {specialists.kind} specialist each, which"
        " vLLM and SGLang serve on one device."
    )
    return Finding("specialists", ok=True, message=message)
