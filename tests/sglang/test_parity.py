"""SGLang drafts what the training model drafts, and answers what the target answers, in float32.

SGLang's attention here is torch's own, through shims that are for tests only: what is shown is that
both read the same checkpoint in the same way, not that SGLang's kernels for a GPU compute right.
"""

import pytest

from dpace_serve.demo import bundle

pytestmark = [pytest.mark.sglang]

MAX_TOKENS = 64
MIN_STEPS = 400
MAX_LOGIT_DIFFERENCE = 1e-4
DRAFTER = "dflash"


@pytest.fixture(scope="module")
def reference(prompts):
    """What the plain draft-verify loop does with each prompt, without any engine."""
    import torch

    from dpace_training.data.target_model import load_target
    from dpace_training.evaluation.compare import load_drafter
    from dpace_training.evaluation.decode import decode

    target = load_target(bundle.target_folder(), dtype=torch.float32)
    drafter = load_drafter(bundle.drafter_folder(DRAFTER))
    return [
        decode(
            target.model,
            drafter,
            torch.tensor(prompt),
            max_tokens=MAX_TOKENS,
            end_ids=target.end_ids,
        )
        for prompt in prompts
    ]


@pytest.fixture(scope="module")
def answers(served, prompts):
    """One request at a time: its answer, and every draft for it with its logits."""
    import torch

    kept = []
    served.drafts.mkdir()
    for prompt in prompts:
        answer = served.generate(prompt, max_tokens=MAX_TOKENS)
        files = sorted(served.drafts.iterdir())
        kept.append((answer, [torch.load(file) for file in files]))
        for file in files:
            file.unlink()
    served.drafts.rmdir()
    return kept


def test_answers_are_the_targets_own_token_for_token(answers, reference):
    for (answer, _), decoded in zip(answers, reference, strict=True):
        assert answer["output_ids"] == list(decoded.tokens)
        assert answer["meta_info"]["finish_reason"]["type"] == decoded.finish_reason


def test_drafts_are_equal_at_every_position_of_every_step(answers, reference):
    num_steps = 0
    for (_, drafts), decoded in zip(answers, reference, strict=True):
        assert [tuple(step["tokens"].tolist()) for step in drafts] == [
            step.drafts for step in decoded.steps
        ]
        num_steps += len(drafts)
    assert num_steps >= MIN_STEPS


def test_draft_logits_are_equal_to_rounding(answers, reference):
    largest = max(
        float((ours["logits"] - step.logits).abs().max())
        for (_, drafts), decoded in zip(answers, reference, strict=True)
        for ours, step in zip(drafts, decoded.steps, strict=True)
    )
    assert largest <= MAX_LOGIT_DIFFERENCE


def test_steps_are_counted_as_the_plain_loop_counts_them(served, answers, reference):
    for (answer, _), decoded in zip(answers, reference, strict=True):
        record, expected = served.record(answer["meta_info"]["id"]), decoded.settled()
        if not decoded.steps:
            assert record is None
            continue
        assert tuple(record["per_step_accepted"]) == expected.per_step_accepted
        assert tuple(record["per_step_drafted"]) == expected.per_step_drafted
        assert record["emitted_tokens"] == expected.emitted_tokens == len(decoded.tokens) - 1
        assert record["unsettled_drafted"] == expected.unsettled_drafted
        assert record["unsettled_accepted"] == expected.unsettled_accepted


def test_requests_of_one_batch_are_answered_as_alone(served, prompts, reference):
    body = {"input_ids": prompts, "sampling_params": {"temperature": 0, "max_new_tokens": 64}}
    batch = served.client.post("/generate", json=body).json()
    for answer, decoded in zip(batch, reference, strict=True):
        assert answer["output_ids"] == list(decoded.tokens)
        record = served.record(answer["meta_info"]["id"])
        if decoded.steps:
            assert tuple(record["per_step_accepted"]) == decoded.settled().per_step_accepted
