"""A request with several drafters leaves one record for each of them, whatever happens."""

import asyncio
from types import SimpleNamespace

import pytest

from dpace_serve.live.traffic import draw
from dpace_serve.vllm_engine import row_binding, shadow_collector
from dpace_serve.vllm_engine.row_binding import RowBinding

PROMPT = [1, 2, 3]
# The first token comes with the prompt. Two steps follow: 2 of 7 accepted, then 0 of 7.
ANSWER = [10, 11, 12, 13, 14]
ANSWER_DRAFTS = [
    (3, [11, 12, 99, 0, 0, 0, 0]),  # after token 10, at position 3 of the sequence: 2 accepted
    (6, [14, 15, 16, 17, 18, 19, 20]),  # after token 13: 1 right, then the answer ends
    (7, [0, 0, 0, 0, 0, 0, 0]),  # after the last token: the answer has ended
]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(shadow_collector, "DELAY_SECONDS", 0.001)


def params(kind="FINAL_ONLY", n=1, structured=None, logprob_token_ids=None, **tags):
    return SimpleNamespace(
        n=n,
        extra_args=tags or None,
        output_kind=SimpleNamespace(name=kind),
        structured_outputs=structured,
        logprob_token_ids=logprob_token_ids,
    )


def output(token_ids, finish_reason=None):
    counts = SimpleNamespace(histogram=[1, 0, 1], per_step_accepted=[2, 0], per_step_drafted=[7, 7])
    answer = SimpleNamespace(
        finish_reason=finish_reason,
        stop_reason=None,
        spec_decode_metrics=counts if finish_reason else None,
        token_ids=token_ids,
    )
    return SimpleNamespace(
        request_id="r1", finished=bool(finish_reason), outputs=[answer], prompt_token_ids=PROMPT
    )


def binding_of(extra_args):
    return row_binding.binding_of(extra_args, num_slots=3)


class Engine:
    """Answers with these outputs; notes the prompt and the parameters that it was given."""

    def __init__(self, *outputs):
        self.outputs = outputs

    async def generate(self, prompt, sampling_params, request_id):
        self.prompt, self.params = prompt, sampling_params
        for each in self.outputs:
            await asyncio.sleep(0)
            yield each


def token_prompt(**rest):
    return {"type": "token", "prompt_token_ids": PROMPT, **rest}


async def ask(bench, *outputs, sampling=None, prompt=None, request_id="r1"):
    """One request; returns the engine, once its shadows are settled."""
    engine = Engine(*outputs)
    generate = bench.recorder.recording(engine.generate, ())
    given = token_prompt() if prompt is None else prompt
    async for _ in generate(given, sampling or params(), request_id):
        pass
    await settled(bench)
    return engine


async def settled(bench):
    for _ in range(1000):
        if not bench.num_running():
            return
        await asyncio.sleep(0.002)
    pytest.fail("a request still counts as running")


async def test_a_shadow_is_judged_by_the_finished_answer(make_bench):
    bench = make_bench(num_challengers=1)
    bench.drafts[1] = {1: ANSWER_DRAFTS}
    engine = await ask(bench, output(ANSWER, "length"))
    assert binding_of(engine.params.extra_args) == RowBinding(key=1, serving=0, shadows=(1,))
    champion, shadow = bench.kept
    assert (champion.drafter, champion.arm, champion.steps) == ("dpace", "champion", 2)
    assert (shadow.drafter, shadow.revision, shadow.arm) == ("other0", "other0-revision", "shadow")
    assert shadow.per_step_accepted == (2, 1)
    assert shadow.per_step_drafted == (7, 1)
    assert shadow.unsettled_drafted == 6  # what was drafted past the end
    assert shadow.request_id == champion.request_id == "r1"


async def test_the_pieces_of_a_stream_are_one_answer(make_bench):
    bench = make_bench(num_challengers=1)
    bench.drafts[1] = {1: ANSWER_DRAFTS}
    pieces = output(ANSWER[:1]), output(ANSWER[1:4]), output(ANSWER[4:], "length")
    await ask(bench, *pieces, sampling=params("DELTA"))
    assert bench.kept[1].per_step_accepted == (2, 1)


