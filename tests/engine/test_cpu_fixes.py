"""The three upstream CPU bugs: what each fix does, and whether upstream still needs it.

When a test named `upstream_still_needs` fails, upstream has fixed the bug: drop our fix.
"""

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def fixes(speculative_engine):
    """The fixes, in a process whose engine was built with the plugin."""
    from dpace_serve.vllm_engine import cpu_fixes

    return cpu_fixes


@pytest.mark.parametrize("name", ["CONTEXT_KEYS", "EXPAND_BATCH", "APPLY_TOP_K"])
def test_the_fix_is_in_place_and_right(fixes, name):
    fix = getattr(fixes, name)
    assert getattr(fix.owner, fix.attribute) is fix.replacement
    assert fix.is_right(fix.replacement)


@pytest.mark.parametrize("name", ["CONTEXT_KEYS", "EXPAND_BATCH", "APPLY_TOP_K"])
def test_upstream_still_needs_the_fix(fixes, name):
    assert getattr(fixes, name).is_needed()


def test_applying_again_changes_nothing(fixes):
    fixes.apply()
    for fix in fixes.FIXES:
        assert getattr(fix.owner, fix.attribute) is fix.replacement
        assert fix.upstream is not fix.replacement


def test_other_platforms_are_left_alone(fixes, monkeypatch):
    for fix in fixes.FIXES:
        monkeypatch.setattr(fix.owner, fix.attribute, fix.upstream)
    monkeypatch.setattr(type(fixes.current_platform), "is_cpu", lambda _: False)
    fixes.apply()
    for fix in fixes.FIXES:
        assert getattr(fix.owner, fix.attribute) is fix.upstream


@pytest.mark.parametrize(
    ("replace_from", "replace_to", "expected"),
    [(0, 0, [0.0, 0.0, 0.5, 2.0, 2.0]), (0, 1, [1.0, 1.0, 0.5, 2.0, 2.0])],
)
def test_expanding_repeats_and_replaces(fixes, replace_from, replace_to, expected):
    import torch

    expanded = fixes.expand_batch_to_tokens(
        torch.tensor([0.0, 0.5, 2.0]),
        torch.tensor([2, 3, 5], dtype=torch.int32),
        5,
        replace_from=replace_from,
        replace_to=replace_to,
    )
    assert expanded.tolist() == expected


def test_a_request_without_drafts_takes_no_place(fixes):
    import torch

    expanded = fixes.expand_batch_to_tokens(torch.tensor([5, 6, 7]), torch.tensor([1, 1, 3]), 3)
    assert expanded.tolist() == [5, 7, 7]


def test_top_k_masks_as_upstream_where_there_are_rows(fixes):
    import torch

    logits = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    k = torch.arange(1, 33, 2, dtype=torch.int32)
    masked = fixes.apply_top_k_only(logits.clone(), k)
    assert torch.equal(masked, fixes.APPLY_TOP_K.upstream(logits.clone(), k))
    assert torch.isfinite(masked).sum(dim=1).tolist() == k.tolist()


def test_without_fix_a_the_drafter_proposes_other_logits(
    speculative_engine, prompts, without, observing
):
    from dpace_serve.vllm_engine.cpu_fixes import CONTEXT_KEYS

    right = first_draft_logits(speculative_engine, prompts[0], observing)
    with without(CONTEXT_KEYS):
        wrong = first_draft_logits(speculative_engine, prompts[0], observing)
    again = first_draft_logits(speculative_engine, prompts[0], observing)
    assert (right - again).abs().max() < 1e-5
    assert (right - wrong).abs().max() > 1e-2


def first_draft_logits(engine, prompt, observing):
    from vllm import SamplingParams

    steps = []
    with observing(engine, steps.append):
        engine.generate(
            {"prompt_token_ids": prompt},
            SamplingParams(temperature=0, max_tokens=2),
            use_tqdm=False,
        )
    return steps[0].logits
