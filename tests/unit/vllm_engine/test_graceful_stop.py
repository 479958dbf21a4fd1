"""A server that stops: answers that are drained leave their records, and files close last."""

import asyncio
import json
from functools import partial
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from dpace_serve.demo import bundle
from dpace_serve.serve_config import AcceptanceLogConfig, CaptureConfig, ServeConfig
from dpace_serve.vllm_engine import graceful_stop, plugin, shadow_collector
from dpace_serve.vllm_engine import recording as recording_module
from tests.unit.vllm_engine.slow_engine import ANSWER, SlowEngine, ask


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(recording_module, "REGISTRY", CollectorRegistry())
    return SlowEngine()


@pytest.fixture
def serve(engine, tmp_path):
    """An application around the engine, as the plugin sets it up, and its recording."""

    def start(**settings):
        config = ServeConfig(
            target=str(bundle.target_folder()),
            drafter=bundle.drafter_folder("dpace"),
            acceptance_log=AcceptanceLogConfig(path=tmp_path / "log.jsonl"),
            capture=CaptureConfig(folder=tmp_path / "capture", workloads=("other",)),
            **settings,
        )
        app = FastAPI()
        app.state.args = SimpleNamespace(dpace_config=config, api_key=None)
        plugin.AcceptanceEndpoint().attach_router(app)
        plugin.record_until_the_end(engine, app.state, config, ())
        return app

    return start


async def shut_down(engine):
    """As vLLM does at SIGTERM: in a thread, while the event loop goes on."""
    await asyncio.get_running_loop().run_in_executor(None, partial(engine.shutdown, timeout=30))


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    pytest.fail("it never came")


async def stop_while_it_answers(engine, request_id):
    """A request whose answer comes after the engine was told to stop."""
    engine.may_answer.clear()
    answer = asyncio.create_task(ask(engine, request_id))
    await until(lambda: engine.num_running == 1)
    stop = asyncio.create_task(shut_down(engine))
    await until(engine.is_stopping.is_set)
    engine.may_answer.set()
    await asyncio.gather(stop, answer)


def logged(tmp_path):
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    return [(row["request_id"], row["arm"], row["excluded"], row["accepted"]) for row in rows]


def captured(tmp_path):
    lines = [
        line for file in (tmp_path / "capture").iterdir() for line in file.read_text().splitlines()
    ]
    return [json.loads(line)["output_token_ids"] for line in lines]


def losses(app):
    return sum(app.state.dpace.snapshot(0)["export_errors"].values())


async def test_an_answer_that_is_drained_leaves_its_record_and_its_tokens(engine, serve, tmp_path):
    app = serve()
    async with app.router.lifespan_context(app):
        await stop_while_it_answers(engine, "drained")
    assert logged(tmp_path) == [("drained", "champion", None, 4)]
    assert captured(tmp_path) == [ANSWER]
    assert losses(app) == 0


async def test_shadows_of_ended_requests_are_fetched_first_and_drained_ones_are_lost(
    engine, serve, tmp_path
):
    app = serve(challengers=(bundle.drafter_folder("dflash"),))
    async with app.router.lifespan_context(app):
        engine.may_answer.set()
        await ask(engine, "ended")
        await stop_while_it_answers(engine, "drained")
    assert engine.events == ["drafts", "shutdown"]
    assert logged(tmp_path) == [
        ("ended", "champion", None, 4),
        ("ended", "shadow", None, 2),
        ("drained", "champion", None, 4),
        ("drained", "shadow", "no_shadow", 0),
    ]
    assert losses(app) == 0
    slots = app.state.dpace_operations.drafters(shows_salt=False)["drafters"]
    assert [slot["running"] for slot in slots] == [0, 0]


async def test_a_client_that_takes_its_last_output_late_is_recorded_too(engine, serve, tmp_path):
    engine.shutdown = lambda timeout=None: None  # the engine is done; the answer is on its way
    app = serve()
    engine.may_answer.set()
    async with app.router.lifespan_context(app):
        await shut_down(engine)
        engine.shutdown()  # vLLM's second call, from the loop's own thread
        await ask(engine, "late")
    assert logged(tmp_path) == [("late", "champion", None, 4)]
    assert captured(tmp_path) == [ANSWER]
    assert losses(app) == 0


async def test_after_the_engines_death_the_shadows_are_lost_and_the_rest_is_kept(
    engine, serve, tmp_path
):
    app = serve(challengers=(bundle.drafter_folder("dflash"),))
    async with app.router.lifespan_context(app):
        engine.may_answer.set()
        await ask(engine, "last")
        engine.is_stopping.set()
    engine.shutdown()
    assert logged(tmp_path) == [
        ("last", "champion", None, 4),
        ("last", "shadow", "no_shadow", 0),
    ]


async def test_a_worker_that_hangs_holds_a_stop_up_for_a_moment_only(
    engine, serve, tmp_path, monkeypatch
):
    async def hang(method, args):
        await asyncio.sleep(60)

    engine.collective_rpc = hang
    monkeypatch.setattr(recording_module, "FETCH_SECONDS", 0.05)
    monkeypatch.setattr(shadow_collector, "DELAY_SECONDS", 0)
    app = serve(challengers=(bundle.drafter_folder("dflash"),))
    async with app.router.lifespan_context(app):
        engine.may_answer.set()
        await ask(engine, "ended")
        await asyncio.wait_for(shut_down(engine), 5)
    assert logged(tmp_path) == [
        ("ended", "champion", None, 4),
        ("ended", "shadow", "no_shadow", 0),
    ]


async def test_the_engine_is_shut_down_whatever_happens_before(caplog):
    stops = []
    engine = SimpleNamespace(shutdown=lambda timeout=None: stops.append(timeout))

    async def fail():
        raise RuntimeError("nothing works")

    graceful_stop.call_before_shutdown(engine, fail, timeout_seconds=1)
    await shut_down(engine)
    await shut_down(engine)
    assert stops == [30, 30]
    assert caplog.text.count("may be lost") == 1


async def test_on_the_loops_own_thread_nothing_is_waited_for():
    calls = []
    engine = SimpleNamespace(shutdown=lambda timeout=None: calls.append("shutdown"))

    async def finish():
        calls.append("finish")

    graceful_stop.call_before_shutdown(engine, finish, timeout_seconds=60)
    engine.shutdown()
    assert calls == ["shutdown"]
