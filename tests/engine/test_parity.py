"""The engine drafts what the training model drafts: token for token, step by step, in float32."""

from collections import defaultdict

import pytest

from dpace_serve.demo import bundle

pytestmark = [pytest.mark.engine, pytest.mark.slow]

MAX_TOKENS = 64
MIN_STEPS = 500
MAX_LOGIT_DIFFERENCE = 1e-4
DRAFTER = "dpace"


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
def served(speculative_engine, prompts, observing):
    """The engine's answers, and its proposals for each of them in order: batches of requests."""
    from vllm import SamplingParams

    proposals = defaultdict(list)

    def keep(step):
        for row, request_id in enumerate(step.request_ids):
            proposals[request_id].append(
                (int(step.anchors[row]), step.draft_tokens[row], step.logits[row])
            )

    with observing(speculative_engine, keep):
        finished = speculative_engine.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            SamplingParams(temperature=0, max_tokens=MAX_TOKENS),
            use_tqdm=False,
        )
    by_answer = []
    for output in finished:
        # The engine core appends a random part to the name.
        (name,) = [name for name in proposals if name.split("-")[0] == output.request_id]
        by_answer.append((list(output.outputs[0].token_ids), proposals[name]))
    return by_answer


def test_answers_are_equal(served, reference):
    for (tokens, _), decoded in zip(served, reference, strict=True):
        assert tokens == list(decoded.tokens)


def test_drafts_are_equal_at_every_position_on_at_least_500_steps(served, reference, prompts):
    num_steps = 0
    for (_, proposals), decoded, prompt in zip(served, reference, prompts, strict=True):
        for (anchor, drafts, _), step in zip(proposals, decoded.steps, strict=False):
            assert anchor == decoded.tokens[step.anchor - len(prompt)]
            assert tuple(drafts.tolist()) == step.drafts
            num_steps += 1
        assert len(proposals) >= len(decoded.steps)
    assert num_steps >= MIN_STEPS


def test_draft_logits_are_equal_to_rounding(served, reference):
    largest = max(
        float((logits - step.logits).abs().max())
        for (_, proposals), decoded in zip(served, reference, strict=True)
        for (_, _, logits), step in zip(proposals, decoded.steps, strict=False)
    )
    assert largest <= MAX_LOGIT_DIFFERENCE
