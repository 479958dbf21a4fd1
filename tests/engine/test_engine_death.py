"""What `dpace serve` says when the server ended by itself, with a scripted server and engine."""

import asyncio
from types import SimpleNamespace

import pytest

from dpace_serve.errors import EngineError
from dpace_serve.vllm_engine import plugin, server

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def run_with(monkeypatch):
    """Run the server with an engine that has died or not when the server ends."""
    from vllm import logger
    from vllm.entrypoints.serve.utils import api_utils

    def run(*, is_dead):
        engine = SimpleNamespace(
            errored=False, vllm_config=SimpleNamespace(speculative_config=None)
        )
        engine.shutdown = lambda timeout=None: setattr(engine, "errored", True)

        async def run_server(args):
            await plugin.AcceptanceEndpoint().init_state(engine, SimpleNamespace(), args)
            await asyncio.sleep(0)
            engine.errored = is_dead
            engine.shutdown(timeout=1)
            engine.shutdown(timeout=1)

        monkeypatch.setattr(server, "run_server", run_server)
        monkeypatch.setattr(logger, "configure_logging_from_args", lambda args: None)
        monkeypatch.setattr(api_utils, "cli_env_setup", lambda: None)
        server._run(SimpleNamespace(log_config_file=None))

    return run


def test_an_engine_that_died_is_an_error(run_with):
    with pytest.raises(EngineError, match="the engine died while serving"):
        run_with(is_dead=True)


def test_an_engine_that_was_stopped_is_none(run_with):
    run_with(is_dead=False)
