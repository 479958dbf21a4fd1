"""Cached prompts and changing drafters: nobody drafts from keys that another drafter wrote.

The engine's cached blocks hold the keys and values of the target and of those drafters that ran
when they were written. Where a drafter meets blocks that hold none of its own, it drafts worse and
nothing else shows it, so these tests compare its steps with those on blocks that it wrote itself.
"""

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

COMPLETIONS = "/v1/completions"
MAX_TOKENS = 80
CACHED_TOKENS = 256
"""Two blocks: the engine reads the last full one of three again, for its hidden states."""


@pytest.fixture
def ask(live):
    """Answer a prompt: accepted drafts of each step, by arm, and tokens found in the cache."""

    def answer(prompt, num_arms=2, **body):
        queries, hits = cache_counts(live)
        request_id = live.new_id()
        body = {"prompt": prompt, "max_tokens": MAX_TOKENS, "ignore_eos": True, **body}
        given = live.ask(COMPLETIONS, request_id=request_id, **body)
        records = live.records(request_id, num_arms)
        assert {record["excluded"] for record in records} == {None}
        steps = {record["drafter"]: record["per_step_accepted"] for record in records}
        asked = given["usage"]["prompt_tokens"]
        assert asked > CACHED_TOKENS
        counts = live.wait_for(
            lambda: cache_counts(live), lambda found: found[0] >= queries + asked
        )
        return steps, counts[1] - hits

    return answer


def cache_counts(live):
    samples = live.samples()
    names = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total")
    return tuple(samples[name][0].value for name in names)


def steps_alone(alone, prompt):
    """Accepted drafts of each step in a server with this drafter only, its last step settled."""
    body = {"prompt": prompt, "max_tokens": MAX_TOKENS, "ignore_eos": True}
    alone.ask(COMPLETIONS, **body)
    return alone.acceptance(records=1)["records"][-1]["per_step_accepted"]


def test_a_prompt_that_is_asked_again_is_cached_and_steps_the_same(live, alone, ask, long_texts):
    first, none = ask(long_texts[0])
    again, hits = ask(long_texts[0])
    assert (none, hits) == (0, CACHED_TOKENS)
    assert again == first
    assert first["dpace"] == steps_alone(alone, long_texts[0])
    assert first["dflash"] != first["dpace"]


def test_a_new_champion_steps_on_a_cached_prompt_as_in_a_server_of_its_own(
    live, alone, ask, long_texts, copy_of
):
    ask(long_texts[1])
    again = copy_of("dpace").name
    live.swap(again)
    steps, hits = ask(long_texts[1])
    assert steps[again] == steps_alone(alone, long_texts[1])
    assert hits == 0
    assert ask(long_texts[1]) == (steps, CACHED_TOKENS)


def test_a_slot_that_is_loaded_again_forgets_what_its_former_drafter_cached(
    live, ask, long_texts, newer, copy_of
):
    ask(long_texts[2])
    expected, _ = ask(long_texts[2], num_arms=1, vllm_xargs={"dpace_drafter": "dflash"})
    (slot,) = [slot["slot"] for slot in live.slots() if slot["name"] == "dpace"]
    live.swap(newer)
    third = copy_of("dflash").name
    assert live.swap(third)["slot"] == slot
    steps, hits = ask(long_texts[2])
    assert steps[third] == expected["dflash"]
    assert hits == 0


def test_a_new_challenger_shadows_a_cached_prompt_as_it_would_serve_it(
    live, ask, long_texts, copy_of
):
    ask(long_texts[3])
    ask(long_texts[3])
    live.drop("dflash")
    twin = copy_of("dpace").name
    live.challenge(twin)
    steps, _ = ask(long_texts[3])
    assert steps[twin] == steps["dpace"]
    again, hits = ask(long_texts[3])
    assert (again, hits) == (steps, CACHED_TOKENS)


def test_a_drafter_that_a_request_names_meets_no_blocks_of_others(live, ask, long_texts):
    shadowed, _ = ask(long_texts[4])
    named, hits = ask(long_texts[4], num_arms=1, vllm_xargs={"dpace_drafter": "dflash"})
    assert hits == 0
    assert (
        named["dflash"]
        == ask(long_texts[4], num_arms=1, vllm_xargs={"dpace_drafter": "dflash"})[0]["dflash"]
    )
    assert ask(long_texts[4]) == (shadowed, CACHED_TOKENS)


def test_a_clients_own_salt_still_keeps_its_prompts_apart(live, ask, long_texts):
    hits = [ask(long_texts[5], cache_salt=salt)[1] for salt in ("one", "two", "one")]
    assert hits == [0, 0, CACHED_TOKENS]
