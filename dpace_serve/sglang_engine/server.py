"""`dpace serve --engine sglang`: checks what it was given, then runs SGLang's own server."""

import argparse
import logging
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dpace_serve.drafter import checkpoint
from dpace_serve.errors import CheckpointError, ConfigError, DpaceError, EngineError
from dpace_serve.gate import http_protocol, stack, tls
from dpace_serve.serve_config import ServeConfig
from dpace_serve.sglang_engine import plugin, start_checks

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

logger = logging.getLogger(__name__)

OTHER_SPECULATION_ARGUMENTS = (
    "speculative_algorithm",
    "speculative_dflash_block_size",
    "speculative_draft_model_path",
    "speculative_num_draft_tokens",
)
OTHER_LAUNCH_ARGUMENTS = (
    "config",
    "enable_http2",
    "encoder_only",
    "grpc_mode",
    "grpc_port",
    "smg_grpc_mode",
    "tokenizer_worker_num",
    "use_ray",
)
"""Ways to start SGLang that have no API process of the kind that records requests."""
TLS_ARGUMENTS = ("enable_ssl_refresh", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
SECRET_ARGUMENTS = ("admin_api_key", "ssl_keyfile_password")
"""What is not repeated in a message; SGLang itself logs all of its arguments."""
API_KEY_FLAG = "--api-key"
RUST_SERVER_VARIABLE = "SGLANG_RUST_SERVER"


def serve(config: ServeConfig) -> None:
    """Serve until a signal stops the server; SIGTERM lets running answers finish.

    Raises:
        CheckpointError: If the target or the drafter is missing, damaged or does not fit.
        ConfigError: If the port is taken, everyone could use the server by oversight, or something
            is asked for that cannot be had here.
        EngineError: If the engine is absent, of another version, not hooked, or fails.
    """
    start_checks.require_possible(config)
    stack.require_possible(config)
    num_draft_tokens = start_checks.require_servable(config)
    start_checks.require_installed()
    _set_environment()
    ours = our_arguments(config, num_draft_tokens)
    engine_key = require_compatible(ours, config.engine_args)
    keys = stack.server_keys(config, [engine_key] if engine_key else [], os.environ)
    stack.require_guarded(config, keys)
    _run(_server_arguments(config, ours), config, keys)


def require_same_reading(folder: Path) -> None:
    """Check that SGLang finds the same block, mask token and taps in a drafter's configuration.

    Raises:
        CheckpointError: If it does not.
    """
    from sglang.srt.speculative.dflash_utils import parse_dflash_draft_config
    from sglang.srt.utils.hf_transformers_utils import get_config

    theirs = parse_dflash_draft_config(
        draft_hf_config=get_config(str(folder), trust_remote_code=False)
    )
    ours = checkpoint.read_config(folder)
    for name, wanted, found in (
        ("block_size", ours.block_size, theirs.block_size),
        ("mask_token_id", ours.mask_token_id, theirs.mask_token_id),
        ("target_layer_ids", list(ours.target_layer_ids), list(theirs.target_layer_ids or ())),
    ):
        if found != wanted:
            raise CheckpointError(
                f"{folder}: {name} must be {wanted}, SGLang reads {found}. Write it again: "
                "`dpace export DRAFTER --layout zlab --output FOLDER`."
            )


def _set_environment() -> None:
    """Prepare the variables that the engine and its processes read.

    Raises:
        ConfigError: If the user asks for a server that has no Python in it.
    """
    if os.environ.get(RUST_SERVER_VARIABLE, "").lower() in ("1", "true"):
        raise ConfigError(f"{RUST_SERVER_VARIABLE} must be off: it records nothing. Unset it.")
    os.environ[plugin.PLUGINS_VARIABLE] = ",".join(
        _plugin_names(os.environ.get(plugin.PLUGINS_VARIABLE))
    )


def _plugin_names(listed: str | None) -> list[str]:
    """Names for SGLANG_PLUGINS so that ours loads and no other is lost; unset means all."""
    names: Iterable[str] = (
        [name.strip() for name in listed.split(",") if name.strip()]
        if listed
        else sorted(point.name for point in entry_points(group=start_checks.PLUGIN_GROUP))
    )
    return list(dict.fromkeys([*names, plugin.PLUGIN]))


def our_arguments(config: ServeConfig, num_draft_tokens: int | None) -> list[str]:
    """SGLang's flags for what is configured here."""
    own_name = Path(config.target).resolve().name if Path(config.target).is_dir() else config.target
    arguments = [
        f"--model-path={config.target}",
        f"--served-model-name={config.served_model_name or own_name}",
        f"--host={config.host}",
        f"--port={config.port}",
        f"--dtype={config.dtype}",
        "--enable-metrics",
    ]
    if config.eager:
        arguments.append("--disable-cuda-graph")
    if config.tls is not None:
        names = tls.uvicorn_tls(config.tls)
        arguments += [
            f"--ssl-certfile={names['ssl_certfile']}",
            f"--ssl-keyfile={names['ssl_keyfile']}",
        ]
    if num_draft_tokens is not None:
        arguments += [
            "--speculative-algorithm=DFLASH",
            f"--speculative-draft-model-path={config.drafter}",
            f"--speculative-dflash-block-size={num_draft_tokens + 1}",
        ]
    return arguments


def require_compatible(ours: Sequence[str], given: Sequence[str]) -> str | None:
    """Check the user's own arguments of SGLang.

    Args:
        ours: What is decided here.
        given: The user's.

    Returns:
        The API key among them; None where there is none.

    Raises:
        ConfigError: If they are wrong or contradict ours.
    """
    from sglang.srt.server_args import ServerArgs

    parser = _Parser()
    ServerArgs.add_cli_args(parser)
    before, after = parser.parse_args(ours), parser.parse_args([*ours, *given])
    flags = [argument.partition("=")[0] for argument in ours]
    reserved = [flag.removeprefix("--").replace("-", "_") for flag in flags]
    others = (*OTHER_SPECULATION_ARGUMENTS, *OTHER_LAUNCH_ARGUMENTS, *TLS_ARGUMENTS)
    for name in dict.fromkeys([*reserved, *others, *SECRET_ARGUMENTS]):
        if getattr(after, name) != getattr(before, name):
            got = "one" if name in SECRET_ARGUMENTS else repr(getattr(after, name))
            raise ConfigError(
                f"engine arguments must leave {name} to `dpace serve`, got {got}. Use its own "
                "option, or drop it."
            )
    key: str | None = after.api_key
    return key


def without_api_key(arguments: Iterable[str]) -> list[str]:
    """The arguments without the API key: SGLang would log it, and has no need of it behind a gate.

    Args:
        arguments: What SGLang's parser has taken, so that each beginning of a flag is unambiguous.
    """
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, _ = argument.partition("=")
        if len(flag) <= len("--") or not API_KEY_FLAG.startswith(flag):
            kept.append(argument)
        elif not equals:
            next(rest, None)
    return kept


def _server_arguments(config: ServeConfig, ours: Sequence[str]) -> "ServerArgs":
    """The arguments of SGLang's server: ours, and the user's own behind them.

    Raises:
        CheckpointError: If SGLang reads another drafter than we do.
        ConfigError: If it would divide or quantize position specialists.
    """
    from sglang.srt.server_args import prepare_server_args

    if config.drafter is not None:
        require_same_reading(config.drafter)
    arguments = prepare_server_args([*ours, *without_api_key(config.engine_args)])
    if config.drafter is not None and checkpoint.read_config(config.drafter).specialists:
        start_checks.require_undivided(
            config.drafter,
            tp_size=arguments.tp_size,
            # SGLang quantizes a drafter as its target, where nothing else is said.
            quantization=arguments.speculative_draft_model_quantization or arguments.quantization,
        )
    return arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"engine arguments: {message}. See SGLang's server arguments.")


def _run(server_args: "ServerArgs", config: ServeConfig, keys: stack.ServerKeys) -> None:
    from sglang.srt.entrypoints.http_server import launch_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.utils import kill_process_tree

    from dpace_serve.sglang_engine import application, hooking, model_registry
    from dpace_serve.sglang_engine.hooks import all_hooks

    application.set_configuration(config, keys)
    http_protocol.use_everywhere()
    load_plugins()
    missing = [*hooking.not_applied(all_hooks()), *model_registry.not_registered()]
    if missing:  # without it there would be nobody to see that the others are missing
        raise EngineError(
            f"every hook must take hold, but these did not: {', '.join(missing)}. SGLang's log has "
            "the reason; its version must be the supported one."
        )
    try:
        launch_server(server_args)
    except DpaceError:
        raise
    except Exception as error:
        raise EngineError(
            f"the engine stopped: {_one_line(error)} Its own log above says more."
        ) from error
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."
