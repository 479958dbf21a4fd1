"""Which folders may be loaded, and how little a refusal tells."""

import contextlib
import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from dpace_serve.drafter import checkpoint
from dpace_serve.errors import SwapError
from dpace_serve.live.admission import DrafterRequest, describe


def ask(folder, **more):
    return DrafterRequest(folder=str(folder), **more)


def refusal(admission, request):
    with pytest.raises(SwapError) as caught:
        admission.admit(request)
    text = str(caught.value)
    assert text.isprintable(), "a refusal is one line"
    return caught.value.status, text


def test_a_good_drafter_is_admitted_under_its_folders_name(admission, root, config):
    candidate = admission.admit(ask(root / "dpace"))
    assert (candidate.name, candidate.folder) == ("dpace", (root / "dpace").resolve())
    assert candidate.revision == checkpoint.revision(root / "dpace")
    assert candidate.config == config


def test_a_relative_path_starts_at_the_root_and_a_name_may_be_given(admission, root):
    candidate = admission.admit(ask("dflash", name="second.try-1"))
    assert (candidate.name, candidate.folder) == ("second.try-1", (root / "dflash").resolve())


def test_without_a_root_nothing_is_loaded(admission, root):
    status, text = refusal(replace(admission, root=None), ask(root / "dpace"))
    assert status == 403
    assert "drafter_root" in text


def test_outside_the_root_it_is_refused_whether_there_is_something_or_not(admission, root):
    outside = root.parent / "other"
    answers = [refusal(admission, ask(outside)), refusal(admission, ask("../other"))]
    shutil.copytree(root / "dpace", outside)
    answers += [refusal(admission, ask(outside)), refusal(admission, ask("../other"))]
    assert [status for status, _ in answers] == [403] * 4
    assert answers[0] == answers[2]
    assert answers[1] == answers[3]
    assert str(root) not in str(answers)


def test_a_link_out_of_the_root_is_refused_and_one_inside_is_followed(admission, root):
    shutil.copytree(root / "dpace", root.parent / "other")
    (root / "escape").symlink_to(root.parent / "other")
    status, text = refusal(admission, ask("escape"))
    assert status == 403
    assert "other" not in text
    (root / "current").symlink_to("dpace")
    assert admission.admit(ask("current")).name == "dpace"


def test_a_file_that_leads_out_of_the_root_is_refused(admission, root):
    secret = root.parent / "secret"
    (root / "dpace" / "model.safetensors").rename(secret)
    (root / "dpace" / "model.safetensors").symlink_to(secret)
    status, text = refusal(admission, ask("dpace"))
    assert status == 403
    assert "secret" not in text


def test_files_may_be_links_inside_the_root(admission, root):
    (root / "blob").symlink_to(root / "dpace" / "model.safetensors")
    (root / "dflash" / "model.safetensors").unlink()
    (root / "dflash" / "model.safetensors").symlink_to(root / "blob")
    assert admission.admit(ask("dflash")).name == "dflash"


def test_links_that_go_round_in_circles_are_refused(admission, root):
    (root / "round").symlink_to("round")
    assert refusal(admission, ask("round"))[0] in (403, 404)
    (root / "dpace" / "extra").symlink_to("extra")
    assert refusal(admission, ask("dpace"))[0] in (403, 422)


@pytest.mark.parametrize("folder", ["absent", "dpace/config.json", "x" * 3000])
def test_what_is_no_folder_is_not_found(admission, folder):
    assert refusal(admission, ask(folder))[0] == 404


@pytest.mark.parametrize("name", ["model.bin", "mask_embedding.pt", "optimizer.PKL", "old.ckpt"])
def test_a_pickle_beside_good_weights_is_refused(admission, root, name):
    (root / "dpace" / name).write_bytes(b"x")
    status, text = refusal(admission, ask("dpace"))
    assert status == 422
    assert repr(name) in text


def test_a_pipe_is_refused_and_not_waited_for(admission, root):
    (root / "dpace" / "config.json").unlink()
    os.mkfifo(root / "dpace" / "config.json")
    assert refusal(admission, ask("dpace"))[0] == 422


def test_the_doctors_refusal_names_the_given_path_only(admission, root):
    (root / "dpace" / "model.safetensors").write_bytes(b"damaged")
    (root / "link").symlink_to("dpace")
    status, text = refusal(admission, ask("link"))
    assert status == 422
    assert text.startswith("link/model.safetensors: ")
    assert str(root) not in text


def test_a_damaged_target_is_not_located(admission, tmp_path):
    target = tmp_path / "private-target"
    target.mkdir()
    (target / "config.json").write_text("{")
    status, text = refusal(replace(admission, target=str(target)), ask("dpace"))
    assert status == 422
    assert text.startswith("the target/config.json: ")
    assert str(tmp_path) not in text


