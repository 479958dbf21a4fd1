"""A long neighbour keeps the drafter from running: such steps are no rejections."""

from collections import Counter

import pytest

from dpace_serve.vllm_engine.settlement import join_cut_step

pytestmark = [pytest.mark.engine, pytest.mark.slow]

MAX_MODEL_LEN = 512
LONG_ANSWER = 20


def test_steps_that_were_never_drafted_are_not_counted(speculative_engine, prompts, observing):
    from vllm import SamplingParams

    neighbour = (prompts[0] * MAX_MODEL_LEN)[: MAX_MODEL_LEN - LONG_ANSWER]
    proposals = Counter()
    with observing(
        speculative_engine,
        lambda step: proposals.update(name.split("-")[0] for name in step.request_ids),
    ):
        output, _ = speculative_engine.generate(
            [{"prompt_token_ids": prompt} for prompt in (prompts[0], neighbour)],
            [
                SamplingParams(temperature=0, max_tokens=limit, ignore_eos=True)
                for limit in (160, LONG_ANSWER)
            ],
            use_tqdm=False,
        )
    answer = output.outputs[0]
    counts = answer.spec_decode_metrics
    emitted_by_last_step = join_cut_step(counts)
    *whole_steps, _ = counts.per_step_accepted
    emitted = sum(accepted + 1 for accepted in whole_steps) + emitted_by_last_step
    # All other tokens come from steps without drafts, beside the prompt's own first token.
    assert emitted < len(answer.token_ids) - 1
    # The last proposal is never verified: the answer has ended.
    assert len(counts.per_step_drafted) == proposals[output.request_id] - 1
