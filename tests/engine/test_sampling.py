"""At temperature 1, speculation leaves the distribution of the target's tokens alone."""

from collections import Counter
from statistics import fmean

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NUM_SAMPLES = 1500
NUM_POSITIONS = 4
PROMPT = "The"
TOLERANCE = 0.04
"""Mean distance above the noise floor that is still noise."""
FAR = 0.15
"""Mean distance above the noise floor that nobody would call noise."""


@pytest.fixture(scope="module")
def target_samples(plain_engine):
    """The target's own samples."""
    return sample(plain_engine)


@pytest.fixture(scope="module")
def noise_floor(plain_engine, target_samples):
    """Distance between two independent sets of the target's own samples, by position."""
    return distances(sample(plain_engine), target_samples)


def test_sampled_tokens_are_distributed_as_the_targets_own(
    speculative_engine, target_samples, noise_floor
):
    found = distances(sample(speculative_engine), target_samples)
    assert fmean(found) <= fmean(noise_floor) + TOLERANCE, (found, noise_floor)


@pytest.mark.long
def test_without_fix_b_they_are_far_from_it(
    speculative_engine, target_samples, noise_floor, without
):
    from dpace_serve.vllm_engine.cpu_fixes import EXPAND_BATCH

    with without(EXPAND_BATCH):
        found = distances(sample(speculative_engine), target_samples)
    # The first token comes from the prompt's own pass, which verifies nothing.
    assert fmean(found[1:]) >= fmean(noise_floor[1:]) + FAR, (found, noise_floor)


def sample(engine):
    """First tokens of many answers to one prompt: one tuple per answer."""
    from vllm import SamplingParams

    prompt = {"prompt_token_ids": engine.get_tokenizer().encode(PROMPT)}
    finished = engine.generate(
        [prompt] * NUM_SAMPLES,
        SamplingParams(temperature=1, max_tokens=NUM_POSITIONS + 1, ignore_eos=True),
        use_tqdm=False,
    )
    return [tuple(output.outputs[0].token_ids[:NUM_POSITIONS]) for output in finished]


def distances(samples, others):
    """Total-variation distance of the two empirical distributions at each position."""
    return [
        total_variation(Counter(row[i] for row in samples), Counter(row[i] for row in others))
        for i in range(NUM_POSITIONS)
    ]


def total_variation(counts, others):
    size, other_size = sum(counts.values()), sum(others.values())
    return 0.5 * sum(
        abs(counts[token] / size - others[token] / other_size) for token in counts | others
    )