async def test_several_challengers_have_a_record_each(make_bench):
    bench = make_bench(num_challengers=2)
    bench.drafts[1] = {1: ANSWER_DRAFTS, 2: [(3, [0] * 7), (6, [0] * 7)]}
    engine = await ask(bench, output(ANSWER, "length"))
    assert binding_of(engine.params.extra_args).shadows == (1, 2)
    assert [(r.drafter, r.arm) for r in bench.kept] == [
        ("dpace", "champion"),
        ("other0", "shadow"),
        ("other1", "shadow"),
    ]
    assert bench.kept[2].per_step_accepted == (0, 0)
    assert bench.kept[2].per_step_drafted == (7, 7)


async def test_lost_drafts_are_said_and_never_rejections(make_bench):
    bench = make_bench(num_challengers=1)
    await ask(bench, output(ANSWER, "length"))
    assert [record.excluded for record in bench.kept] == [None, "no_shadow"]
    assert bench.metrics.snapshot()["excluded"]["no_shadow"] == 1


async def test_a_shadow_with_other_steps_than_were_served_is_lost(make_bench):
    bench = make_bench(num_challengers=2)
    bench.drafts[1] = {1: ANSWER_DRAFTS[:1], 2: [*ANSWER_DRAFTS[:1], (5, [13]), (6, [14])]}
    await ask(bench, output(ANSWER, "length"))
    assert [record.excluded for record in bench.kept] == [None, "no_shadow", "no_shadow"]


async def test_an_excluded_answer_excludes_its_shadows_too(make_bench):
    bench = make_bench(num_challengers=1)
    bench.drafts[1] = {1: ANSWER_DRAFTS}
    await ask(bench, output(ANSWER, "abort"))
    assert [(r.arm, r.excluded) for r in bench.kept] == [
        ("champion", "aborted"),
        ("shadow", "aborted"),
    ]


async def test_counts_that_contradict_each_other_exclude_both_arms_once(make_bench):
    bench = make_bench(num_challengers=1)
    bench.drafts[1] = {1: ANSWER_DRAFTS}
    finished = output(ANSWER, "length")
    finished.outputs[0].spec_decode_metrics.per_step_drafted = [7]
    await ask(bench, finished)
    assert [(r.arm, r.excluded, r.finish_reason) for r in bench.kept] == [
        ("champion", "no_record", "length"),
        ("shadow", "no_record", "length"),
    ]
    assert counted(bench) == [{"champion": 0, "challenger": 0}]


async def test_drafts_that_cannot_be_compared_leave_a_record_that_says_so(make_bench):
    bench = make_bench(num_challengers=2)
    bench.drafts[1] = {1: [(3, None), (6, None)], 2: ANSWER_DRAFTS}
    await ask(bench, output(ANSWER, "length"))
    assert [(r.drafter, r.excluded) for r in bench.kept] == [
        ("dpace", None),
        ("other0", "no_shadow"),
        ("other1", None),
    ]
    assert bench.metrics.snapshot()["export_errors"]["shadow"] == 1


async def test_a_verdict_on_a_shadow_that_fails_costs_no_record(make_bench, monkeypatch):
    bench = make_bench(num_challengers=1)
    bench.drafts[1] = {1: ANSWER_DRAFTS}

    def fail(*_):
        raise ValueError("out of order")

    monkeypatch.setattr(bench.comparisons, "add_shadow", fail)
    await ask(bench, output(ANSWER, "length"))
    assert [(r.arm, r.excluded) for r in bench.kept] == [("champion", None), ("shadow", None)]
    assert bench.metrics.snapshot()["export_errors"]["verdict"] == 1


async def test_a_client_that_leaves_leaves_one_record_for_each_drafter(make_bench):
    bench = make_bench(num_challengers=1)
    generate = bench.recorder.recording(Engine(output(ANSWER[:1]), output(ANSWER)).generate, ())
    stream = generate(token_prompt(), params("DELTA"), "r1")
    await anext(stream)
    await stream.aclose()
    await settled(bench)
    assert [(r.arm, r.excluded) for r in bench.kept] == [
        ("champion", "aborted"),
        ("shadow", "aborted"),
    ]


