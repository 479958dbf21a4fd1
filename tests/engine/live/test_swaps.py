"""Drafters change while requests run: each ends with those that it began with."""

import concurrent.futures
import shutil
import threading

import pytest

from tests.engine.live.record_sums import require_same_sums

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

COMPLETIONS = "/v1/completions"
NUM_STREAMS = 8
LONG, SHORT = 160, 24


class Streams:
    """Answers that come while something else happens."""

    def __init__(self, live, prompts, max_tokens):
        self.ids = [live.new_id() for _ in prompts]
        self._live = live
        self._begun = threading.Semaphore(0)
        self._pool = concurrent.futures.ThreadPoolExecutor(len(prompts))
        self._answers = [
            self._pool.submit(self._read, request_id, prompt, max_tokens)
            for request_id, prompt in zip(self.ids, prompts, strict=True)
        ]
        for _ in prompts:
            assert self._begun.acquire(timeout=60), "a stream does not begin"

    def _read(self, request_id, prompt, max_tokens):
        body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
        with self._live.stream(COMPLETIONS, request_id=request_id, **body) as chunks:
            text = next(chunks)["choices"][0]["text"]
            self._begun.release()
            return text + "".join(chunk["choices"][0]["text"] for chunk in chunks)

    @property
    def num_running(self):
        return sum(not answer.done() for answer in self._answers)

    def texts(self):
        """The answers, once all have ended."""
        found = [answer.result(timeout=120) for answer in self._answers]
        self._pool.shutdown()
        return found


def drafters_of(live, streams):
    """Who served and who shadowed each of them."""
    return [
        [(record["drafter"], record["revision"], record["arm"])
         for record in live.records(request_id, 2)]
        for request_id in streams.ids
    ]  # fmt: skip


def steps_of(live, streams):
    """Accepted drafts of each step, of the drafter that served."""
    return [live.records(request_id, 2)[0]["per_step_accepted"] for request_id in streams.ids]


def answers_alone(alone, prompts, max_tokens):
    """Texts, and accepted drafts of each step, where nobody swaps."""
    body = {"max_tokens": max_tokens, "ignore_eos": True}
    answers = [alone.ask(COMPLETIONS, prompt=prompt, **body) for prompt in prompts]
    records = alone.acceptance(records=len(prompts))["records"]
    texts = [answer["choices"][0]["text"] for answer in answers]
    return texts, [record["per_step_accepted"] for record in records]


def slot_of(live, name):
    (slot,) = [slot for slot in live.slots() if slot["name"] == name]
    return slot


def test_running_requests_end_with_their_drafter_and_new_ones_get_the_new(
    live, alone, texts, newer
):
    before = {slot["name"]: slot["revision"] for slot in live.slots()}
    prompts = texts[:NUM_STREAMS]
    old = Streams(live, prompts, LONG)
    swapped = live.swap(newer)
    assert old.num_running == NUM_STREAMS
    assert slot_of(live, "dpace")["running"] == NUM_STREAMS
    assert slot_of(live, "dpace")["role"] == "retired"
    new = Streams(live, prompts[:4], SHORT)
    assert new.texts() == answers_alone(alone, prompts[:4], SHORT)[0]
    assert (old.texts(), steps_of(live, old)) == answers_alone(alone, prompts, LONG)

    assert swapped["seconds"]["load"] > 0
    assert swapped["former_champion"] == {"name": "dpace", "revision": before["dpace"]}
    revision = swapped["drafter"]["revision"]
    assert revision not in before.values()
    shadow = ("dflash", before["dflash"], "shadow")
    for drafters in drafters_of(live, old):
        assert drafters == [("dpace", before["dpace"], "champion"), shadow]
    for drafters in drafters_of(live, new):
        assert drafters == [(newer, revision, "champion"), shadow]
    live.wait_until_idle()


def test_a_swap_waits_for_the_requests_whose_slot_it_needs(live, alone, texts, newer, copy_of):
    third = copy_of("dflash").name
    prompts = texts[:2]
    old = Streams(live, prompts, LONG)
    slot = slot_of(live, "dpace")["slot"]
    live.swap(newer)
    assert old.num_running == 2
    assert live.swap(third)["slot"] == slot
    assert (old.texts(), steps_of(live, old)) == answers_alone(alone, prompts, LONG)
    for drafters in drafters_of(live, old):
        assert [(name, arm) for name, _, arm in drafters] == [
            ("dpace", "champion"), ("dflash", "shadow")
        ]  # fmt: skip


def test_who_is_still_loaded_comes_back_at_once(live, newer):
    assert live.swap(newer)["seconds"]["load"] > 0
    back = live.swap("dpace")
    assert back["seconds"]["load"] == 0
    assert back["former_champion"]["name"] == newer
    assert live.roles() == {"dpace": "champion", "dflash": "challenger", newer: "retired"}
    assert live.swap(newer)["seconds"]["load"] == 0


