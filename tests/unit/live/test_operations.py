"""Swap, challenge, promote and drop, with a scripted engine in place of the one that loads."""

import asyncio
import gc
import json
import logging
import shutil
from http import HTTPStatus

import pytest

from dpace_serve.errors import SwapError
from dpace_serve.live.admission import DrafterRequest, describe
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.hosted import Role
from dpace_serve.live.operations import Operations
from dpace_serve.live.traffic import Traffic


class FakeEngine:
    """Loads what it is told, when it is told."""

    def __init__(self):
        self.loaded = []
        self.revisions = []
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error = None
        self.while_loading = lambda: None

    async def load(self, slot, folder, revision):
        self.has_begun.set()
        await self.may_end.wait()
        self.while_loading()
        if self.error is not None:
            raise self.error
        self.loaded.append((slot, folder.name))
        self.revisions.append(revision)
        return 0.25


class Clock:
    """Moves by a second whenever somebody looks."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        self.seconds += 1.0
        return self.seconds


class Served:
    """Operations on a fleet whose champion is the bundled dflash, and all they reported."""

    def __init__(self, admission, root, *, spare=1, drain=60.0, mode="shadow"):
        shutil.copytree(root / "dflash", root.parent / "first")
        traffic = Traffic(mode=mode, share=0.6, shadow_share=1.0, draw_salt="a salt")
        first = describe(root.parent / "first")
        self.fleet = Fleet(first, [], num_spare_slots=spare, traffic=traffic)
        self.engine = FakeEngine()
        self.results = []
        self.has_ended = asyncio.Event()
        self.operations = Operations(
            self.fleet,
            self.engine,
            admission,
            drain_timeout_seconds=drain,
            on_result=self._end,
            clock=Clock(),
        )

    def _end(self, *result):
        self.results.append(result)
        self.has_ended.set()

    def rows(self):
        return [(row["role"], row["name"]) for row in self.fleet.drafters()["drafters"]]

    async def swap(self, folder, **more):
        return await self.operations.swap(DrafterRequest(folder=folder, **more))

    async def challenge(self, folder, **more):
        return await self.operations.challenge(DrafterRequest(folder=folder, **more))


@pytest.fixture
def served(admission, root):
    return Served(admission, root)


def retrain(folder):
    """Give a drafter another revision, of the same shape."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["dpace"] = {"objective": "decay"}
    file.write_text(json.dumps(config))


async def refusal(awaitable):
    with pytest.raises(SwapError) as caught:
        await awaitable
    return caught.value


