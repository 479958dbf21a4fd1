"""The target as training uses it: its model, its tokenizer and a name for exactly these weights."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from dpace_serve.errors import CheckpointError, ConfigError

_REVISION_PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "*.jinja",
    "*.safetensors",
)
_CHUNK_BYTES = 1 << 24
# transformers checks types of a configuration with dataclasses of the hub's client.
_LOADING_ERRORS = (OSError, ValueError, StrictDataclassError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Target:
    """A loaded target; `end_ids` are the tokens with which it ends an answer.

    `enable_thinking` is what every rendering of its chat template is told; None tells it nothing.
    """

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: frozenset[int]
    revision: str
    enable_thinking: bool | None = None

    @property
    def text_config(self) -> PretrainedConfig:
        """Settings of the language model: of a multimodal target, those of its text part."""
        return self.model.config.get_text_config()

    @property
    def max_positions(self) -> int:
        """Most tokens that the target reads and writes together.

        Raises:
            CheckpointError: If its configuration does not say.
        """
        found = getattr(self.text_config, "max_position_embeddings", None)
        if not isinstance(found, int):
            raise CheckpointError(
                f"{self.folder}: config.json must give max_position_embeddings, got {found!r}. "
                "Set it to the longest text that the target was trained on."
            )
        return found


def load_target(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | None = None,
    enable_thinking: bool | None = None,
) -> Target:
    """Load a target from a folder, frozen and in evaluation mode.

    Args:
        folder: Folder of the target.
        dtype: Number format of its weights.
        device: Where it computes; the CPU when not given.
        enable_thinking: What its chat template is told about thinking; None tells it nothing.

    Raises:
        CheckpointError: If the folder is not there, is not a causal language model, or its weights
            are not safetensors.
        ConfigError: If thinking is set, and the chat template does not know it.
    """
    _require_safetensors(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    except _LOADING_ERRORS as error:
        raise _not_loadable(folder, error) from None
    model.to(device or torch.device("cpu"))
    return _target(folder, model, enable_thinking)


def load_target_ends(
    folder: Path, *, dtype: torch.dtype, enable_thinking: bool | None = None
) -> Target:
    """Load a target without the weights of its decoder layers: embedding, final norm and LM head.

    That is all a drafter shares with it. The layers exist, so that they can be counted, but only
    `load_target` gives a model that can be run.

    Args:
        folder: Folder of the target.
        dtype: Number format of its weights.
        enable_thinking: What its chat template is told about thinking; None tells it nothing.

    Raises:
        CheckpointError: If the folder is not there, is not a causal language model, or names these
            weights in another way, or not in safetensors.
    """
    _require_safetensors(folder)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(folder), dtype=dtype
            )
    except _LOADING_ERRORS as error:
        raise _not_loadable(folder, error) from None
    inner = {id(parameter) for parameter in model.get_decoder().layers.parameters()}
    names = [name for name, parameter in model.named_parameters() if id(parameter) not in inner]
    weights = {name: weight.to(dtype) for name, weight in _read_weights(folder, names).items()}
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    return _target(folder, model, enable_thinking)


def target_revision(folder: Path) -> str:
    """First 12 hex digits of a SHA-256 over configuration, tokenizer and weights.

    Raises:
        CheckpointError: If the folder holds no target, or its weights are not safetensors.
    """
    _require_safetensors(folder)
    digest = hashlib.sha256()
    files = {path for pattern in _REVISION_PATTERNS for path in folder.glob(pattern)}
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:12]


def _require_safetensors(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: no target model there (config.json is missing). Give a model's folder; "
            "`hf download NAME --local-dir FOLDER` fetches one from the hub."
        )
    if not any(folder.glob("*.safetensors")):
        # transformers would open pickled ones, which can run code, and the revision has none of it.
        raise CheckpointError(
            f"{folder}: the target's weights must be safetensors, there are none. Fetch them in "
            "that format, or convert them where you trust them."
        )
    transformers_logging.disable_progress_bar()


def _target(folder: Path, model: PreTrainedModel, enable_thinking: bool | None) -> Target:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except _LOADING_ERRORS as error:
        raise _not_loadable(folder, error) from None
    if enable_thinking is not None:
        _check_thinking(folder, tokenizer)
    model.requires_grad_(False)
    model.eval()
    return Target(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        end_ids=_end_ids(folder, model, tokenizer),
        revision=target_revision(folder),
        enable_thinking=enable_thinking,
    )


def _not_loadable(folder: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())
    return CheckpointError(f"{folder}: cannot be loaded as a target: {reason}")


def _read_weights(folder: Path, names: Sequence[str]) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                present = set(file.keys())
                weights |= {name: file.get_tensor(name) for name in names if name in present}
        except (OSError, SafetensorError) as error:
            raise _not_loadable(path, error) from None
    missing = [name for name in names if name not in weights]
    if missing:
        raise CheckpointError(
            f"{folder}: no safetensors file there holds {missing[0]}. "
            "Copy the target again, or let the backend transformers run it whole."
        )
    return weights


def _check_thinking(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    # A template takes every name without a word, and does nothing with those it does not know.
    if tokenizer.chat_template is None or "enable_thinking" not in tokenizer.get_chat_template():
        raise ConfigError(
            f"{folder}: the chat template does not know enable_thinking. Leave "
            "data.enable_thinking out."
        )


def _end_ids(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> frozenset[int]:
    declared = model.generation_config.eos_token_id
    ids = set(declared) if isinstance(declared, list | tuple) else {declared}
    ids.add(tokenizer.eos_token_id)
    ids.discard(None)
    if not ids:
        raise CheckpointError(
            f"{folder}: the target declares no end token. Set eos_token_id in "
            "generation_config.json or eos_token in tokenizer_config.json."
        )
    return frozenset(ids)
