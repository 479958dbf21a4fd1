"""Layouts of other tools, written here with json and safetensors alone, read and written back."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpace_serve.cli import main
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.exchange import export, read_drafter, read_layout
from dpace_serve.drafter.sliding import SlidingAttention
from dpace_serve.errors import CheckpointError, ConfigError


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(call, *arguments, **named):
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        call(*arguments, **named)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_to_speculators_and_back_gives_the_same_drafter(drafter, tied_target, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    export(drafter.path, there, layout="speculators", target=tied_target)
    export(there, back, layout="zlab", target=None)
    assert checkpoint.validate(back) == checkpoint.read_config(drafter.path)
    assert same(checkpoint.read_tensors(back), checkpoint.read_tensors(drafter.path))


def test_what_is_written_for_speculators_says_what_its_users_read(drafter, tied_target, tmp_path):
    out = tmp_path / "out"
    export(drafter.path, out, layout="speculators", target=tied_target)
    values = json.loads((out / "config.json").read_text())
    assert values["speculators_model_type"] == "dflash"
    assert "model_type" not in values  # vLLM hands any that it does not know to transformers
    assert values["aux_hidden_state_layer_ids"] == [2, 6]
    assert values["sliding_window_non_causal"] is True  # false: vLLM makes every layer causal
    assert values["speculators_config"]["proposal_methods"][0]["speculative_tokens"] == 7
    assert values["speculators_config"]["verifier"] == {
        "name_or_path": str(tied_target),
        "architectures": ["Qwen3ForCausalLM"],
    }
    assert values["transformer_layer_config"]["num_hidden_layers"] == 2
    assert same(load_file(out / "model.safetensors"), checkpoint.read_tensors(drafter.path))


@pytest.mark.parametrize("layout", ["zlab", "speculators"])
def test_write_read_write_gives_the_same_bytes(drafter, tied_target, tmp_path, layout):
    first, second = tmp_path / "first", tmp_path / "second"
    export(drafter.path, first, layout=layout, target=tied_target)
    export(first, second, layout=layout, target=tied_target)
    assert files(first) == files(second)


@pytest.mark.parametrize("is_causal", [True, False])
def test_windows_survive_the_way_there_and_back(drafter, tied_target, tmp_path, is_causal):
    drafter.set_config(
        layer_types=["sliding_attention"] * 2, sliding_window=16, use_sliding_window=True,
        is_causal=None if is_causal else False,
    )  # fmt: skip
    export(drafter.path, tmp_path / "there", layout="speculators", target=tied_target)
    config = read_layout(tmp_path / "there", target=None)
    assert config.sliding == SlidingAttention(16, (0, 1), is_causal)


def test_causal_windows_in_some_layers_cannot_be_said_to_vllm(drafter, tied_target, tmp_path):
    drafter.set_config(
        layer_types=["full_attention", "sliding_attention"], sliding_window=16,
        use_sliding_window=True,
    )  # fmt: skip
    text = refusal(export, drafter.path, tmp_path / "out", layout="speculators", target=tied_target)
    assert "vLLM would make all its layers causal" in text
    assert not (tmp_path / "out").exists()


def test_a_specforge_folder_in_shards_is_read(drafter, tensors, tmp_path):
    names = sorted(tensors)
    shards = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    drafter.weights.unlink()
    for file in set(shards.values()):
        drafter.save({name: tensors[name] for name in names if shards[name] == file}, file)
    index = {"metadata": {"total_size": 1}, "weight_map": shards}
    (drafter.path / "model.safetensors.index.json").write_text(json.dumps(index))
    drafter.set_config(auto_map={"AutoModel": "dflash.DFlashDraftModel"}, block_size=8)
    export(drafter.path, tmp_path / "out", layout="zlab", target=None)
    assert same(checkpoint.read_tensors(tmp_path / "out"), tensors)


def test_the_targets_own_embedding_and_head_are_left_out(
    speculators, tied_target, embedding, tmp_path
):
    # A tied target stores its head once, as the embedding.
    speculators.save(**{"embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()})
    export(speculators.path, tmp_path / "out", layout="zlab", target=tied_target)
    assert same(checkpoint.read_tensors(tmp_path / "out"), speculators.tensors)


@pytest.mark.parametrize("name", ["embed_tokens.weight", "lm_head.weight"])
def test_an_embedding_or_head_of_its_own_is_refused(speculators, tied_target, embedding, name):
    changed = embedding.clone()
    changed[5, 6] += 1
    speculators.save(**{name: changed})
    assert f"{name} must equal that of" in refusal(
        read_drafter, speculators.path, target=tied_target
    )


def test_an_untied_head_is_compared_with_the_targets_head(speculators, target, embedding):
    head = embedding.flip(0).contiguous()
    save_file(
        {"model.embed_tokens.weight": embedding, "lm_head.weight": head},
        target.path / "model.safetensors",
    )
    speculators.save(**{"lm_head.weight": head})
    read_drafter(speculators.path, target=target.path)
    speculators.save(**{"lm_head.weight": embedding})
    assert "lm_head.weight must equal" in refusal(
        read_drafter, speculators.path, target=target.path
    )


def test_an_embedding_without_a_target_to_compare_asks_for_it(drafter, tensors, embedding):
    drafter.save({**tensors, "embed_tokens.weight": embedding})
    assert "Give the target too (--target)" in refusal(read_drafter, drafter.path, target=None)


def test_a_target_of_another_size_is_refused(drafter, target, tmp_path):
    target.set_config(num_hidden_layers=9)
    text = refusal(export, drafter.path, tmp_path / "out", layout="speculators", target=target.path)
    assert "num_target_layers must be 9" in text


def test_a_folder_with_something_in_it_is_not_overwritten(drafter, tmp_path):
    (tmp_path / "file").write_text("mine")
    text = refusal(export, drafter.path, tmp_path, layout="zlab", target=None)
    assert "must be a new or empty folder" in text
    assert (tmp_path / "file").read_text() == "mine"


def test_the_command_writes_and_says_where(drafter, tied_target, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--layout", "speculators", "--output", str(out), "--target", str(tied_target)]
    with pytest.raises(SystemExit) as ended:
        main(["export", str(drafter.path), *arguments])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{out}: drafter in the speculators layout\n"
    assert (out / "model.safetensors").exists()


def test_the_command_without_a_target_is_one_line(drafter, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "export",
                str(drafter.path),
                "--layout",
                "speculators",
                "--output",
                str(tmp_path / "o"),
            ]
        )
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "dpace: the speculators layout names the drafter's target. Give --target.\n"
    )


def test_a_layer_count_that_a_folder_leaves_out_is_the_targets(drafter, tied_target):
    whole = checkpoint.read_config(drafter.path)
    drafter.set_config(num_target_layers=...)
    assert read_layout(drafter.path, target=tied_target) == whole
    assert "num_target_layers must be given" in refusal(read_layout, drafter.path, target=None)
