"""What is checked before the engine starts: the port, the files, the names, the plugins."""

import logging
import os
from importlib.metadata import entry_points

from dpace_serve.drafter import checkpoint, doctor
from dpace_serve.drafter.target import find_target_folder, read_target
from dpace_serve.errors import ConfigError, EngineError
from dpace_serve.live.admin_key import read_admin_key
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine import block_schedule, calibration, plugin
from dpace_serve.vllm_engine.hosted_checkpoints import require_same_layers

logger = logging.getLogger(__name__)

GENERAL_GROUP = "vllm.general_plugins"
ENDPOINT_GROUP = "vllm.endpoint_plugins"
DEVELOPMENT_VARIABLE = "VLLM_SERVER_DEV_MODE"


def require_servable(config: ServeConfig) -> int | None:
    """Draft tokens per block, after all checks that need no engine; None without a drafter.

    Raises:
        CheckpointError: If the target or a drafter is missing, damaged or does not fit.
        ConfigError: If drafters have the same name, or what changes them later cannot be used.
    """
    _check_development_mode(has_admin_key=bool(read_admin_key(config.admin_key_file, os.environ)))
    if config.drafter_root is not None and not config.drafter_root.is_dir():
        raise ConfigError(f"drafter_root must be a folder, {config.drafter_root} is none. Make it.")
    block_schedule.require_fitting_schedule(config)
    calibration.require_fitting_step_times(config)
    if config.drafter is None:
        target = find_target_folder(config.target)
        if target is not None:
            read_target(target)
        return None
    findings = doctor.require_servable(config.target, config.drafter, config.num_draft_tokens)
    for challenger in config.challengers:
        findings += doctor.require_servable(config.target, challenger, config.num_draft_tokens)
    require_same_layers([config.drafter, *config.challengers])
    _require_different_names(config)
    for finding in findings:
        if finding.is_note:
            logger.warning("%s", finding.line())
    return config.num_draft_tokens or checkpoint.read_config(config.drafter).num_draft_tokens


def require_installed() -> None:
    """Check that the engine's own processes will find our plugins.

    Raises:
        EngineError: If vLLM is absent, or this package is not installed.
    """
    for group, name in (
        (GENERAL_GROUP, plugin.GENERAL_PLUGIN),
        (ENDPOINT_GROUP, plugin.ENDPOINT_PLUGIN),
    ):
        if not entry_points(group=group, name=name):
            raise EngineError(
                f"vLLM finds plugins by their entry points, but {name} has none in this "
                "environment. Install the package: pip install -e ."
            )


def _check_development_mode(*, has_admin_key: bool) -> None:
    """Refuse an admin key where the engine's own /collective_rpc changes drafters without it."""
    if os.environ.get(DEVELOPMENT_VARIABLE, "0") in ("", "0"):
        return
    if has_admin_key:
        raise ConfigError(
            "an admin key must be what changes the drafters, but in vLLM's development mode "
            f"everyone can without it. Unset {DEVELOPMENT_VARIABLE}, or leave the admin key out."
        )
    logger.warning(
        "%s is set: everyone who reaches this server can change the drafters, and much more",
        DEVELOPMENT_VARIABLE,
    )


def _require_different_names(config: ServeConfig) -> None:
    given = [] if config.drafter is None else [config.drafter]
    names = [folder.resolve().name for folder in [*given, *config.challengers]]
    if config.drafter_name is not None:
        names[:1] = [config.drafter_name]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"drafters must have different names, {names.count(name)} are called {name}. Name "
                "their folders differently, or set drafter_name."
            )
