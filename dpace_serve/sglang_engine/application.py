"""Serves SGLang's HTTP application behind what is ours, once its engine is up and proved hooked."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpace_serve.drafter import doctor
from dpace_serve.drafter.target import find_target_folder
from dpace_serve.errors import CheckpointError, EngineError
from dpace_serve.gate.draining import Drain
from dpace_serve.gate.stack import ServerKeys
from dpace_serve.live.admin_key import read_admin_key
from dpace_serve.serve_config import ServeConfig
from dpace_serve.sglang_engine.draining import drain_at_sigterm
from dpace_serve.sglang_engine.hooking import not_applied
from dpace_serve.sglang_engine.step_records import REPORT

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sglang.srt.managers.tokenizer_manager import TokenizerManager
    from sglang.srt.parser.template_manager import TemplateManager
    from sglang.srt.server_args import PortArgs, ServerArgs
    from sglang.srt.utils.watchdog import SubprocessWatchdog

    from dpace_serve.sglang_engine.recording import DraftedServer, Recording

logger = logging.getLogger(__name__)

ALGORITHM = "DFLASH"


@dataclass(frozen=True, slots=True)
class Asked:
    """What `dpace serve` was given.

    Attributes:
        config: Beside SGLang's own arguments.
        keys: The keys of the server.
    """

    config: ServeConfig
    keys: ServerKeys


_asked: list[Asked] = []
"""Of the next server of this process; nothing under SGLang's own commands."""


def set_configuration(config: ServeConfig, keys: ServerKeys) -> None:
    """Say what the next server of this process is given beside SGLang's own arguments.

    Args:
        config: What `dpace serve` was given.
        keys: The keys of the server, none of which SGLang itself has.
    """
    _asked[:] = [Asked(config, keys)]


def serve_with_routes(  # noqa: PLR0913, PLR0917  (as SGLang has it)
    original: Callable[..., None],
    server_args: "ServerArgs",
    tokenizer_manager: "TokenizerManager",
    template_manager: "TemplateManager",
    port_args: "PortArgs",
    scheduler_infos: Sequence[dict[str, Any]],
    subprocess_watchdog: "SubprocessWatchdog | None",
    execute_warmup_func: Callable[..., Any],
    launch_callback: Callable[[], None] | None,
) -> None:
    """SGLang's HTTP server with our routes; it is not started unless every hook took hold.

    Raises:
        CheckpointError: If the drafter does not fit its target.
        ConfigError: If a log or key cannot be used.
        EngineError: If a hook is not in its place in this process or in a scheduler's.
    """
    from sglang.srt.entrypoints.http_server import app

    require_hooked(scheduler_infos)
    recording = None
    served = _drafted_server()
    if served is not None:
        recording = _start(tokenizer_manager, _configuration(served), served, scheduler_infos)
    drain = Drain()
    launch_callback = _put_ours_before(app, recording, drain, launch_callback)
    for asked in _asked:
        limit_seconds = asked.config.shutdown_timeout_seconds
        drain_at_sigterm(tokenizer_manager, drain, limit_seconds=limit_seconds)
    try:
        original(
            server_args,
            tokenizer_manager,
            template_manager,
            port_args,
            scheduler_infos,
            subprocess_watchdog,
            execute_warmup_func,
            launch_callback,
        )
    finally:
        if recording is not None:
            recording.close()


def require_hooked(scheduler_infos: Sequence[dict[str, Any]]) -> None:
    """Check that every hook and our model took hold, here and in each scheduler by its own report.

    Raises:
        EngineError: If one did not, or a scheduler does not report.
    """
    from dpace_serve.sglang_engine.hooks import all_hooks
    from dpace_serve.sglang_engine.model_registry import not_registered

    places = {"the launcher": [*not_applied(all_hooks()), *not_registered()]}
    for rank, info in enumerate(scheduler_infos):
        report = info.get(REPORT)
        places[f"scheduler {rank}"] = ["all"] if report is None else report["not_applied"]
    for place, targets in places.items():
        if targets:
            raise EngineError(
                f"every hook must take hold, but in {place} these did not: {', '.join(targets)}. "
                "SGLang's log has the reason; its version must be the supported one."
            )


def _drafted_server() -> "DraftedServer | None":
    """What the engine of this process was started with; none where DFLASH does not draft."""
    from sglang.srt.runtime_context import get_model, get_parallel, get_serving, get_spec

    from dpace_serve.sglang_engine.recording import DraftedServer

    if get_spec().speculative_algorithm != ALGORITHM:
        return None
    if get_serving().tokenizer_worker_num != 1:
        raise EngineError(
            "acceptance is counted in one API process, got --tokenizer-worker-num "
            f"{get_serving().tokenizer_worker_num}. Leave it out, or run several servers."
        )
    parallel = get_parallel()
    return DraftedServer(
        target=get_model().model_path,
        drafter=get_spec().speculative_draft_model_path,
        num_draft_tokens=int(get_spec().speculative_num_draft_tokens) - 1,
        num_processes=parallel.dp_size * parallel.tp_size,
    )


def _configuration(served: "DraftedServer") -> ServeConfig:
    """What was given, or what follows from SGLang's own command line after the same checks."""
    if _asked:
        return _asked[0].config
    folder = find_target_folder(served.drafter)
    if folder is None:
        raise CheckpointError(f"{served.drafter}: the drafter has no local copy. Download it.")
    doctor.require_servable(served.target, folder, served.num_draft_tokens)
    return ServeConfig(target=served.target, engine="sglang")


def _start(
    manager: "TokenizerManager",
    config: ServeConfig,
    served: "DraftedServer",
    scheduler_infos: Sequence[dict[str, Any]],
) -> "Recording":
    from dpace_serve.sglang_engine.recording import start_recording

    recording = start_recording(manager, config, served)
    for info in scheduler_infos:
        if info[REPORT]["revision"] != recording.revision:
            raise EngineError(
                f"the drafter must not change while the server starts: it has revision "
                f"{recording.revision}, a scheduler loaded {info[REPORT]['revision']}. Start again."
            )
    return recording


def _put_ours_before(
    app: "FastAPI",
    recording: "Recording | None",
    drain: Drain,
    launch_callback: Callable[[], None] | None,
) -> Callable[[], None] | None:
    """What SGLang is to call once it is ready."""
    from sglang.srt.runtime_context import get_serving

    from dpace_serve.sglang_engine import entrance
    from dpace_serve.sglang_engine.start_pass import StartPass

    if _asked:
        # Not as an argument of SGLang, which it would log.
        start_pass = StartPass(lambda key: get_serving().override(api_key=key))
        entrance.put_gate(app, recording, _asked[0].config, _asked[0].keys, start_pass, drain)
        return start_pass.before(launch_callback)
    if recording is not None:
        key = get_serving().api_key
        entrance.put_front(app, recording, [key] if key else [], read_admin_key(None, os.environ))
    return launch_callback
