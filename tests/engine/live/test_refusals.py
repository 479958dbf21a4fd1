"""Drafters that must not be loaded are refused in one line, and requests notice nothing.

All tests here run beside a client that keeps asking, whose answers and drafter must not change.
"""

import json
import os
import shutil
import threading

import httpx2
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

COMPLETIONS = "/v1/completions"
OPERATIONS = {"swap": "/dpace/drafters/champion", "challenge": "/dpace/drafters/challenger"}
MAX_TOKENS = 24
IDENTITY = ("slot", "role", "is_loading", "name", "revision", "generation")


@pytest.fixture(scope="module", autouse=True)
def neighbour(shared_live, alone, texts):
    """A client that asks from the first test of this file to the last."""
    shared_live.restore()
    expected = alone.ask(COMPLETIONS, prompt=texts[3], max_tokens=MAX_TOKENS)["choices"]
    revision = shared_live.slots()[0]["revision"]
    asked, wrong, is_over = [], [], threading.Event()

    def keep_asking():
        while not is_over.is_set():
            asked.append(shared_live.new_id())
            body = {"prompt": texts[3], "max_tokens": MAX_TOKENS}
            response = shared_live.post(COMPLETIONS, request_id=asked[-1], **body)
            if response.status_code != 200 or response.json()["choices"] != expected:
                wrong.append(response.text)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    yield
    is_over.set()
    thread.join()
    assert len(asked) > 10
    assert wrong == []
    shared_live.records(asked[-1], 2)
    found = {f"cmpl-{request_id}-0": [] for request_id in asked}
    for record in shared_live.logged():
        found.get(record["request_id"], []).append((record["arm"], record["excluded"]))
        if record["request_id"] in found and record["arm"] == "champion":
            assert (record["drafter"], record["revision"]) == ("dpace", revision)
    assert all(arms == [("champion", None), ("shadow", None)] for arms in found.values())


@pytest.fixture
def damaged(shared_live):
    """A copy of the champion under the root, to be damaged."""
    folder = shutil.copytree(shared_live.root / "dpace", shared_live.root / "damaged")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def refused(shared_live):
    """Ask for a folder in both roles: the answer, after checking that nothing else happened."""

    def ask(folder, *, status, operation="swap", result="refused", **more):
        # Only a drafter that was tried has cost the retired one whose slot it was tried in.
        shown = identities if result != "failed" else working
        before, counted = shown(shared_live), operations(shared_live)
        body = {"folder": str(folder), **more}
        response = shared_live.admin.put(OPERATIONS[operation], json=body)
        assert response.status_code == status, response.text
        assert shown(shared_live) == before
        counted[operation, result] += 1
        assert operations(shared_live) == counted
        line = response.json()["error"]["message"]
        assert line.isprintable()
        assert line.endswith(".")
        assert str(shared_live.root) not in line
        return line

    return ask


def identities(live):
    return [{key: slot[key] for key in IDENTITY} for slot in live.slots()]


def working(live):
    return [slot for slot in identities(live) if slot["role"] in ("champion", "challenger")]


def operations(live):
    return {
        (sample.labels["operation"], sample.labels["result"]): sample.value
        for sample in live.samples()["dpace_drafter_swaps_total"]
    }


