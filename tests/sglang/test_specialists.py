"""SGLang drafts with position specialists what the training model drafts, step by step, in float32.

Each kind in a server of its own, as a server hosts one shape. Neither groups of two nor of three
positions divide the seven drafts of a block.
"""

from functools import cache

import httpx2
import pytest

from dpace_serve.demo import bundle
from tests.engine.specialist_drafters import KINDS, make

from .conftest import (  # noqa: TID252 - tests have no package
    ADMIN_KEY,
    API_KEY,
    OPENED,
    START_TIMEOUT_SECONDS,
    Served,
)

pytestmark = [pytest.mark.sglang]

MAX_TOKENS = 48
NUM_PROMPTS = 8
MIN_STEPS = 60
MAX_LOGIT_DIFFERENCE = 1e-4
SERVED = ("low_rank-3", "last_layer-2")
OF_ANOTHER_SHAPE = {"low_rank-3": "low_rank-2", "last_layer-2": "last_layer-3"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """For each kind a drafter, another of its shape ("-other"), and one of another group size."""
    folder = tmp_path_factory.mktemp("specialists")
    for seed, name in enumerate(SERVED):
        make(folder / name, KINDS[name], seed=seed)
        make(folder / f"{name}-other", KINDS[name], source="dflash", seed=10 + seed)
        make(folder / OF_ANOTHER_SHAPE[name], KINDS[OF_ANOTHER_SHAPE[name]], seed=20 + seed)
    return folder


@pytest.fixture(scope="module")
def chosen(prompts):
    return prompts[:: len(prompts) // NUM_PROMPTS][:NUM_PROMPTS]


@pytest.fixture(scope="module")
def reference(chosen):
    """What the plain draft-verify loop does with each prompt, without any engine."""
    import torch

    from dpace_training.data.target_model import load_target
    from dpace_training.evaluation.compare import load_drafter
    from dpace_training.evaluation.decode import decode

    target = load_target(bundle.target_folder(), dtype=torch.float32)

    @cache
    def decoded(folder):
        drafter = load_drafter(folder)
        return [
            decode(
                target.model,
                drafter,
                torch.tensor(prompt),
                max_tokens=MAX_TOKENS,
                end_ids=target.end_ids,
            )
            for prompt in chosen
        ]

    return decoded


@pytest.fixture(scope="module", params=SERVED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def hosted(name, root, serve, key_file, tmp_path_factory):
    """A server of a drafter with specialists; it is back in its place after each test."""
    drafts = tmp_path_factory.mktemp("drafts") / "kept"
    options = (
        *OPENED,
        "--drafter", str(root / name),
        "--set", f"drafter_root={root}",
        "--set", f"admin_key_file={key_file(ADMIN_KEY)}",
    )  # fmt: skip
    environment = {"DPACE_TEST_DRAFTS": str(drafts)}
    with serve(*options, environment=environment, drafter=None) as process:
        process.wait_until_healthy(START_TIMEOUT_SECONDS)
        headers = {"Authorization": f"Bearer {API_KEY}"}
        with httpx2.Client(
            base_url=process.url, headers=headers, timeout=300, trust_env=False
        ) as client:
            yield Served(client, process, drafts)


def swap(hosted, folder, status=200):
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    answer = hosted.client.put("/dpace/drafters/champion", json={"folder": folder}, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def require_equal(hosted, prompts, decoded):
    """Ask one by one, and check answers, drafts, logits and records against the plain loop."""
    import torch

    num_steps, largest = 0, 0.0
    hosted.drafts.mkdir()
    for prompt, expected in zip(prompts, decoded, strict=True):
        answer = hosted.generate(prompt, max_tokens=MAX_TOKENS)
        files = sorted(hosted.drafts.iterdir())
        assert answer["output_ids"] == list(expected.tokens)
        for file, step in zip(files, expected.steps, strict=True):
            kept = torch.load(file)
            assert tuple(kept["tokens"].flatten().tolist()) == step.drafts
            largest = max(largest, float((kept["logits"] - step.logits).abs().max()))
            num_steps += 1
            file.unlink()
        record = hosted.record(answer["meta_info"]["id"])
        assert tuple(record["per_step_accepted"]) == expected.settled().per_step_accepted
    hosted.drafts.rmdir()
    assert num_steps >= MIN_STEPS
    assert largest <= MAX_LOGIT_DIFFERENCE


def require_equal_steps(hosted, prompts, decoded):
    """Ask in one batch, and check answers and accepted drafts of each step."""
    sampling = {"temperature": 0, "max_new_tokens": MAX_TOKENS}
    answers = hosted.client.post(
        "/generate", json={"input_ids": prompts, "sampling_params": sampling}
    ).json()
    for answer, expected in zip(answers, decoded, strict=True):
        assert answer["output_ids"] == list(expected.tokens)
        record = hosted.record(answer["meta_info"]["id"])
        assert tuple(record["per_step_accepted"]) == expected.settled().per_step_accepted


def test_every_step_drafts_what_the_training_model_drafts(hosted, name, root, chosen, reference):
    require_equal(hosted, chosen, reference(root / name))


def test_the_specialists_of_a_test_draft_otherwise_than_a_plain_drafter(name, root, reference):
    """Else equality with the training model would say nothing of the specialists."""
    plain = reference(bundle.drafter_folder("dpace"))[0].steps[0].logits
    own = reference(root / name)[0].steps[0].logits
    by_position = (own - plain).abs().amax(dim=-1)
    assert float(by_position.min()) > 0.1


def test_requests_of_one_batch_step_as_alone(hosted, name, root, chosen, reference):
    require_equal_steps(hosted, chosen, reference(root / name))


def test_others_of_the_same_shape_are_swapped_in_and_out(hosted, name, root, chosen, reference):
    other = f"{name}-other"
    swap(hosted, other)
    try:
        require_equal(hosted, chosen, reference(root / other))
    finally:
        swap(hosted, name)
    require_equal_steps(hosted, chosen, reference(root / name))


def test_another_group_size_or_kind_is_refused(hosted, name, root, chosen, reference):
    other_kind = next(other for other in SERVED if other != name)
    for folder in (OF_ANOTHER_SHAPE[name], other_kind):
        refusal = swap(hosted, folder, status=422)
        assert "specialists" in str(refusal)
    require_equal_steps(hosted, chosen, reference(root / name))
