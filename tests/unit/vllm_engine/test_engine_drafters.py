"""Calls to the workers about their drafters, with a scripted engine."""

import asyncio
import struct
from pathlib import Path

import pytest

from dpace_serve.errors import SwapError
from dpace_serve.vllm_engine.engine_drafters import EngineDrafters


class Engine:
    """Two workers that answer in turn what is scripted; a method that hangs never answers."""

    def __init__(self, answers, *, verdicts=(["", ""],), hangs_in=None):
        self.answers, self.verdicts = answers, iter(verdicts)
        self.hangs_in, self.calls = hangs_in, []

    async def collective_rpc(self, method, args=()):
        self.calls.append((method, *args))
        if method == self.hangs_in:
            await asyncio.Event().wait()
        if method == "dpace_open_drafter":
            return [None, None]
        if method == "dpace_drafter_verdict":
            return next(self.verdicts)
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers


def load(engine, *, timeout_seconds=5):
    return EngineDrafters(engine, load_timeout_seconds=timeout_seconds).load(
        1, Path("/d/new"), "31de"
    )


async def test_a_drafter_is_opened_and_loaded_once_every_worker_has_checked_it():
    engine = Engine([(0.1, ""), (0.2, "")], verdicts=[[None, None], ["", None], ["", ""]])
    assert await load(engine) == 0.2  # the engine stands still as long as its slowest worker
    assert engine.calls == [
        ("dpace_open_drafter", "/d/new", "31de"),
        *[("dpace_drafter_verdict",)] * 3,
        ("dpace_load_drafter", 1, "/d/new", "31de"),
    ]


async def test_what_a_worker_finds_in_the_files_refuses_them_before_the_engine_stops():
    engine = Engine([], verdicts=[["", "the revision must be 31de."]])
    with pytest.raises(SwapError, match="revision must be 31de") as caught:
        await load(engine)
    assert caught.value.status == 422
    assert "dpace_load_drafter" not in [method for method, *_ in engine.calls]


async def test_what_one_worker_says_against_it_refuses_it():
    with pytest.raises(SwapError, match="no numbers") as caught:
        await load(Engine([(0.1, ""), (0.2, "no numbers.")]))
    assert caught.value.status == 422


async def test_an_error_of_the_engine_is_one_of_the_server():
    with pytest.raises(SwapError, match="out of memory") as caught:
        await load(Engine(RuntimeError("out of memory")))
    assert caught.value.status == 500


@pytest.mark.parametrize(
    "method", ["dpace_open_drafter", "dpace_drafter_verdict", "dpace_load_drafter"]
)
async def test_a_worker_that_hangs_is_waited_for_no_longer_than_it_may(method):
    async with asyncio.timeout(5):
        with pytest.raises(SwapError, match=r"within 0\.05 s") as caught:
            await load(Engine([], hangs_in=method), timeout_seconds=0.05)
    assert caught.value.status == 504
    assert "load_timeout_seconds" in str(caught.value)


async def test_what_is_left_of_long_drafts_is_asked_for_again():
    """Numbers of 4 bytes: position, length, and as many tokens. One worker speaks for all."""
    first = {1: {1: struct.pack("=4i", 10, 2, 5, 6)}, 2: {}}
    second = {3: {2: struct.pack("=5i", 7, 0, 8, 1, 9)}}
    answers = iter([[(first, [3]), None], [(second, []), None]])
    asked = []

    class Worker:
        async def collective_rpc(self, method, args=()):
            asked.append((method, *args))
            return next(answers)

    drafters = EngineDrafters(Worker(), load_timeout_seconds=5)
    assert await drafters.take([1, 2, 3, 4]) == {
        1: {1: [(10, [5, 6])]},
        2: {},
        3: {2: [(7, []), (8, [9])]},
    }
    assert asked == [("dpace_take_drafts", [1, 2, 3, 4]), ("dpace_take_drafts", [3])]