async def test_a_request_that_the_engine_refuses_is_not_running_and_leaves_no_record(make_bench):
    bench = make_bench(num_challengers=1)

    async def refuse(prompt, sampling_params, request_id):
        raise ValueError("too long")
        yield

    with pytest.raises(ValueError, match="too long"):
        async for _ in bench.recorder.recording(refuse, ())(token_prompt(), params(), "r1"):
            pass
    assert bench.num_running() == 0
    assert bench.kept == []


async def test_a_request_that_would_end_the_engine_never_reaches_it(make_bench):
    bench = make_bench(num_challengers=1)
    engine = Engine(output(ANSWER, "length"))
    with pytest.raises(ValueError, match="logprob_token_ids must be left out"):
        async for _ in bench.recorder.recording(engine.generate, ())(
            token_prompt(), params(logprob_token_ids=[5, 6]), "r1"
        ):
            pass
    assert not hasattr(engine, "params")
    assert bench.num_running() == 0
    assert bench.kept == []


@pytest.mark.parametrize(
    ("prompt", "sampling"),
    [
        (token_prompt(), params(n=2)),
        (token_prompt(), params(structured=object())),
        ({"type": "embeds", "prompt_embeds": object()}, params()),
        ({**token_prompt(), "type": "multimodal", "mm_kwargs": {"image": [object()]}}, params()),
        ("streamed", params()),
    ],
)
async def test_what_would_not_be_judged_as_verified_is_not_shadowed(make_bench, prompt, sampling):
    bench = make_bench(num_challengers=1)
    engine = await ask(bench, output(ANSWER, "length"), prompt=prompt, sampling=sampling)
    assert binding_of(engine.params.extra_args).shadows == ()
    assert [record.arm for record in bench.kept] == ["champion"]


async def test_a_client_cannot_bind_itself(make_bench):
    bench = make_bench(num_challengers=0)
    engine = await ask(bench, output(ANSWER, "length"), sampling=params(dpace=[7, 3, 3]))
    assert binding_of(engine.params.extra_args) == RowBinding(1, 0, ())


async def test_prompts_that_share_their_parameters_are_bound_apart(make_bench):
    bench = make_bench(num_challengers=1)
    shared = params(mine=1)
    first, second = [
        await ask(bench, output(ANSWER, "length"), sampling=shared, request_id=name)
        for name in ("r1", "r2")
    ]
    assert binding_of(first.params.extra_args).key == 1
    assert binding_of(second.params.extra_args).key == 2
    assert shared.extra_args == {"mine": 1}


async def test_a_request_may_choose_its_drafter_only_where_that_is_allowed(make_bench):
    bench = make_bench(num_challengers=1, mode="split", allows_choice=True)
    engine = await ask(bench, output(ANSWER, "length"), sampling=params(dpace_drafter="other0"))
    assert binding_of(engine.params.extra_args).serving == 1
    assert (bench.kept[0].drafter, bench.kept[0].arm) == ("other0", "challenger")
    with pytest.raises(ValueError, match="must be one of dpace, other0"):
        await ask(bench, output(ANSWER, "length"), sampling=params(dpace_drafter="nobody"))
    closed = make_bench(num_challengers=1, mode="split")
    with pytest.raises(ValueError, match="does not let requests choose"):
        await ask(closed, output(ANSWER, "length"), sampling=params(dpace_drafter="other0"))


async def test_the_salt_of_the_cache_names_the_drafters_and_keeps_the_clients_own(make_bench):
    plain = await ask(make_bench(num_challengers=0), output(ANSWER, "length"))
    assert "cache_salt" not in plain.prompt
    bench = make_bench(num_challengers=1)
    both = await ask(bench, output(ANSWER, "length"))
    assert both.prompt["cache_salt"] == "dpace:0+1"
    own = await ask(bench, output(ANSWER, "length"), prompt=token_prompt(cache_salt="mine"))
    assert own.prompt["cache_salt"] == "dpace:0+1|mine"


