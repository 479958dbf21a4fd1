"""Counts of real answers that end inside an accepted block, against the tokens in the answer."""

import pytest

from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.vllm_engine.settlement import join_cut_step

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_every_length_of_an_answer_closes_its_sums(speculative_engine, prompts):
    from vllm import SamplingParams

    # All token limits over more than one block, so that every kind of end occurs.
    limits = range(2, 26)
    finished = speculative_engine.generate(
        [{"prompt_token_ids": prompts[0]}] * len(limits),
        [SamplingParams(temperature=0, max_tokens=limit, ignore_eos=True) for limit in limits],
        use_tqdm=False,
    )
    kinds = set()
    for limit, output in zip(limits, finished, strict=True):
        counts = output.outputs[0].spec_decode_metrics
        engine_accepted = sum(j * count for j, count in enumerate(counts.histogram))
        engine_drafted = counts.num_draft_tokens
        settled = settle_last_step(
            counts.per_step_accepted, counts.per_step_drafted, join_cut_step(counts)
        )
        # The prompt's own pass gives the first token; all others come from verification steps.
        assert settled.emitted_tokens == limit - 1
        assert engine_accepted == sum(settled.per_step_accepted) + settled.unsettled_accepted
        assert engine_drafted == sum(settled.per_step_drafted) + settled.unsettled_drafted
        kinds.add((settled.is_cut, settled.unsettled_accepted > 0))
    assert (False, False) in kinds  # ends with a step's last token
    assert (True, True) in kinds  # ends inside accepted tokens


def test_an_end_token_inside_a_block_closes_its_sums(speculative_engine, prompts):
    from vllm import SamplingParams

    finished = speculative_engine.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts],
        SamplingParams(temperature=0, max_tokens=200),
        use_tqdm=False,
    )
    stopped = [
        output.outputs[0] for output in finished if output.outputs[0].finish_reason == "stop"
    ]
    assert len(stopped) > 10
    for answer in stopped:
        counts = answer.spec_decode_metrics
        if not counts.per_step_accepted:
            continue
        settled = settle_last_step(
            counts.per_step_accepted, counts.per_step_drafted, join_cut_step(counts)
        )
        assert settled.emitted_tokens == len(answer.token_ids) - 1
