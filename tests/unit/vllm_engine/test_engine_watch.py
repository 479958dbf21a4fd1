"""How a server ended: stopped by a signal, or because its engine died."""

from types import SimpleNamespace

import pytest

from dpace_serve.vllm_engine.engine_watch import EngineWatch


@pytest.mark.parametrize("is_dead", [False, True])
def test_only_an_engine_that_was_dead_before_it_was_shut_down_has_died(is_dead):
    engine = SimpleNamespace(errored=is_dead)
    stops = []

    def shutdown(timeout=None):
        stops.append(timeout)
        engine.errored = True  # as the engine does

    engine.shutdown = shutdown
    watch = EngineWatch()
    watch.watch(engine)
    engine.shutdown(timeout=3)
    engine.shutdown(timeout=4)  # the server does it once more when it ends
    assert watch.has_died is is_dead
    assert stops == [3, 4]