def change(folder, values=None, **dflash):
    """Change a drafter's configuration, and the group of DFlash inside it."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | (values or {})
    config["dflash_config"] |= dflash
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("dflash", "words"),
    [
        ({"target_layer_ids": [2, 8, 14, 20, 26]}, "target_layer_ids must be [1, 7, 13, 19, 25]"),
        ({"target_layer_ids": [0, 6, 12, 18, 24]}, "target_layer_ids must be [1, 7, 13, 19, 25]"),
        ({"target_layer_ids": [4, 10, 16, 22, 28]}, "must lie in 0..27"),
        ({"mask_token_id": 4096}, "must be a token id below vocab_size"),
        ({"mask_token_id": 0}, "end of text"),
        ({"mask_token_id": 1}, "the chat template writes 1"),
        ({"mask_token_id": 900}, "must be an unused or special token"),
        ({"mask_token_id": 2}, "mask"),
        ({"causal": True}, "dflash_config.causal must be false"),
        ({"block_size": 16}, "block_size must be the same in both places"),
    ],
)
def test_damage_inside_dflash_config_is_refused(damaged, refused, dflash, words):
    change(damaged, **dflash)
    assert words in refused("damaged", status=422)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rope_theta": 1e6, "rope_parameters": None}, "rope"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"partial_rotary_factor": 0.25}, "shape"),
        ({"is_causal": True}, "is_causal must be false"),
        ({"vocab_size": 5000}, "vocab_size"),
        ({"num_target_layers": 36}, "num_target_layers must be 28"),
        ({"has_own_lm_head": True}, "has_own_lm_head must be false"),
        ({"block_size": 16}, "block_size 16 instead of 8"),
        ({"block_size": 4}, "block_size must be at least 8, because this server drafts 7"),
        ({"block_size": 1}, "block_size"),
        ({"num_hidden_layers": 1, "layer_types": ["full_attention"]}, "layers.1."),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        (
            {
                "layer_types": ["full_attention", "sliding_attention"],
                "sliding_window": 16,
                "use_sliding_window": True,
            },
            "vLLM serves with its second model runner only",
        ),
    ],
)
def test_damage_beside_it_is_refused(damaged, refused, values, words):
    change(damaged, values)
    assert words in refused("damaged", status=422, operation="challenge")


@pytest.mark.parametrize("num_bytes", [0, 4, 200, -100])
def test_a_truncated_weight_file_is_refused(damaged, refused, num_bytes):
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:num_bytes])
    line = refused("damaged", status=422)
    assert line.startswith("damaged/model.safetensors: ")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda tensors: tensors.pop("layers.1.mlp.down_proj.weight"), "layers.1.mlp.down_proj"),
        (
            lambda tensors: tensors.update({"fc.weight": tensors["fc.weight"][:, 1:].clone()}),
            "fc.weight",
        ),
    ],
    ids=["missing", "of another shape"],
)
def test_a_tensor_that_is_not_as_the_configuration_says_is_refused(damaged, refused, damage, words):
    from safetensors.torch import load_file, save_file

    weights = damaged / "model.safetensors"
    tensors = load_file(weights)
    damage(tensors)
    save_file(tensors, weights, metadata={"format": "pt"})
    assert words in refused("damaged", status=422)


def test_a_drafter_of_a_target_with_another_hidden_size_is_refused(damaged, refused):
    import torch

    from dpace_serve.drafter import checkpoint

    change(damaged, {"hidden_size": 256})
    config = checkpoint.read_config(damaged)
    shapes = checkpoint.tensor_shapes(config)
    checkpoint.write(
        damaged, config, {name: torch.ones(shape).bfloat16() for name, shape in shapes.items()}
    )
    assert "hidden_size must be 192 for this target, got 256" in refused("damaged", status=422)


def test_a_drafter_that_computes_no_numbers_is_refused_once_it_is_tried(damaged, refused):
    import torch
    from safetensors.torch import load_file, save_file

    weights = damaged / "model.safetensors"
    tensors = load_file(weights)
    tensors["norm.weight"] = torch.full_like(tensors["norm.weight"], torch.nan)
    save_file(tensors, weights, metadata={"format": "pt"})
    line = refused("damaged", status=422, operation="challenge", result="failed")
    assert "must compute finite numbers" in line


def test_other_folders_of_the_machine_are_refused(shared_live, refused, tmp_path):
    shutil.copytree(shared_live.root / "dpace", tmp_path / "sound")
    link = shared_live.root / "link"
    link.symlink_to(tmp_path / "sound")
    outside = os.path.relpath(tmp_path / "sound", shared_live.root)
    for given in (tmp_path / "sound", outside, "link", "/etc", tmp_path / "nothing"):
        assert "must lie under the server's drafter_root" in refused(given, status=403)
    link.unlink()
    assert "must be a folder" in refused("nothing", status=404)


def test_a_weight_file_that_is_a_link_out_of_the_root_is_refused(damaged, refused, tmp_path):
    weights = damaged / "model.safetensors"
    shutil.move(weights, tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    line = refused("damaged", status=403)
    assert "must not lead out of drafter_root" in line
    assert "elsewhere" not in line


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt"])
def test_a_folder_with_a_pickle_is_refused(damaged, refused, name):
    (damaged / name).write_bytes(b"\x80\x04.")
    assert f"'{name}' must not be there" in refused("damaged", status=422)


def test_another_revision_than_asked_for_is_refused(damaged, refused):
    line = refused("damaged", status=422, name="other", revision="0000")
    assert "the revision must start with 0000" in line


def test_a_name_of_another_loaded_drafter_is_refused(damaged, refused):
    change(damaged, {"dpace": {"objective": "decay"}})
    line = refused("damaged", status=409, name="dflash")
    assert "names must differ" in line


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 422),
        (b'{"folder": "dpace", "force": true}', 422),
        (b"{}", 422),
        (b" " * 70_000, 413),
    ],
)
def test_a_malformed_request_is_refused_before_it_counts(shared_live, content, status):
    before, counted = identities(shared_live), operations(shared_live)
    response = shared_live.admin.put(OPERATIONS["swap"], content=content)
    assert response.status_code == status
    assert response.json()["error"]["message"].isprintable()
    assert (identities(shared_live), operations(shared_live)) == (before, counted)


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", path) for path in OPERATIONS.values()]
    + [("DELETE", OPERATIONS["challenge"]), ("POST", "/dpace/promote")],
)
def test_only_the_admin_key_changes_drafters(shared_live, method, path):
    before, counted = identities(shared_live), operations(shared_live)
    url = shared_live.client.base_url.join(path)
    users = shared_live.client.headers["Authorization"]
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": users}):
        response = httpx2.request(
            method, url, headers=headers, content=b'{"folder": "dflash"}', trust_env=False
        )
        assert response.status_code == 401
        assert "admin key" in response.json()["error"]["message"]
    assert identities(shared_live) == before
    (changed,) = operations(shared_live).items() - counted.items()
    (_, result), count = changed
    assert (result, count) == ("unauthorized", counted[changed[0]] + 3)


def test_the_admin_key_reads_what_is_below_our_prefix_and_asks_nothing(shared_live):
    for path in ("/dpace/drafters", "/dpace/acceptance"):
        assert shared_live.admin.get(path).status_code == 200
    asked = shared_live.admin.post(COMPLETIONS, json={"model": "tiny", "prompt": "a"})
    assert asked.status_code == 401
    assert shared_live.admin.get("/v1/models").status_code == 401
