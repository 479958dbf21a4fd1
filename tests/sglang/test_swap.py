"""A swap of the drafter in a running server: the target is never touched, nor is an answer."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors.torch import load_file, save_file

from dpace_serve.drafter import checkpoint
from dpace_serve.sglang_engine.front import WEIGHT_PATHS

pytestmark = [pytest.mark.sglang]

MAX_TOKENS = 48
# Of the target, with the shape and the name that a tensor of the drafter has.
SHARED_NAMES = ("model.layers.0.mlp.down_proj.weight", "model.norm.weight")


@pytest.fixture
def swap(admin, drafter_root):
    """Load a drafter from the root; at the end dflash is back."""

    def load(folder, status=200):
        answer = admin.put("/dpace/drafters/champion", json={"folder": folder})
        assert answer.status_code == status, answer.text
        return answer.json()

    yield load
    load("dflash")


@pytest.fixture
def damaged(drafter_root, tmp_path_factory):
    """A copy of dpace below the root with changed tensors: `damaged("name", change)`."""
    made = []

    def copy(name, change):
        folder = drafter_root / name
        shutil.copytree(drafter_root / "dpace", folder)
        made.append(folder)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return name

    yield copy
    for folder in made:
        shutil.rmtree(folder)


def steps(served, prompts):
    """Answers, and accepted drafts of each step, of some prompts."""
    answers = [served.generate(prompt, max_tokens=MAX_TOKENS) for prompt in prompts]
    records = [served.record(answer["meta_info"]["id"]) for answer in answers]
    return (
        [answer["output_ids"] for answer in answers],
        [(record["drafter"], record["per_step_accepted"]) for record in records],
    )


def targets_weights(served):
    return [
        served.client.post("/get_weights_by_name", json={"name": name, "truncate_size": 50}).json()
        for name in SHARED_NAMES
    ]


def test_it_changes_the_drafts_and_nothing_else_and_back_again(served, swap, prompts, drafter_root):
    weights = targets_weights(served)
    assert all(len(rows) for rows in weights)
    answers, with_dflash = steps(served, prompts[:6])
    document = swap("dpace")
    assert document["former_champion"]["name"] == "dflash"
    revision = checkpoint.revision(drafter_root / "dpace")
    assert served.state()["revision"] == document["drafter"]["revision"] == revision
    same_answers, with_dpace = steps(served, prompts[:6])
    assert same_answers == answers
    assert {name for name, _ in with_dpace} == {"dpace"}
    assert [accepted for _, accepted in with_dpace] != [accepted for _, accepted in with_dflash]
    swap("dflash")
    assert steps(served, prompts[:6]) == (answers, with_dflash)
    assert targets_weights(served) == weights


def test_nothing_cached_by_the_former_drafter_is_used(served, swap, prompts):
    served.generate(prompts[0], max_tokens=MAX_TOKENS)
    again = served.generate(prompts[0], max_tokens=MAX_TOKENS)
    assert again["meta_info"]["cached_tokens"] > 0
    swap("dpace")
    fresh = served.generate(prompts[0], max_tokens=MAX_TOKENS)
    assert fresh["meta_info"]["cached_tokens"] == 0


def test_requests_around_a_swap_have_one_drafter_each_and_their_own_answer(served, swap, prompts):
    alone = [served.generate(prompt, max_tokens=MAX_TOKENS)["output_ids"] for prompt in prompts[:8]]
    asked = [index % 8 for index in range(40)]
    with ThreadPoolExecutor(7) as pool:
        running = [
            pool.submit(served.generate, prompts[index], max_tokens=MAX_TOKENS) for index in asked
        ]
        names = ["dpace", "dflash", "dpace"]
        swapped = [swap(name)["drafter"]["name"] for name in names]
        answers = [one.result() for one in running]
    assert swapped == names
    assert [answer["output_ids"] for answer in answers] == [alone[index] for index in asked]
    records = [served.record(answer["meta_info"]["id"]) for answer in answers]
    assert None not in records
    assert {record["drafter"] for record in records} == {"dflash", "dpace"}
    assert not any(served.acceptance()["export_errors"].values())


@pytest.mark.parametrize("path", sorted(WEIGHT_PATHS))
def test_sglangs_own_ways_to_weights_are_refused(served, prompts, drafter_root, path):
    expected = steps(served, prompts[:2])
    body = {"model_path": str(drafter_root / "dpace"), "selector": "draft"}
    answer = served.client.post(path, json=body)
    assert (
        answer.status_code == 404
    )  # the gate has no such route; behind it stands a second refusal
    assert steps(served, prompts[:2]) == expected


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("no-norm", lambda tensors: tensors.pop("norm.weight"), "norm.weight"),
        ("one-more", lambda tensors: tensors.update(more=tensors["norm.weight"] + 0), "more"),
        ("nan", lambda tensors: tensors["norm.weight"].fill_(float("nan")), "finite"),
    ],
)
def test_a_drafter_that_is_not_whole_is_refused_and_the_former_serves_on(
    served, swap, damaged, prompts, name, change, said
):
    expected = steps(served, prompts[:2])
    assert said in json.dumps(swap(damaged(name, change), status=422))
    assert steps(served, prompts[:2]) == expected
    assert served.state()["revision"] == served.acceptance()["drafter"]["revision"]


def test_what_may_not_be_loaded_is_refused(swap, admin):
    swap("../dpace", status=403)
    swap("nothing", status=404)
    challenge = admin.put("/dpace/drafters/challenger", json={"folder": "dpace"})
    assert challenge.status_code == 403
    assert "hosts one drafter" in challenge.json()["error"]["message"]