def test_a_challenger_is_promoted_dropped_and_challenges_again(live, texts):
    def drafters():
        request_id = live.new_id()
        live.ask(COMPLETIONS, request_id=request_id, prompt=texts[0], max_tokens=SHORT)
        live.wait_until_idle()
        return [(record["drafter"], record["arm"]) for record in live.records(request_id, 1)]

    live.promote("dflash")
    assert (live.roles()["dpace"], live.roles()["dflash"]) == ("retired", "champion")
    assert drafters() == [("dflash", "champion")]
    assert live.challenge("dpace")["seconds"]["load"] == 0
    assert drafters() == [("dflash", "champion"), ("dpace", "shadow")]
    live.drop("dpace")
    assert drafters() == [("dflash", "champion")]
    assert live.swap("dpace")["seconds"]["load"] == 0
    assert live.challenge("dflash")["seconds"]["load"] == 0
    assert drafters() == [("dpace", "champion"), ("dflash", "shadow")]
    info = {
        (sample.labels["drafter"], sample.labels["arm"])
        for sample in live.samples()["dpace_drafter_info"]
    }
    # A request may choose its drafter here, so the challenger has two arms.
    assert info == {("dpace", "champion"), ("dflash", "shadow"), ("dflash", "challenger")}


def test_of_two_administrators_at_once_one_is_told_to_try_again(live, texts, newer, copy_of):
    third = copy_of("dflash").name
    Streams(live, texts[:2], LONG)
    live.swap(newer)
    counted = operations(live)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(live.swap, third)  # waits for the streams, which hold the free slot
        second = live.wait_for(
            lambda: live.admin.post("/dpace/promote", json={"name": "nobody"}),
            lambda response: response.status_code == 409,  # until the first arrives: 404
        )
        assert first.result()["drafter"]["name"] == third
    assert "one is under way" in second.json()["error"]["message"]
    after = operations(live)
    assert after["swap", "ok"] == counted["swap", "ok"] + 1
    assert after["promote", "busy"] == counted["promote", "busy"] + 1
    assert live.roles()[third] == "champion"


def operations(live):
    return {
        (sample.labels["operation"], sample.labels["result"]): sample.value
        for sample in live.samples()["dpace_drafter_swaps_total"]
    }


def test_a_retrained_drafter_is_loaded_under_the_name_of_its_retired_forerunner(
    live, alone, texts, newer
):
    live.swap(newer)
    former = live.slots()[-1]["revision"]
    live.swap("dpace")
    shutil.copy(live.root / "dpace" / "model.safetensors", live.root / newer)
    answer = live.swap(newer)
    assert answer["drafter"]["name"] == newer
    assert answer["drafter"]["revision"] != former
    assert [slot["name"] for slot in live.slots()].count(newer) == 1
    request_id = live.new_id()
    live.ask(COMPLETIONS, request_id=request_id, prompt=texts[1], max_tokens=60)
    alone.ask(COMPLETIONS, prompt=texts[1], max_tokens=60)
    record = live.records(request_id, 2)[0]
    assert record["revision"] == answer["drafter"]["revision"]
    drafted_alike = alone.acceptance(records=1)["records"][-1]
    assert record["per_step_accepted"] == drafted_alike["per_step_accepted"]


def test_a_slot_whose_load_failed_takes_the_next_drafter(live, alone, texts, copy_of):
    import torch
    from safetensors.torch import load_file, save_file

    broken, sound = copy_of("dpace"), copy_of("dpace").name
    weights = broken / "model.safetensors"
    tensors = load_file(weights)
    tensors["norm.weight"] = torch.full_like(tensors["norm.weight"], torch.nan)
    save_file(tensors, weights, metadata={"format": "pt"})
    refused = live.admin.put("/dpace/drafters/champion", json={"folder": broken.name})
    assert refused.status_code == 422
    assert broken.name not in live.roles()
    assert live.roles()["dpace"] == "champion"
    live.swap(sound)
    request_id = live.new_id()
    live.ask(COMPLETIONS, request_id=request_id, prompt=texts[1], max_tokens=60)
    alone.ask(COMPLETIONS, prompt=texts[1], max_tokens=60)
    steps = live.records(request_id, 2)[0]["per_step_accepted"]
    assert steps == alone.acceptance(records=1)["records"][-1]["per_step_accepted"]


def test_swaps_and_clients_that_leave_lose_no_count(live, texts, newer):
    require_same_sums(live)
    aborted = num_aborted(live)
    lasting = Streams(live, [texts[2]], LONG)
    for name in (newer, "dpace"):
        streams = Streams(live, texts[:NUM_STREAMS], SHORT)
        with live.stream(
            COMPLETIONS, request_id=live.new_id(), prompt=texts[1], max_tokens=LONG, ignore_eos=True
        ) as chunks:
            next(chunks)
            live.swap(name)  # the client leaves once another drafter is in charge
        streams.texts()
    lasting.texts()
    live.wait_until_idle()
    assert num_aborted(live) > aborted
    require_same_sums(live)


def num_aborted(live):
    return sum(
        sample.value
        for sample in live.samples()["dpace_requests_excluded_total"]
        if sample.labels["reason"] == "aborted"
    )
