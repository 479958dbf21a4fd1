"""Requests that are preempted: blocks that were drafted and dropped are steps of nobody."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engine.live.record_sums import require_same_sums

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(600),
]

COMPLETIONS = "/v1/completions"
NUM_BLOCKS = "12"
"""Cache blocks of 128 tokens; one answer alone takes up to four."""
NUM_REQUESTS = 24
MAX_TOKENS = 220


@pytest.fixture(scope="module")
def crowded(open_live_server):
    """A server whose cache holds three long answers; the champion also shadows itself."""
    with open_live_server(engine=("--num-gpu-blocks-override", NUM_BLOCKS)) as live:
        shutil.copytree(live.root / "dpace", live.root / "twin")
        live.challenge("twin")
        yield live


def engines_counts(live):
    samples = live.samples()
    names = ("spec_decode_num_drafts", "spec_decode_num_draft_tokens",
             "spec_decode_num_accepted_tokens", "num_preemptions")  # fmt: skip
    return {name: samples[f"vllm:{name}_total"][0].value for name in names}


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_shadow_has_the_steps_that_were_verified_and_no_other(crowded, texts, temperature):
    before = engines_counts(crowded)
    names = [crowded.new_id() for _ in range(NUM_REQUESTS)]

    def ask(index):
        crowded.ask(
            COMPLETIONS,
            request_id=names[index],
            prompt=texts[index % len(texts)],
            max_tokens=MAX_TOKENS,
            temperature=temperature,
            ignore_eos=True,
        )

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(ask, range(NUM_REQUESTS)))
    served = []
    for name in names:
        champion, other, twin = crowded.records(name, 3)
        assert [record["arm"] for record in (champion, other, twin)] == [
            "champion", "shadow", "shadow"
        ]  # fmt: skip
        assert {record["excluded"] for record in (champion, other, twin)} == {None}
        assert champion["steps"] == other["steps"] == twin["steps"]
        # The same drafter at the same anchors: it drafts the same, and is accepted the same.
        assert twin["per_step_accepted"] == champion["per_step_accepted"]
        assert twin["per_step_drafted"] == champion["per_step_drafted"]
        served.append(champion)
    crowded.wait_until_idle()
    expected = {
        "spec_decode_num_drafts": sum(record["steps"] for record in served),
        "spec_decode_num_draft_tokens": sum(
            sum(record["per_step_drafted"]) + record["unsettled_drafted"] for record in served
        ),
        "spec_decode_num_accepted_tokens": sum(
            record["accepted"] + record["unsettled_accepted"] for record in served
        ),
    }
    after = crowded.wait_for(
        lambda: {name: count - before[name] for name, count in engines_counts(crowded).items()},
        lambda found: found | expected == found,
    )
    assert after["num_preemptions"] > 0
    # A preempted request reads its tokens again, and the last one of them is no step.
    assert any(record["emitted_tokens"] < MAX_TOKENS - 1 for record in served)
    require_same_sums(crowded)