async def test_a_long_id_is_cut_in_all_records_of_its_request_alike(make_bench):
    bench = make_bench(num_challengers=1)
    bench.drafts[1] = {1: ANSWER_DRAFTS}
    await ask(bench, output(ANSWER, "length"), request_id="cmpl-" + "i" * 1_000_000)
    served, shadow = bench.kept
    assert len(served.request_id) == 128
    assert served.request_id == shadow.request_id
    assert counted(bench) == [{"champion": 1, "challenger": 1}]


async def test_the_id_in_the_record_and_the_salt_repeat_the_draw(make_bench):
    bench = make_bench(num_challengers=1, mode="split")
    for number in range(40):
        await ask(bench, output(ANSWER, "length"), request_id=f"{number}" * 200)
    salt = bench.fleet.draw_salt
    for record in bench.kept:
        is_drawn = draw(record.request_id, "split", salt=salt) < 0.4
        assert record.arm == ("challenger" if is_drawn else "champion")
    assert {record.arm for record in bench.kept} == {"champion", "challenger"}


async def test_no_salt_of_a_client_reaches_cached_blocks_that_are_not_its_own(make_bench):
    async def salt_in_engine(bench, own=None):
        prompt = token_prompt() if own is None else token_prompt(cache_salt=own)
        return (await ask(bench, output(ANSWER, "length"), prompt=prompt)).prompt.get("cache_salt")

    alone, both = make_bench(num_challengers=0), make_bench(num_challengers=1)
    ours = {await salt_in_engine(alone), await salt_in_engine(both)}
    forged = ["dpace:0+1", "dpace:1", "dpace", "dpace:0+1|mine", "|mine", "mine"]
    theirs = [await salt_in_engine(bench, salt) for bench in (alone, both) for salt in forged]
    assert not ours & set(theirs)
    assert len(set(theirs)) == len(theirs)  # nor do the salts of two of them ever meet


def counted(bench):
    return [row["requests"] for row in bench.comparisons.to_dict()["comparisons"]]


async def test_a_pair_is_counted_for_the_verdict_on_its_challenger(make_bench):
    bench = make_bench(num_challengers=2)
    bench.drafts[1] = {1: ANSWER_DRAFTS, 2: [(3, [0] * 7), (6, [0] * 7)]}
    await ask(bench, output(ANSWER, "length"))
    assert counted(bench) == [{"champion": 1, "challenger": 1}] * 2
    bench.drafts[2] = {1: ANSWER_DRAFTS}  # those of the other challenger are lost
    await ask(bench, output(ANSWER, "length"))
    assert counted(bench) == [{"champion": 2, "challenger": 2}, {"champion": 1, "challenger": 1}]


def test_a_verdict_names_both_rivals_with_their_revisions(make_bench):
    rows = make_bench(num_challengers=2).comparisons.verdicts()
    assert [row[:4] for row in rows] == [
        ("dpace", "dpace-revision", "other0", "other0-revision"),
        ("dpace", "dpace-revision", "other1", "other1-revision"),
    ]


async def test_an_excluded_answer_is_no_pair(make_bench):
    bench = make_bench(num_challengers=1)
    bench.drafts[1] = {1: ANSWER_DRAFTS}
    await ask(bench, output(ANSWER, "abort"))
    assert counted(bench) == [{"champion": 0, "challenger": 0}]


async def test_in_split_mode_a_request_that_chose_its_drafter_is_not_compared(make_bench):
    bench = make_bench(num_challengers=1, mode="split", allows_choice=True)
    await ask(bench, output(ANSWER, "length"), sampling=params(dpace_drafter="other0"))
    assert counted(bench) == [{"champion": 0, "challenger": 0}]
    await ask(bench, output(ANSWER, "length"))
    assert sum(counted(bench)[0].values()) == 1


async def test_a_verdict_that_fails_is_counted_and_reaches_no_client(make_bench, monkeypatch):
    bench = make_bench(num_challengers=1)
    bench.drafts[1] = {1: ANSWER_DRAFTS}

    def fail(*_):
        raise ValueError("out of order")

    monkeypatch.setattr(bench.comparisons, "add_served", fail)
    await ask(bench, output(ANSWER, "length"))
    assert bench.metrics.snapshot()["export_errors"]["verdict"] == 1
    assert len(bench.kept) == 2
