"""Entry points that vLLM loads by name; importing this file imports neither vllm nor torch."""

import os
from argparse import Namespace
from typing import TYPE_CHECKING

from dpace_serve.drafter.config_keys import SPECIALIST_ARCHITECTURE
from dpace_serve.errors import EngineError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.datastructures import State
    from vllm.engine.protocol import EngineClient

    from dpace_serve.serve_config import ServeConfig
    from dpace_serve.vllm_engine.recording import Recording

GENERAL_PLUGIN = "dpace"
ENDPOINT_PLUGIN = "dpace_http"
SUPPORTED_VERSION = "0.32."
# The engine puts its method's name before that of an architecture which does not begin with it.
SPECIALIST_ARCHITECTURES = (SPECIALIST_ARCHITECTURE, f"DFlash{SPECIALIST_ARCHITECTURE}")
SPECIALIST_MODEL = "dpace_serve.vllm_engine.drafter_model:SpecialistDraftForCausalLM"


def register() -> None:
    """Put our proposer and our changes of the engine into this process.

    vLLM calls this in the API server, the engine core and every worker; calling it again changes
    nothing. An error of it ends the process, which is what we want: vLLM would only log one that
    is raised while this module is imported.

    Raises:
        EngineError: If the installed vLLM is of another version.
    """
    import vllm

    require_version(vllm.__version__)
    from vllm import ModelRegistry
    from vllm.platforms import current_platform
    from vllm.v1.worker import gpu_model_runner

    from dpace_serve.vllm_engine import (
        cpu_drafter_weights,
        cpu_fixes,
        settlement,
        undrafted_steps,
    )
    from dpace_serve.vllm_engine.proposer import DpaceProposer

    for architecture in SPECIALIST_ARCHITECTURES:
        ModelRegistry.register_model(architecture, SPECIALIST_MODEL)
    # The runner builds its proposer, and recognises it, by this module-level name.
    gpu_model_runner.DFlashProposer = DpaceProposer
    cpu_fixes.apply()
    if current_platform.is_cpu():
        cpu_drafter_weights.install()
    undrafted_steps.install()
    # Only the recorder joins what the settlement splits: without it users would see the split.
    if ENDPOINT_PLUGIN in os.environ.get("VLLM_PLUGINS", "").split(","):
        settlement.install()


def is_registered() -> bool:
    """Whether the engine of this process would build our proposer."""
    from vllm.v1.worker import gpu_model_runner

    from dpace_serve.vllm_engine.proposer import DpaceProposer

    return gpu_model_runner.DFlashProposer is DpaceProposer


def require_version(version: str) -> None:
    """Check that the engine is one whose internals we know.

    Raises:
        EngineError: If it is not.
    """
    if not version.startswith(SUPPORTED_VERSION):
        raise EngineError(
            f"the serving plugin needs vLLM {SUPPORTED_VERSION}*, got {version}. Install that "
            f"version, or leave {GENERAL_PLUGIN} out of VLLM_PLUGINS."
        )


class AcceptanceEndpoint:
    """Adds `/dpace/*` and the `dpace_*` metrics to the engine's own HTTP application."""

    name = ENDPOINT_PLUGIN
    required_tasks = ("generate",)

    def attach_router(self, app: "FastAPI") -> None:
        """Add the routes, behind the engine's API key if it has one and behind the admin key.

        Raises:
            ConfigError: If the admin key cannot be used.
        """
        from dpace_serve.gate import api_document, stack
        from dpace_serve.live.admin_key import read_admin_key
        from dpace_serve.vllm_engine import graceful_stop, recording
        from dpace_serve.vllm_engine.api_keys import api_keys
        from dpace_serve.web import routes
        from dpace_serve.web.workload_header import WorkloadHeader

        args = app.state.args
        config: ServeConfig | None = getattr(args, "dpace_config", None)
        app.add_middleware(WorkloadHeader)
        if config is None:  # under vLLM's own commands its server is left as it is
            routes.attach(app, api_keys(args), read_admin_key(None, os.environ))
        else:
            keys = stack.server_keys(config, api_keys(args), os.environ)
            routes.attach(app, keys.api, keys.admin)
            api_document.attach(app, app, config, keys)
            app.state.dpace_drain = stack.install(app, config, keys, recording.refusal_count())
        graceful_stop.call_after_answers(app, _close_recording)

    async def init_state(
        self, engine_client: "EngineClient | None", state: "State", args: Namespace
    ) -> None:
        """Start recording finished requests.

        Args:
            engine_client: The engine; none in vLLM's render server, which generates nothing.
            state: The application's state; those named `dpace...` are ours.
            args: The server's arguments; `dpace_config` and `dpace_watch` are there under
                `dpace serve`.

        Raises:
            EngineError: If the general plugin did not load, so that the engine is not ours.
        """
        from vllm.exceptions import VLLMServerError, VLLMValidationError

        from dpace_serve.vllm_engine import unsatisfied_grammar

        if engine_client is not None and not is_registered():
            raise EngineError(
                f"the plugin {GENERAL_PLUGIN} must be loaded where {ENDPOINT_PLUGIN} is, but it "
                f"is not. Add {GENERAL_PLUGIN} to VLLM_PLUGINS, or see the log for its error."
            )
        config = getattr(args, "dpace_config", None)
        watch = getattr(args, "dpace_watch", None)
        record_until_the_end(engine_client, state, config, (VLLMServerError,))
        if engine_client is not None and config is not None:
            refusing = unsatisfied_grammar.refusing(engine_client.generate, VLLMValidationError)
            vars(engine_client)["generate"] = refusing
        drain_first(engine_client, state, config)
        # Last, so that it looks first: Ctrl-C ends the engine too, while shadows are still fetched.
        if engine_client is not None and watch is not None:
            watch.watch(engine_client)


def record_until_the_end(
    engine_client: "EngineClient | None",
    state: "State",
    config: "ServeConfig | None",
    failures: tuple[type[Exception], ...],
) -> None:
    """Start recording, for as long as answers come: also while the server stops.

    Args:
        engine_client: The engine; none generates nothing.
        state: Where the routes and the end of the application find the recording.
        config: What `dpace serve` was given; under vLLM's own commands there is none.
        failures: Errors of the engine itself.
    """
    from dpace_serve.vllm_engine import graceful_stop, recording

    recorded = recording.start_recording(engine_client, config, failures)
    if engine_client is not None and recorded is not None:
        graceful_stop.call_before_shutdown(
            engine_client, recorded.finish_shadows, timeout_seconds=2 * recording.FETCH_SECONDS
        )
    state.dpace_recording = recorded
    state.dpace = None if recorded is None else recorded.recorder
    state.dpace_operations = None if recorded is None else recorded.operations
    state.dpace_comparisons = None if recorded is None else recorded.comparisons


def drain_first(
    engine_client: "EngineClient | None", state: "State", config: "ServeConfig | None"
) -> None:
    """Let all answers end before the engine stops, and before shadows of theirs are fetched.

    Args:
        engine_client: The engine; none generates nothing.
        state: Where `attach_router` left the drain.
        config: What `dpace serve` was given; under vLLM's own commands there is none.
    """
    from dpace_serve.vllm_engine import graceful_stop

    if engine_client is not None and config is not None:
        graceful_stop.drain_before_shutdown(
            engine_client, state.dpace_drain, limit_seconds=config.shutdown_timeout_seconds
        )


async def _close_recording(app: "FastAPI") -> None:
    recorded: Recording | None = getattr(app.state, "dpace_recording", None)
    if recorded is not None:  # else nothing is drafted, or the server never became ready
        await recorded.aclose()
