"""What is checked before the engine starts: the settings, the files, the plugin."""

import logging
import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from dpace_serve.drafter import checkpoint, doctor
from dpace_serve.drafter.speculators import is_speculators
from dpace_serve.drafter.target import find_target_folder, read_target
from dpace_serve.drafter.weight_files import read_json
from dpace_serve.errors import CheckpointError, ConfigError, EngineError
from dpace_serve.live.admin_key import read_admin_key
from dpace_serve.serve_config import ServeConfig
from dpace_serve.sglang_engine import plugin

logger = logging.getLogger(__name__)

PLUGIN_GROUP = "sglang.srt.plugins"
MASK_EMBEDDING = "mask_embedding.pt"
UNQUANTIZED = "unquant"
"""SGLang's word for a drafter that is not quantized though its target is."""
_ONE_DRAFTER = "SGLang hosts one drafter"
_NO_LENGTHS = "SGLang drafts full blocks always"
_NO_STEP_CLOCK = "steps of SGLang are not timed"


def _asks_for_client_certificates(config: ServeConfig) -> bool:
    return config.tls is not None and config.tls.client_ca_file is not None


def _is_shorter(config: ServeConfig) -> bool:
    if config.num_draft_tokens is None or config.drafter is None:
        return False
    return config.num_draft_tokens != checkpoint.read_config(config.drafter).num_draft_tokens


# What of a configuration cannot be served, whether it asks for it, and why.
_CANNOT: dict[str, tuple[Callable[[ServeConfig], bool], str]] = {
    "challengers": (lambda config: bool(config.challengers), _ONE_DRAFTER),
    "mode split": (lambda config: config.mode == "split", _ONE_DRAFTER),
    "allow_drafter_choice": (lambda config: config.allow_drafter_choice, _ONE_DRAFTER),
    "spare_drafter_slots": (lambda config: bool(config.spare_drafter_slots), _ONE_DRAFTER),
    "block_schedule": (lambda config: config.block_schedule is not None, _NO_LENGTHS),
    "num_draft_tokens": (_is_shorter, _NO_LENGTHS),
    "step_times": (lambda config: config.step_times is not None, _NO_STEP_CLOCK),
    "verdict.step_times": (lambda config: bool(config.verdict.step_times), _NO_STEP_CLOCK),
    "tls.client_ca_file": (
        _asks_for_client_certificates,
        "its server asks for no client certificates",
    ),
    "capture": (
        lambda config: config.capture is not None,
        "token ids of SGLang's answers are not kept",
    ),
}


def require_possible(config: ServeConfig) -> None:
    """Check that nothing is asked for that this engine cannot do.

    Raises:
        CheckpointError: If the drafter, whose block length counts here, cannot be read.
        ConfigError: If something is.
    """
    for name, (is_asked, reason) in _CANNOT.items():
        if is_asked(config):
            raise ConfigError(f"{name} cannot be had with SGLang: {reason}. Drop it, or use vLLM.")


def require_servable(config: ServeConfig) -> int | None:
    """Draft tokens per block, after all checks that need no engine; None without a drafter.

    Raises:
        CheckpointError: If the target or the drafter is missing, damaged or does not fit.
        ConfigError: If what changes the drafter later cannot be used.
    """
    read_admin_key(config.admin_key_file, os.environ)
    if config.drafter_root is not None and not config.drafter_root.is_dir():
        raise ConfigError(f"drafter_root must be a folder, {config.drafter_root} is none. Make it.")
    if config.drafter is None:
        target = find_target_folder(config.target)
        if target is not None:
            read_target(target)
        return None
    for finding in doctor.require_servable(config.target, config.drafter):
        if finding.is_note:
            logger.warning("%s", finding.line())
    require_readable_by_engine(config.drafter)
    return checkpoint.read_config(config.drafter).num_draft_tokens


def require_readable_by_engine(folder: Path) -> None:
    """Check what SGLang reads otherwise than vLLM and our trainer do.

    Raises:
        CheckpointError: If it would serve another drafter than the one in the folder, or change
            the target.
    """
    values = read_json(folder / checkpoint.CONFIG_FILE)
    if is_speculators(values):
        raise CheckpointError(
            f"{folder}: SGLang reads the z-lab layout only, this is the one of speculators. Convert"
            " it: `dpace export DRAFTER --layout zlab --output FOLDER`."
        )
    config = checkpoint.read_config(folder)
    if config.sliding is not None:
        raise CheckpointError(
            f"{folder}: layers with a window have a causal mask in SGLang, which was never "
            "compared with the trainer's. Serve it with vLLM."
        )
    if (folder / MASK_EMBEDDING).exists():
        raise CheckpointError(
            f"{folder}: SGLang writes {MASK_EMBEDDING} into the target's embedding, which changes "
            "the target. Move the file out."
        )


def require_undivided(drafter: str | Path, *, tp_size: int, quantization: str | None) -> None:
    """Check that the weights of position specialists are to stay whole, and in their own format.

    Args:
        drafter: The drafter that has them.
        tp_size: Devices that SGLang spreads the drafter over.
        quantization: How SGLang is to quantize the drafter; None if not at all.

    Raises:
        ConfigError: If they would be divided or quantized, which stacked weights cannot be.
    """
    if tp_size > 1:
        raise ConfigError(
            f"{drafter}: position specialists need --tp-size 1, because their stacked weights are "
            f"not divided, got {tp_size}. Serve it on one device, or a plain drafter."
        )
    if quantization not in (None, UNQUANTIZED):
        raise ConfigError(
            f"{drafter}: position specialists must be served in their own number format, got "
            f"quantization {quantization}. Give --speculative-draft-model-quantization "
            f"{UNQUANTIZED}."
        )


def require_installed() -> None:
    """Check that the engine's own processes will find our plugin.

    Raises:
        EngineError: If SGLang is absent or of another version, or this package is not installed.
    """
    try:
        import sglang
    except ImportError as error:
        raise EngineError(
            f"serving needs SGLang, which cannot be imported ({error}). Install it into an "
            "environment of its own: make sglang-env."
        ) from None
    plugin.require_version(sglang.__version__)
    if not entry_points(group=PLUGIN_GROUP, name=plugin.PLUGIN):
        raise EngineError(
            f"SGLang finds plugins by their entry points, but {plugin.PLUGIN} has none in this "
            "environment. Install the package: pip install --no-deps -e ."
        )
