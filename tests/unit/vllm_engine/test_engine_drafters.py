"""Calls to the workers about their drafters, with a scripted engine."""

import asyncio
from pathlib import Path

import pytest

from dpace_serve.errors import SwapError
from dpace_serve.vllm_engine.engine_drafters import EngineDrafters


class Engine:
    def __init__(self, answers, *, hangs=False):
        self.answers, self.hangs, self.calls = answers, hangs, []

    async def collective_rpc(self, method, args=()):
        self.calls.append((method, *args))
        if self.hangs:
            await asyncio.Event().wait()
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers


def load(engine, *, timeout_seconds=5):
    return EngineDrafters(engine, load_timeout_seconds=timeout_seconds).load(
        1, Path("/d/new"), "31de"
    )


async def test_every_worker_is_told_slot_folder_and_revision():
    engine = Engine([(0.1, ""), (0.2, "")])
    await load(engine)
    assert engine.calls == [("dpace_load_drafter", 1, "/d/new", "31de")]


async def test_what_one_worker_says_against_it_refuses_it():
    with pytest.raises(SwapError, match="no numbers") as caught:
        await load(Engine([(0.1, ""), (0.2, "no numbers.")]))
    assert caught.value.status == 422


async def test_an_error_of_the_engine_is_one_of_the_server():
    with pytest.raises(SwapError, match="out of memory") as caught:
        await load(Engine(RuntimeError("out of memory")))
    assert caught.value.status == 500


async def test_a_worker_that_hangs_is_waited_for_no_longer_than_it_may():
    async with asyncio.timeout(5):
        with pytest.raises(SwapError, match=r"within 0\.05 s") as caught:
            await load(Engine([], hangs=True), timeout_seconds=0.05)
    assert caught.value.status == 504
    assert "load_timeout_seconds" in str(caught.value)
