"""Our lines in the server's log: written as the engine writes, on stderr, each once."""

import io
import logging
from types import SimpleNamespace

import pytest

from dpace_serve.vllm_engine.engine_log import write_as_the_engine


@pytest.fixture
def loggers(monkeypatch):
    """Our logger and the engine's, with handlers of their own for one test."""
    ours, theirs = logging.getLogger("dpace_serve"), logging.getLogger("vllm")
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(levelname)s [%(name)s] %(message)s"))
    for logger, handlers in ((ours, []), (theirs, [handler])):
        monkeypatch.setattr(logger, "handlers", handlers)
        monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(ours, "level", logging.INFO)
    return ours, theirs


def test_our_lines_have_the_engines_format_and_go_to_stderr_once(loggers, capsys, caplog):
    for _ in range(2):
        write_as_the_engine(SimpleNamespace(log_config_file=None))
    logging.getLogger("dpace_serve.live.operations").info("swap %s", "ok")
    assert capsys.readouterr().err == "INFO [dpace_serve.live.operations] swap ok\n"
    assert "swap ok" not in caplog.text  # nothing above us writes it once more


@pytest.mark.parametrize("case", ["own configuration", "no configuration"])
def test_where_the_engine_does_not_decide_nothing_is_changed(loggers, case):
    ours, theirs = loggers
    if case == "no configuration":
        theirs.handlers = []
    write_as_the_engine(
        SimpleNamespace(log_config_file="log.json" if case == "own configuration" else None)
    )
    assert (ours.handlers, ours.propagate) == ([], True)