async def test_a_swap_loads_the_drafter_and_lets_it_serve(served, root, caplog):
    with caplog.at_level(logging.INFO):
        answer = await served.swap("dpace")
    assert served.engine.loaded == [(1, "dpace")]
    assert served.engine.revisions == [describe(root / "dpace").revision]
    assert served.rows() == [("retired", "first"), ("champion", "dpace")]
    revisions = {name: describe(root / name).revision for name in ("dpace", "dflash")}
    assert answer == {
        "operation": "swap",
        "drafter": {"name": "dpace", "revision": revisions["dpace"]},
        "slot": 1,
        "seconds": {"load": 0.25, "total": 2.0},  # the clock was looked at three times
        "former_champion": {"name": "first", "revision": revisions["dflash"]},
    }
    assert served.results == [("swap", "ok")]
    lines = [record.getMessage() for record in caplog.records if "swap" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith(f"swap ok (dpace): dpace (revision {revisions['dpace']}) after")


async def test_each_line_of_the_log_names_what_was_asked_for(served, caplog):
    with caplog.at_level(logging.INFO):
        await refusal(served.swap("absent"))
        await refusal(served.operations.promote(None))
        await refusal(served.operations.drop("b"))
    starts = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert starts == [
        "swap refused (absent)",
        "promote refused (the only challenger)",
        "drop refused (b)",
    ]


async def test_what_is_asked_without_the_admin_key_is_counted_and_logged(served, caplog):
    served.operations.unauthorized("promote")
    assert served.results == [("promote", "unauthorized")]
    assert "promote unauthorized" in caplog.text


async def test_going_back_to_a_drafter_that_is_still_loaded_loads_nothing(served):
    await served.swap("dpace")
    shutil.copytree(served.fleet.drafter_in(0).folder, served.operations._admission.root / "first")
    answer = await served.swap("first")
    assert served.engine.loaded == [(1, "dpace")]
    assert served.rows() == [("champion", "first"), ("retired", "dpace")]
    assert answer["seconds"]["load"] == 0
    assert answer["former_champion"]["name"] == "dpace"


async def test_the_same_swap_again_changes_nothing(served):
    await served.swap("dpace")
    answer = await served.swap("dpace")
    assert answer["former_champion"] is None
    assert served.rows() == [("retired", "first"), ("champion", "dpace")]
    assert len(served.engine.loaded) == 1


async def test_a_challenger_is_loaded_promoted_and_the_former_champion_dropped_back(served):
    answer = await served.challenge("dpace")
    assert (answer["operation"], answer["former_champion"]) == ("challenge", None)
    assert served.rows() == [("champion", "first"), ("challenger", "dpace")]
    answer = await served.operations.promote(None)
    assert (answer["drafter"]["name"], answer["slot"]) == ("dpace", 1)
    assert answer["former_champion"]["name"] == "first"
    assert served.rows() == [("retired", "first"), ("champion", "dpace")]
    await served.challenge("dflash")
    await served.operations.drop("dflash")
    assert served.rows() == [("retired", "dflash"), ("champion", "dpace")]
    assert [name for name, _ in served.results] == [
        "challenge",
        "promote",
        "challenge",
        "drop",
    ]


async def test_a_swap_to_the_challenger_promotes_it(served):
    await served.challenge("dpace")
    await served.swap("dpace")
    assert served.rows() == [("retired", "first"), ("champion", "dpace")]
    assert len(served.engine.loaded) == 1


async def test_a_second_operation_is_refused_while_one_runs(served):
    served.engine.may_end.clear()
    first = asyncio.create_task(served.swap("dpace"))
    await served.engine.has_begun.wait()
    error = await refusal(served.challenge("dflash"))
    assert error.status == 409
    assert (await refusal(served.operations.promote(None))).status == 409
    assert served.results == [("challenge", "busy"), ("promote", "busy")]
    served.engine.may_end.set()
    await first
    assert served.rows() == [("retired", "first"), ("champion", "dpace")]
    await served.challenge("dflash")


async def test_of_two_at_the_same_moment_one_wins(served):
    both = await asyncio.gather(served.swap("dpace"), served.swap("dflash"), return_exceptions=True)
    assert [getattr(one, "status", "ok") for one in both] == ["ok", 409]
    assert served.fleet.champion.name == "dpace"


async def test_a_client_that_leaves_does_not_stop_the_swap(served):
    served.engine.may_end.clear()
    leaving = asyncio.create_task(served.swap("dpace"))
    await served.engine.has_begun.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    served.engine.may_end.set()
    await served.has_ended.wait()
    assert served.results == [("swap", "ok")]
    assert served.rows() == [("retired", "first"), ("champion", "dpace")]


async def test_a_client_that_leaves_before_a_failure_leaves_no_reserved_slot(served):
    served.engine.may_end.clear()
    served.engine.error = SwapError("no memory.", status=HTTPStatus.INTERNAL_SERVER_ERROR)
    leaving = asyncio.create_task(served.swap("dpace"))
    await served.engine.has_begun.wait()
    leaving.cancel()
    served.engine.may_end.set()
    await served.has_ended.wait()
    assert served.results == [("swap", "failed")]
    assert served.rows() == [("champion", "first"), ("empty", None)]
    assert not served.fleet.drafters()["drafters"][1]["is_loading"]
    served.engine.error = None
    await served.swap("dpace")


async def test_a_failure_that_nobody_waits_for_is_logged_once(served, caplog):
    unseen = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    served.engine.may_end.clear()
    served.engine.error = RuntimeError("the worker is gone")
    leaving = asyncio.create_task(served.swap("dpace"))
    await served.engine.has_begun.wait()
    leaving.cancel()
    served.engine.may_end.set()
    await served.has_ended.wait()
    served.operations._current = None
    await asyncio.sleep(0)  # lets the loop forget the task as well
    gc.collect()
    assert unseen == []
    assert caplog.text.count("swap failed") == 1


async def test_a_failing_engine_leaves_everything_as_it_was(served, root):
    before = served.fleet.drafters()
    folder = (root / "dpace").resolve()
    served.engine.error = SwapError(f"{folder}: out of memory.", status=HTTPStatus.CONFLICT)
    error = await refusal(served.swap("dpace"))
    assert str(error) == "dpace: out of memory."  # only the path that was given
    assert served.fleet.drafters() == before
    assert served.results == [("swap", "failed")]


async def test_an_engine_that_breaks_is_reported_too(served, caplog):
    before = served.fleet.drafters()
    served.engine.error = RuntimeError("the worker is gone")
    with pytest.raises(RuntimeError, match="the worker is gone"):
        await served.swap("dpace")
    assert served.fleet.drafters() == before
    assert served.results == [("swap", "failed")]
    assert "swap failed" in caplog.text


async def test_a_folder_that_changes_while_it_is_loaded_is_refused(served, root):
    def overwrite():
        shutil.copy(root / "dflash" / "model.safetensors", root / "dpace" / "model.safetensors")

    before = served.fleet.drafters()
    served.engine.while_loading = overwrite
    error = await refusal(served.swap("dpace"))
    assert error.status == 422
    assert served.fleet.drafters() == before
    assert served.results == [("swap", "refused")]


@pytest.mark.parametrize("change", ["a link out of the root", "a pickle", "other weights", "gone"])
async def test_a_folder_that_changes_while_a_slot_drains_never_reaches_the_engine(
    served, root, change
):
    running = served.fleet.assign("r1", wanted=None, may_shadow=True)
    await served.swap("dpace")
    before = served.rows()
    waiting = asyncio.create_task(served.swap("dflash"))
    await asyncio.sleep(0.3)
    if change == "a pickle":
        (root / "dflash" / "model.bin").write_bytes(b"x")
    elif change == "other weights":
        shutil.copy(root / "dpace" / "model.safetensors", root / "dflash" / "model.safetensors")
    else:
        (root / "dflash").rename(root.parent / "outside")  # the same files, elsewhere
    if change == "a link out of the root":
        (root / "dflash").symlink_to(root.parent / "outside")
    served.fleet.release(running)
    error = await refusal(waiting)
    assert error.status == 422
    assert "must not change" in str(error)
    assert str(root.parent) not in str(error)
    assert served.engine.loaded == [(1, "dpace")]
    assert served.rows() == [("empty", None), *before[1:]]


async def test_a_swap_waits_for_the_requests_of_the_slot_that_it_needs(served):
    running = served.fleet.assign("r1", wanted=None, may_shadow=True)
    await served.swap("dpace")
    waiting = asyncio.create_task(served.swap("dflash"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    assert served.rows()[0] == ("retired", "first")
    assert served.operations.drafters(shows_salt=False) == served.fleet.drafters() | {
        "draw_salt": None,
        "operation": {"name": "swap", "drafter": "dflash", "waiting_for": 1},
    }
    served.fleet.release(running)
    assert (await waiting)["slot"] == 0
    assert served.operations.drafters(shows_salt=False)["operation"] is None
    assert served.rows() == [("champion", "dflash"), ("retired", "dpace")]


async def test_what_is_under_way_is_shown_until_it_has_ended(served):
    served.engine.may_end.clear()
    loading = asyncio.create_task(served.challenge("dpace", name="b"))
    await served.engine.has_begun.wait()
    await refusal(served.operations.drop("c"))  # busy: what is shown is the one under way
    shown = served.operations.drafters(shows_salt=False)["operation"]
    assert shown == {"name": "challenge", "drafter": "b", "waiting_for": 0}
    served.engine.error = SwapError("broken.", status=HTTPStatus.CONFLICT)
    served.engine.may_end.set()
    await refusal(loading)
    assert served.operations.drafters(shows_salt=False)["operation"] is None


async def test_it_waits_no_longer_than_it_may(admission, root):
    served = Served(admission, root, drain=0)
    running = served.fleet.assign("r1", wanted=None, may_shadow=True)
    await served.swap("dpace")
    error = await refusal(served.swap("dflash"))
    assert error.status == 409
    assert "1 running requests" in str(error)
    assert served.results == [("swap", "ok"), ("swap", "busy")]
    assert served.rows() == [("retired", "first"), ("champion", "dpace")]
    served.fleet.release(running)


async def test_it_does_not_wait_for_what_never_ends(admission, root):
    served = Served(admission, root, drain=1e6)
    await served.challenge("dpace")
    async with asyncio.timeout(10):
        error = await refusal(served.swap("dflash"))
    assert "hold the champion or a challenger" in str(error)
    assert served.results[-1] == ("swap", "refused")  # somebody must first drop one


async def test_a_request_in_flight_keeps_its_slot_through_a_swap(served):
    before = served.fleet.assign("r1", wanted=None, may_shadow=True)
    await served.swap("dpace")
    after = served.fleet.assign("r2", wanted=None, may_shadow=True)
    assert (before.serving.slot, after.serving.slot) == (0, 1)
    assert (before.cache_salt, after.cache_salt) == (None, "dpace:1")
    served.fleet.release(before)
    served.fleet.release(after)


async def test_without_spare_slots_nothing_can_be_loaded(admission, root):
    served = Served(admission, root, spare=0)
    assert (await refusal(served.swap("dpace"))).status == 403
    assert (await refusal(served.challenge("dpace"))).status == 403
    assert served.results == [("swap", "refused"), ("challenge", "refused")]


async def test_a_refused_drafter_never_reaches_the_engine(served):
    assert (await refusal(served.swap("absent"))).status == 404
    assert (await refusal(served.swap("../first"))).status == 403
    assert (await refusal(served.swap("dpace", revision="000000000000"))).status == 422
    assert (await refusal(served.swap("dpace", name="first"))).status == 409
    assert served.engine.loaded == []
    assert served.rows() == [("champion", "first"), ("empty", None)]
    assert [result for _, result in served.results] == ["refused"] * 4  # it may be asked for ever


async def test_a_retrained_drafter_takes_the_place_of_the_retired_one_of_its_name(served, root):
    await served.swap("dpace")
    await served.swap("dflash")
    before = served.fleet.drafters()["drafters"][1]
    assert (before["role"], before["name"]) == ("retired", "dpace")
    retrain(root / "dpace")
    await served.swap("dpace")
    after = served.fleet.drafters()["drafters"][1]
    assert (after["role"], after["name"]) == ("champion", "dpace")
    assert after["revision"] == describe(root / "dpace").revision != before["revision"]
    assert served.rows() == [("retired", "dflash"), ("champion", "dpace")]
    assert [result for _, result in served.results] == ["ok"] * 3


async def test_a_retired_drafter_keeps_its_name_as_long_as_requests_run_with_it(served, root):
    await served.swap("dpace")
    running = served.fleet.assign("r1", wanted=None, may_shadow=True)
    await served.swap("dflash")
    retrain(root / "dpace")
    error = await refusal(served.swap("dpace"))
    assert error.status == 409
    assert "1 requests still run with it. Try again" in str(error)
    assert served.results[-1] == ("swap", "busy")
    served.fleet.release(running)
    await served.swap("dpace")
    assert served.rows() == [("retired", "dflash"), ("champion", "dpace")]


async def test_a_challenger_without_a_share_is_refused_before_it_is_loaded(admission, root):
    served = Served(admission, root, mode="split", spare=2)
    await served.challenge("dpace")
    error = await refusal(served.challenge("dflash"))
    assert "2 of 0.6 do not" in str(error)
    assert served.results[-1] == ("challenge", "refused")
    assert len(served.engine.loaded) == 1


async def test_the_callback_sees_the_fleet_as_it_is_afterwards(admission, root):
    served = Served(admission, root)
    seen = []
    served.operations._on_result = lambda *_: seen.append(served.fleet.champion.name)
    await served.swap("dpace")
    assert seen == ["dpace"]
    assert served.rows()[1] == (Role.CHAMPION.value, "dpace")
