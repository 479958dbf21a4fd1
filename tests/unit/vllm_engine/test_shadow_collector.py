"""Every ended request comes back once: with its drafts, or without them where they are lost."""

import asyncio
from types import SimpleNamespace

import pytest

from dpace_serve.vllm_engine import shadow_collector
from dpace_serve.vllm_engine.shadow_collector import EndedRequest, ShadowCollector


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(shadow_collector, "DELAY_SECONDS", 0.01)


def ended(key):
    return EndedRequest(SimpleNamespace(assignment=SimpleNamespace(key=key)), SimpleNamespace())


class Worker:
    """Hands out a draft for every key, and notes what it was asked for."""

    def __init__(self):
        self.calls = []

    async def take(self, keys):
        self.calls.append(keys)
        await asyncio.sleep(0)
        return {key: {1: [(key, [key])]} for key in keys}


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it never came")


async def test_requests_that_end_together_are_fetched_together():
    worker, settled = Worker(), {}
    collector = ShadowCollector(
        worker.take, lambda end, drafts: settled.update({end.request.assignment.key: drafts})
    )
    for key in range(5):
        collector.add(ended(key))
    await until(lambda: len(settled) == 5)
    assert worker.calls == [[0, 1, 2, 3, 4]]
    assert settled[3] == {1: [(3, [3])]}


async def test_a_request_that_ends_while_others_are_fetched_is_fetched_next():
    worker, settled = Worker(), []
    collector = ShadowCollector(
        worker.take, lambda end, _: settled.append(end.request.assignment.key)
    )
    for key in range(20):
        collector.add(ended(key))
        await asyncio.sleep(0.004)
    await until(lambda: len(settled) == 20)
    assert settled == list(range(20))
    assert [key for call in worker.calls for key in call] == list(range(20))
    assert 1 < len(worker.calls) < 20


async def test_one_call_asks_for_a_bounded_number(monkeypatch):
    monkeypatch.setattr(shadow_collector, "MAX_TAKEN", 3)
    worker, settled = Worker(), []
    collector = ShadowCollector(worker.take, lambda end, _: settled.append(end))
    for key in range(7):
        collector.add(ended(key))
    await until(lambda: len(settled) == 7)
    assert [len(call) for call in worker.calls] == [3, 3, 1]


async def test_a_broken_engine_loses_the_drafts_and_settles_all_the_same(caplog):
    async def broken(keys):
        raise RuntimeError("the engine is gone")

    settled = []
    collector = ShadowCollector(broken, lambda _, drafts: settled.append(drafts))
    collector.add(ended(1))
    collector.add(ended(2))
    await until(lambda: len(settled) == 2)
    assert settled == [{}, {}]
    assert "the engine is gone" in caplog.text


def keys_of(settled):
    return [key for key, _ in settled]


def collecting(take):
    """A collector, and what it settled: keys and drafts."""
    settled = []

    def settle(end, drafts):
        settled.append((end.request.assignment.key, drafts))

    return ShadowCollector(take, settle), settled


async def test_what_waits_at_the_end_is_fetched_at_once_while_the_engine_lives(monkeypatch):
    monkeypatch.setattr(shadow_collector, "DELAY_SECONDS", 60)
    worker = Worker()
    collector, settled = collecting(worker.take)
    collector.add(ended(1))
    collector.add(ended(2))
    await collector.aclose(5)
    assert settled == [(1, {1: [(1, [1])]}), (2, {1: [(2, [2])]})]
    assert worker.calls == [[1, 2]]


async def test_what_the_worker_does_not_hand_out_in_time_is_settled_without_drafts(monkeypatch):
    monkeypatch.setattr(shadow_collector, "MAX_TAKEN", 2)
    asked = []

    async def hang(keys):
        asked.append(keys)
        await asyncio.sleep(60)

    collector, settled = collecting(hang)
    for key in range(3):
        collector.add(ended(key))
    await until(lambda: asked)
    await collector.aclose(0.01)
    assert asked == [[0, 1]]
    assert settled == [(0, {}), (1, {}), (2, {})]


async def test_what_ends_after_the_end_is_settled_without_asking():
    worker = Worker()
    collector, settled = collecting(worker.take)
    await collector.aclose(5)
    collector.add(ended(1))
    assert settled == [(1, {})]
    await collector.aclose(5)
    assert keys_of(settled) == [1]
    assert worker.calls == []


async def test_each_request_is_settled_once_wherever_the_end_falls():
    for moment in range(12):
        worker = Worker()
        collector, settled = collecting(worker.take)
        for key in range(3):
            collector.add(ended(key))
        await asyncio.sleep(0.001 * moment)
        collector.add(ended(3))
        await collector.aclose(0 if moment % 2 else 5)
        collector.add(ended(4))
        assert sorted(keys_of(settled)) == [0, 1, 2, 3, 4]


async def test_an_end_while_requests_are_settled_settles_none_of_them_twice():
    """Settling may have anything done, even what ends the collector."""
    closings = []

    def settle(end, _):
        settled.append(end.request.assignment.key)
        if settled == [0]:
            closings.append(asyncio.ensure_future(collector.aclose(5)))

    settled = []
    collector = ShadowCollector(Worker().take, settle)
    for key in range(3):
        collector.add(ended(key))
    await until(lambda: closings)
    await closings[0]
    assert settled == [0, 1, 2]
