"""What a split is checked by: every request that was drawn, however it ended, and no other."""

import collections
from types import SimpleNamespace

import pytest


def params(**tags):
    return SimpleNamespace(
        n=1,
        extra_args=tags or None,
        output_kind=SimpleNamespace(name="FINAL_ONLY"),
        structured_outputs=None,
        logprob_token_ids=None,
    )


def answer(finish_reason="length"):
    counts = SimpleNamespace(histogram=[0, 1], per_step_accepted=[1], per_step_drafted=[7])
    return SimpleNamespace(
        finish_reason=finish_reason, stop_reason=None, spec_decode_metrics=counts, token_ids=[4, 5]
    )


async def ask(bench, request_id, ended=None, **tags):
    """One request that ends with this answer; without one the engine fails it."""

    async def generate(prompt, sampling_params, request_id):
        if ended is None:
            raise ConnectionError("the engine is gone")
        yield SimpleNamespace(
            request_id=request_id, finished=True, outputs=[ended], prompt_token_ids=[1, 2, 3]
        )

    recorded = bench.recorder.recording(generate, (ConnectionError,))
    async for _ in recorded("p", params(**tags), request_id):
        pass


def drawn(bench):
    value = bench.registry.get_sample_value
    return {
        arm: value("dpace_split_requests_total", {"arm": arm}) for arm in ("champion", "challenger")
    }


async def test_requests_are_counted_by_the_arm_that_was_drawn(make_bench):
    bench = make_bench(num_challengers=1, mode="split")
    assert drawn(bench) == {"champion": 0, "challenger": 0}
    for number in range(40):
        await ask(bench, f"r{number}", answer())
    arms = collections.Counter(record.arm for record in bench.kept)
    assert drawn(bench) == arms
    assert min(arms.values()) > 8  # 24 and 16 are expected


async def test_what_the_statistics_leave_out_was_drawn_too(make_bench):
    bench = make_bench(num_challengers=1, mode="split")
    await ask(bench, "r1", answer("abort"))
    with pytest.raises(ConnectionError):
        await ask(bench, "r2")
    broken = answer()
    broken.spec_decode_metrics = 7  # no record can be built from it
    await ask(bench, "r3", broken)
    assert [record.excluded for record in bench.kept] == ["aborted", "aborted", "no_record"]
    assert sum(drawn(bench).values()) == 3


async def test_a_request_that_chose_its_drafter_was_not_drawn(make_bench):
    bench = make_bench(num_challengers=1, mode="split", allows_choice=True)
    for number in range(8):
        await ask(bench, f"r{number}", answer(), dpace_drafter="other0")
    assert len(bench.kept) == 8
    assert drawn(bench) == {"champion": 0, "challenger": 0}


async def test_in_the_shadow_nothing_is_drawn(make_bench):
    bench = make_bench(num_challengers=0)
    await ask(bench, "r1", answer())
    assert len(bench.kept) == 1
    assert drawn(bench) == {"champion": 0, "challenger": 0}
