import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dpace_serve.drafter import checkpoint
from dpace_serve.errors import CheckpointError


def refusal(folder):
    """The one line that `validate` says."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.validate(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text
    return text


def shard(drafter, tensors, *, moved=()):
    """Replace the single file by two shards and an index; `moved` names are told wrongly."""
    names = sorted(tensors)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    drafter.weights.unlink()
    for file in set(files.values()):
        drafter.save({n: tensors[n] for n in names if files[n] == file}, file)
    told = {n: "model-00001-of-00002.safetensors" if n in moved else f for n, f in files.items()}
    index = {"metadata": {}, "weight_map": told}
    (drafter.path / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_good_drafter_is_accepted(drafter, config_values):
    config = checkpoint.validate(drafter.path)
    assert config == checkpoint.DrafterConfig.from_dict(config_values)
    assert config == checkpoint.read_config(drafter.path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_three_number_formats_are_accepted(drafter, tensors, dtype):
    drafter.save({name: tensor.to(dtype) for name, tensor in tensors.items()})
    checkpoint.validate(drafter.path)


def test_a_missing_folder_is_a_clear_line(tmp_path):
    assert "folder does not exist" in refusal(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder_is_a_clear_line(drafter):
    assert "this is a file" in refusal(drafter.weights)


def test_an_empty_folder_is_a_clear_line(tmp_path):
    assert "no drafter, config.json is missing" in refusal(tmp_path)


def test_config_without_weights_is_a_clear_line(drafter):
    drafter.weights.unlink()
    assert "model.safetensors is missing" in refusal(drafter.path)


def test_a_config_that_is_not_json_is_a_clear_line(drafter):
    (drafter.path / "config.json").write_text("{block_size: 8}")
    assert "not valid JSON" in refusal(drafter.path)


def test_a_rule_of_the_config_is_reported_with_its_file(drafter):
    drafter.set_config(block_size=1)
    assert refusal(drafter.path).startswith(
        f"{drafter.path / 'config.json'}: block_size must be at least 2"
    )


def test_no_mask_token_is_a_clear_line(drafter):
    drafter.set_dflash(mask_token_id=...)
    assert "mask_token_id must be given, it is missing" in refusal(drafter.path)


def test_layer_ids_out_of_range_are_a_clear_line(drafter):
    drafter.set_dflash(target_layer_ids=[1, 8])
    assert "target_layer_ids must lie in 0..7" in refusal(drafter.path)


def test_a_truncated_file_is_a_clear_line(drafter):
    drafter.weights.write_bytes(drafter.weights.read_bytes()[:-1000])
    assert "cut off, 1000 of" in refusal(drafter.path)


def test_a_file_cut_inside_its_header_is_a_clear_line(drafter):
    drafter.weights.write_bytes(drafter.weights.read_bytes()[:100])
    assert "100 bytes do not hold its header" in refusal(drafter.path)


def test_a_missing_tensor_is_named(drafter, tensors):
    del tensors["layers.1.mlp.down_proj.weight"]
    drafter.save(tensors)
    assert "missing layers.1.mlp.down_proj.weight. Export" in refusal(drafter.path)


def test_an_unknown_tensor_is_named(drafter, tensors):
    drafter.save({**tensors, "layers.2.mlp.up_proj.weight": torch.zeros(96, 64)})
    assert "found unknown layers.2.mlp.up_proj.weight." in refusal(drafter.path)


def test_at_most_three_offenders_are_named(drafter, tensors):
    drafter.save({name: tensors[name] for name in tensors if "layers.1." not in name})
    # A layer has 11 tensors; input_layernorm, down_proj and gate_proj lead in the order of names.
    assert "layers.1.mlp.gate_proj.weight and 8 more" in refusal(drafter.path)


def test_an_own_head_is_refused_with_its_cure(drafter, tensors):
    drafter.save({**tensors, "lm_head.weight": torch.zeros(320, 64, dtype=torch.bfloat16)})
    assert "unknown lm_head.weight. Remove them: embedding and head" in refusal(drafter.path)


def test_prefixed_names_are_refused_with_their_cure(drafter, tensors):
    drafter.save({f"model.{name}": tensor for name, tensor in tensors.items()})
    assert "without the prefix `model.`" in refusal(drafter.path)


def test_a_wrong_shape_is_named_with_both_shapes(drafter, tensors):
    drafter.save({**tensors, "fc.weight": torch.zeros(64, 64, dtype=torch.bfloat16)})
    assert "fc.weight [64, 64] instead of [64, 128]" in refusal(drafter.path)


def test_a_wrong_dtype_is_named(drafter, tensors):
    drafter.save({name: tensor.double() for name, tensor in tensors.items()})
    assert "weights must be one of F32, BF16, F16, found fc.weight F64" in refusal(drafter.path)


def test_mixed_dtypes_are_named(drafter, tensors):
    drafter.save({**tensors, "norm.weight": tensors["norm.weight"].float()})
    assert "found fc.weight BF16, norm.weight F32" in refusal(drafter.path)


def test_a_pickled_drafter_is_refused_unopened(drafter):
    drafter.weights.unlink()
    (drafter.path / "pytorch_model.bin").write_bytes(pickle.dumps(refusal))
    assert "found only pytorch_model.bin, a pickle" in refusal(drafter.path)


def test_a_separate_mask_embedding_is_refused(drafter):
    (drafter.path / "mask_embedding.pt").write_bytes(b"")
    assert "mask_embedding.pt is not supported" in refusal(drafter.path)


def test_a_stray_weight_file_is_refused(drafter):
    drafter.save({"extra": torch.zeros(1)}, "optimizer.safetensors")
    assert "optimizer.safetensors does not belong" in refusal(drafter.path)


def test_shards_are_read_like_one_file(drafter, tensors):
    shard(drafter, tensors)
    checkpoint.validate(drafter.path)
    read = checkpoint.read_tensors(drafter.path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_a_missing_shard_is_named(drafter, tensors):
    shard(drafter, tensors)
    (drafter.path / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors is missing" in refusal(drafter.path)


def test_an_index_that_tells_another_file_is_refused(drafter, tensors):
    second = sorted(tensors)[1]
    shard(drafter, tensors, moved=[second])
    assert f"{second} must be where the index says" in refusal(drafter.path)


@pytest.mark.parametrize("outside", ["../other.safetensors", "/etc/passwd", 3])
def test_an_index_cannot_point_out_of_the_folder(drafter, outside):
    index = {"weight_map": {"fc.weight": outside}}
    (drafter.path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "must name safetensors files of this folder" in refusal(drafter.path)


def test_tensors_read_back_equal(drafter, tensors):
    read = checkpoint.read_tensors(drafter.path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_tensors_of_a_damaged_drafter_are_not_read(drafter):
    drafter.weights.write_bytes(drafter.weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut off, 1 of"):
        checkpoint.read_tensors(drafter.path)


def test_write_read_write_gives_the_same_bytes(drafter, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    checkpoint.write(
        first, checkpoint.read_config(drafter.path), checkpoint.read_tensors(drafter.path)
    )
    read = checkpoint.read_tensors(first)
    backwards = {name: read[name] for name in sorted(read, reverse=True)}
    checkpoint.write(second, checkpoint.read_config(first), backwards)
    assert sorted(path.name for path in first.iterdir()) == ["config.json", "model.safetensors"]
    for name in ("config.json", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert checkpoint.revision(first) == checkpoint.revision(second)


def test_written_config_says_the_format_and_the_facts(tmp_path, drafter, tensors):
    config = dataclasses.replace(checkpoint.read_config(drafter.path), objective="dpace")
    checkpoint.write(tmp_path / "out", config, tensors)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["dtype"] == "bfloat16"
    assert written["dpace"] == {"objective": "dpace"}
    assert checkpoint.validate(tmp_path / "out") == config


def test_views_into_one_buffer_are_written_apart(tmp_path, drafter, tensors):
    config = checkpoint.read_config(drafter.path)
    transposed = tensors["fc.weight"].t().contiguous().t()
    checkpoint.write(tmp_path / "out", config, {**tensors, "fc.weight": transposed})
    assert torch.equal(
        load_file(tmp_path / "out" / "model.safetensors")["fc.weight"], tensors["fc.weight"]
    )


def test_tensors_that_do_not_fit_are_not_written(tmp_path, drafter, tensors):
    del tensors["norm.weight"]
    with pytest.raises(CheckpointError, match=r"missing norm\.weight"):
        checkpoint.write(tmp_path / "out", checkpoint.read_config(drafter.path), tensors)
    assert not (tmp_path / "out").exists()


def test_overwriting_leaves_no_shard_behind_and_no_foreign_file_lost(drafter, tensors):
    config = checkpoint.read_config(drafter.path)
    shard(drafter, tensors)
    (drafter.path / "notes.txt").write_text("kept")
    checkpoint.write(drafter.path, config, tensors)
    assert sorted(path.name for path in drafter.path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "notes.txt",
    ]
    checkpoint.validate(drafter.path)


def test_an_interrupted_write_leaves_the_old_drafter_whole(drafter, tensors, monkeypatch):
    before = checkpoint.revision(drafter.path)
    config = checkpoint.read_config(drafter.path)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    changed = {name: tensor + 1 for name, tensor in tensors.items()}
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(drafter.path, config, changed)
    assert checkpoint.revision(drafter.path) == before
    assert sorted(path.name for path in drafter.path.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


class CrashError(Exception):
    pass


@pytest.mark.parametrize("num_steps", range(5))
def test_a_crash_while_files_change_names_never_leaves_a_mixed_pair(
    drafter, tensors, monkeypatch, num_steps
):
    # The steps: away with the old configuration, index and weights; new weights, configuration.
    old = checkpoint.read_config(drafter.path)
    new = dataclasses.replace(old, objective="another")
    changed = {name: tensor + 1 for name, tensor in tensors.items()}
    left = [num_steps]

    def until_the_crash(step):
        def counted(path, *args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise CrashError
            return step(path, *args, **kwargs)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", until_the_crash(Path.unlink))
        patch.setattr(Path, "replace", until_the_crash(Path.replace))
        with pytest.raises(CrashError):
            checkpoint.write(drafter.path, new, changed)
    if num_steps == 0:
        assert checkpoint.validate(drafter.path) == old
        assert torch.equal(checkpoint.read_tensors(drafter.path)["fc.weight"], tensors["fc.weight"])
    else:
        assert "config.json is missing" in refusal(drafter.path)
    checkpoint.write(drafter.path, new, changed)
    assert checkpoint.validate(drafter.path) == new
    assert torch.equal(checkpoint.read_tensors(drafter.path)["fc.weight"], changed["fc.weight"])


def test_written_files_can_be_read_by_a_server_of_another_user(tmp_path, drafter, tensors):
    checkpoint.write(tmp_path / "out", checkpoint.read_config(drafter.path), tensors)
    plain = tmp_path / "plain"
    plain.touch()
    for path in (tmp_path / "out").iterdir():
        assert path.stat().st_mode == plain.stat().st_mode


def test_the_revision_is_the_hash_of_both_files(drafter):
    content = (drafter.path / "config.json").read_bytes() + drafter.weights.read_bytes()
    assert checkpoint.revision(drafter.path) == hashlib.sha256(content).hexdigest()[:12]


def test_the_revision_follows_every_byte(drafter):
    before = checkpoint.revision(drafter.path)
    raw = bytearray(drafter.weights.read_bytes())
    raw[-1] ^= 1
    drafter.weights.write_bytes(raw)
    assert checkpoint.revision(drafter.path) != before


def test_checking_a_drafter_needs_no_torch(drafter):
    program = (
        "import sys; from pathlib import Path; from dpace_serve.drafter import checkpoint, doctor;"
        f"checkpoint.validate(Path({str(drafter.path)!r}));"
        f"checkpoint.revision(Path({str(drafter.path)!r}));"
        "assert not {'torch', 'safetensors', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
