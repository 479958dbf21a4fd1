"""A server that stops: answers that are drained leave their records, and files close last."""

import asyncio
import json
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from dpace_serve.demo import bundle
from dpace_serve.serve_config import AcceptanceLogConfig, CaptureConfig, ServeConfig
from dpace_serve.vllm_engine import graceful_stop, plugin, shadow_collector
from dpace_serve.vllm_engine import recording as recording_module

PROMPT = [1, 2, 3]
# The first token comes with the prompt, the step accepts 4 of 7 and adds a bonus token.
ANSWER = [9, 11, 12, 13, 14, 15]
SHADOW_DRAFTS = [(3, [11, 12, 0, 0, 0, 0, 0])]  # after token 9, at position 3: 2 accepted


class Engine:
    """Answers when it is let; takes calls until it is shut down, which waits for its answers."""

    def __init__(self):
        self.vllm_config = SimpleNamespace(
            speculative_config=SimpleNamespace(
                method="dflash", model=str(bundle.drafter_folder("dpace")), num_speculative_tokens=7
            ),
            model_config=SimpleNamespace(
                model=str(bundle.target_folder()), served_model_name="tiny"
            ),
        )
        self.logger_manager = None
        self.errored = False
        self.is_stopping = threading.Event()
        self.may_answer = asyncio.Event()
        self.num_running = 0
        self.events = []

    async def generate(self, prompt, sampling_params, request_id):
        self.num_running += 1
        try:
            await self.may_answer.wait()
            counts = SimpleNamespace(
                histogram=[0] * 4 + [1], per_step_accepted=[4], per_step_drafted=[7]
            )
            answer = SimpleNamespace(
                finish_reason="length",
                stop_reason=None,
                spec_decode_metrics=counts,
                token_ids=list(ANSWER),
            )
            yield SimpleNamespace(
                request_id=request_id, finished=True, outputs=[answer], prompt_token_ids=PROMPT
            )
        finally:
            self.num_running -= 1

    async def collective_rpc(self, method, args):
        assert method == "dpace_take_drafts"
        await asyncio.sleep(0)
        if self.is_stopping.is_set():
            raise RuntimeError("Server shutting down")
        self.events.append("drafts")
        return [{key: {1: SHADOW_DRAFTS} for key in args[0]}]

    def shutdown(self, timeout=None):
        self.events.append("shutdown")
        self.is_stopping.set()
        while self.num_running:  # what waits for the engine core's process
            time.sleep(0.005)


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(recording_module, "REGISTRY", CollectorRegistry())
    return Engine()


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


def params():
    return SimpleNamespace(
        n=1,
        extra_args={},
        output_kind=SimpleNamespace(name="FINAL_ONLY"),
        structured_outputs=None,
        logprob_token_ids=None,
        temperature=0.0,
    )


async def ask(engine, request_id):
    prompt = {"type": "token", "prompt_token_ids": PROMPT}
    async for _ in engine.generate(prompt, params(), request_id):
        pass


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