def test_a_block_that_is_too_small_for_this_server_is_refused_by_its_size(admission):
    status, text = refusal(replace(admission, num_draft_tokens=8), ask("dpace"))
    assert status == 422
    assert text == (
        "block_size must be at least 9, because this server drafts 8 tokens per block, got 8. "
        "Start a server with this drafter."
    )


def test_other_layers_than_the_champions_are_refused(admission):
    status, text = refusal(replace(admission, target_layer_ids=(1, 7)), ask("dpace"))
    assert status == 422
    assert "target_layer_ids must be [1, 7]" in text


def test_the_revision_must_start_as_asked(admission, root):
    revision = checkpoint.revision(root / "dpace")
    assert admission.admit(ask("dpace", revision=revision[:4])).revision == revision
    assert admission.admit(ask("dpace", revision=revision)).revision == revision
    other = checkpoint.revision(root / "dflash")
    status, text = refusal(admission, ask("dpace", revision=other))
    assert status == 422
    assert f"must start with {other}, is {revision}" in text


def test_a_folder_whose_name_is_no_label_needs_one(admission, root):
    (root / "dpace").rename(root / "my drafter")
    status, text = refusal(admission, ask("my drafter"))
    assert status == 422
    assert "Give it a name" in text
    assert admission.admit(ask("my drafter", name="mine")).name == "mine"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"folder": ""},
        {"folder": "a\nb"},
        {"folder": "a\x00b"},
        {"folder": "x" * 5000},
        {"folder": 3},
        {"folder": "a", "name": "a b"},
        {"folder": "a", "name": "a\n"},
        {"folder": "a", "name": "x" * 65},
        {"folder": "a", "revision": "../"},
        {"folder": "a", "revision": ""},
        {"folder": "a", "force": True},
    ],
)
def test_a_malformed_request_is_refused(values):
    with pytest.raises(ValidationError):
        DrafterRequest.model_validate(values)


def test_a_change_after_admission_is_noticed(admission, root):
    request = ask("dpace")
    candidate = admission.admit(request)
    admission.require_unchanged(candidate, request)
    shutil.copy(root / "dflash" / "model.safetensors", root / "dpace" / "model.safetensors")
    with pytest.raises(SwapError, match="must not change while it is loaded") as caught:
        admission.require_unchanged(candidate, request)
    assert caught.value.status == 422
    shutil.rmtree(root / "dpace")
    with pytest.raises(SwapError, match="must not change"):
        admission.require_unchanged(candidate, request)


HOSTILE = [
    '{"num_hidden_layers": 1000000, "layer_types": null}',
    '{"num_hidden_layers": 100000000, "layer_types": null}',
    '{"num_hidden_layers": 1000000, "layer_types": null, "use_sliding_window": true,'
    ' "sliding_window": 64, "max_window_layers": 0}',
    f'{{"num_target_layers": {"9" * 401}}}',
    f'{{"head_dim": {"9" * 401}}}',
    f'{{"rms_norm_eps": {"9" * 401}}}',
    f'{{"rope_theta": {"9" * 401}}}',
    f'{{"vocab_size": {"9" * 401}, "draft_vocab_size": {"8" * 401}}}',
    f'{{"rope_parameters": {{"rope_theta": 10000, "rope_type": "linear", "factor": {"9" * 401}}}}}',
    '{"rope_parameters": {"rope_theta": 10000, "rope_type": [[]]}}',
    '{"layer_types": ["full_attention", []]}',
    '{"layer_types": {}}',
    f'{{"layer_types": "{"y" * 100_000}"}}',
    f'{{"dflash_config": {{"mask_token_id": 1, "target_layer_ids": [{"1," * 100_000}1]}}}}',
    f'{{"model_type": {"[" * 900}{"]" * 900}}}',
    f'{{"speculators_model_type": "dflash", "transformer_layer_config": {{"num_target_layers": 28,'
    f' "num_hidden_layers": {"9" * 401}}}}}',
    '{"speculators_model_type": "dflash", "transformer_layer_config": {"num_target_layers": 28,'
    ' "num_hidden_layers": 2, "layer_types": 5}}',
]  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("changes", HOSTILE)
def test_a_hostile_configuration_is_refused_at_once_and_in_few_words(admission, root, changes):
    file = root / "dpace" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | json.loads(changes)))
    with one_gigabyte_more():
        status, text = refusal(admission, ask("dpace"))
    assert status == 422
    assert len(text) < 600


@contextlib.contextmanager
def one_gigabyte_more():
    """Memory of this process is limited to what it has and a gigabyte."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 10**9, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_drafter_given_at_start_is_described_without_a_root(root):
    assert describe(root / "dpace").name == "dpace"
    assert describe(root / "dpace", name="first").name == "first"
