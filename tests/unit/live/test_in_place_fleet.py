"""One drafter that is written over: who is inside, who waits, and who drafted for whom."""

import asyncio
import shutil
from dataclasses import replace
from http import HTTPStatus

import pytest

from dpace_serve.demo.bundle import drafter_folder, target_folder
from dpace_serve.errors import SwapError
from dpace_serve.live.admission import Admission, DrafterRequest, describe
from dpace_serve.live.arrival_gate import ArrivalGate
from dpace_serve.live.hosted import Role
from dpace_serve.live.in_place_fleet import InPlaceFleet
from dpace_serve.live.operations import Operations
from dpace_serve.live.traffic import Traffic

TRAFFIC = Traffic(mode="shadow", share=0.1, shadow_share=1.0, draw_salt="the-salt-of-draws")


def fleet(gate=None, *, can_load=True):
    champion = describe(drafter_folder("dflash"))
    return InPlaceFleet(champion, gate or ArrivalGate(), can_load=can_load, traffic=TRAFFIC)


class NotedGate(ArrivalGate):
    """Says when it is shut."""

    def __init__(self):
        super().__init__()
        self.was_shut = asyncio.Event()

    def shut(self):
        super().shut()
        self.was_shut.set()


class FakeEngine:
    """Notes who was inside when weights were written."""

    def __init__(self, gate, error=None):
        self.gate, self.error = gate, error
        self.loaded = []

    async def load(self, slot, folder, revision):
        self.loaded.append((slot, folder.name, revision, self.gate.num_inside))
        if self.error is not None:
            raise self.error
        return 0.25


class Server:
    def __init__(self, root, *, error=None, drain_timeout_seconds=5.0):
        self.gate, self.results = NotedGate(), []
        self.fleet = fleet(self.gate)
        self.engine = FakeEngine(self.gate, error)
        layers = describe(drafter_folder("dflash")).config.target_layer_ids
        self.operations = Operations(
            self.fleet,
            self.engine,
            Admission(str(target_folder()), root, 7, layers),
            drain_timeout_seconds=drain_timeout_seconds,
            on_result=self._note,
        )

    def _note(self, operation, result):
        self.results.append((operation, result))

    async def answer(self, may_end=None):
        """Run a request; the name of its drafter at its end must be that at its start."""
        await self.gate.enter()
        try:
            assignment = self.fleet.assign("r", wanted=None, may_shadow=True)
            if may_end is not None:
                await may_end.wait()
            assert self.fleet.champion == assignment.serving.drafter
            assert assignment.shadows == ()
            self.fleet.release(assignment)
            return assignment.serving.drafter.name
        finally:
            self.gate.leave()


@pytest.fixture
def root(tmp_path):
    for name in ("dflash", "dpace"):
        shutil.copytree(drafter_folder(name), tmp_path / name)
    return tmp_path


async def test_a_swap_waits_for_those_inside_and_keeps_the_next_ones_out(root):
    server, may_end = Server(root), asyncio.Event()
    running = asyncio.create_task(server.answer(may_end))
    await asyncio.sleep(0)
    swap = asyncio.create_task(server.operations.swap(DrafterRequest(folder="dpace")))
    await server.gate.was_shut.wait()
    waiting = asyncio.create_task(server.answer())
    await asyncio.sleep(0)
    assert (server.gate.num_inside, server.engine.loaded) == (1, [])
    may_end.set()
    answer = await swap
    assert (await running, await waiting) == ("dflash", "dpace")
    assert answer["former_champion"]["name"] == "dflash"
    assert answer["seconds"]["load"] == 0.25
    revision = describe(drafter_folder("dpace")).revision
    assert server.engine.loaded == [(0, "dpace", revision, 0)]


async def test_a_load_that_fails_leaves_the_former_drafter_and_an_open_gate(root):
    server = Server(root, error=SwapError("no", status=HTTPStatus.UNPROCESSABLE_ENTITY))
    with pytest.raises(SwapError):
        await server.operations.swap(DrafterRequest(folder="dpace"))
    assert server.results == [("swap", "failed")]
    assert await server.answer() == "dflash"


async def test_after_a_load_that_failed_the_former_drafter_is_loaded_again(root):
    """The engine may hold the new one: the time was up, say, and the load came through later."""
    server = Server(root, error=SwapError("too late", status=HTTPStatus.GATEWAY_TIMEOUT))
    with pytest.raises(SwapError):
        await server.operations.swap(DrafterRequest(folder="dpace"))
    server.engine.error = None
    await server.operations.swap(DrafterRequest(folder="dflash"))
    assert [name for _, name, *_ in server.engine.loaded] == ["dpace", "dflash"]
    await server.operations.swap(DrafterRequest(folder="dflash"))
    assert len(server.engine.loaded) == 2  # now it is known to be there


async def test_a_request_that_does_not_end_refuses_the_swap_and_holds_nobody_up(root):
    server, may_end = Server(root, drain_timeout_seconds=0.1), asyncio.Event()
    running = asyncio.create_task(server.answer(may_end))
    await asyncio.sleep(0)
    with pytest.raises(SwapError, match="1 requests have not ended") as refusal:
        await server.operations.swap(DrafterRequest(folder="dpace"))
    assert refusal.value.status == HTTPStatus.CONFLICT
    assert server.results == [("swap", "busy")]
    assert await server.answer() == "dflash"
    may_end.set()
    assert await running == "dflash"
    assert server.engine.loaded == []


async def test_a_second_operation_that_is_refused_lets_nobody_in(root):
    server, may_end = Server(root), asyncio.Event()
    running = asyncio.create_task(server.answer(may_end))
    await asyncio.sleep(0)
    swap = asyncio.create_task(server.operations.swap(DrafterRequest(folder="dpace")))
    await server.gate.was_shut.wait()
    with pytest.raises(SwapError):
        await server.operations.swap(DrafterRequest(folder="dflash"))
    server.operations.unauthorized("swap")
    waiting = asyncio.create_task(server.answer())
    await asyncio.sleep(0)
    assert server.gate.num_inside == 1
    may_end.set()
    await swap
    assert (await running, await waiting) == ("dflash", "dpace")


async def test_going_back_loads_again_because_nothing_of_the_former_one_is_left(root):
    server = Server(root)
    await server.operations.swap(DrafterRequest(folder="dpace"))
    await server.operations.swap(DrafterRequest(folder="dflash"))
    assert [name for _, name, _, _ in server.engine.loaded] == ["dpace", "dflash"]
    drafters = server.operations.drafters(shows_salt=False)["drafters"]
    assert [(one["role"], one["name"]) for one in drafters] == [("champion", "dflash")]


async def test_the_drafter_that_is_there_is_not_loaded_again(root):
    server = Server(root)
    await server.operations.swap(DrafterRequest(folder="dflash"))
    assert server.engine.loaded == []
    assert server.results == [("swap", "ok")]


async def test_a_challenger_has_no_place(root):
    server = Server(root)
    with pytest.raises(SwapError, match="hosts one drafter") as refusal:
        await server.operations.challenge(DrafterRequest(folder="dpace"))
    assert refusal.value.status == HTTPStatus.FORBIDDEN
    with pytest.raises(SwapError):
        await server.operations.promote(None)
    assert await server.answer() == "dflash"


def test_another_shape_is_refused_before_anybody_has_to_wait():
    gate = ArrivalGate()
    config = replace(describe(drafter_folder("dpace")).config, num_hidden_layers=3)
    with pytest.raises(SwapError, match="num_hidden_layers 3 instead of 2"):
        fleet(gate).reserve(config)
    entering = gate.enter()
    with pytest.raises(StopIteration):  # it does not wait
        entering.send(None)
    assert gate.num_inside == 1


def test_it_has_no_room_for_a_second_role():
    with pytest.raises(SwapError):
        fleet().require_share_for(Role.CHALLENGER)


async def test_a_waiter_does_not_slip_through_a_gate_that_was_shut_again():
    gate = ArrivalGate()
    gate.shut()
    waiter = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    gate.reopen()
    gate.shut()
    await asyncio.sleep(0.01)
    assert gate.num_inside == 0
    gate.reopen()
    await waiter
    assert gate.num_inside == 1
