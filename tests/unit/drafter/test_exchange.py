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

VOCAB, HIDDEN = 320, 64


class SpeculatorsFolder:
    """The drafter of the other tests as speculators writes it."""

    def __init__(self, path, layer_config, tensors):
        self.path, self.layer_config, self.tensors = path, layer_config, tensors
        path.mkdir()
        self.set_config()
        self.save()

    def set_config(self, layers=None, **changes):
        values = {
            "architectures": ["DFlashSpeculator"],
            "aux_hidden_state_layer_ids": [2, 6],  # ids 1 and 5, counted from 1
            "block_size": 8,
            "draft_vocab_size": VOCAB,
            "dtype": "bfloat16",
            "mask_token_id": 3,
            "model_type": "speculator_model",
            "projector_type": "dflash",
            "sample_from_anchor": False,
            "shift_label": False,
            "auf": False,
            "sliding_window_non_causal": False,
            "speculators_config": {
                "algorithm": "dflash",
                "default_proposal_method": "greedy",
                "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 7}],
                "verifier": {"name_or_path": "a/b", "architectures": ["Qwen3ForCausalLM"]},
            },
            "speculators_model_type": "dflash",
            "speculators_version": "0.9.0",
            "target_hidden_size": None,
            "transformer_layer_config": {**self.layer_config, **(layers or {})},
            **changes,
        }
        values = {key: value for key, value in values.items() if value is not ...}
        (self.path / "config.json").write_text(json.dumps(values))

    def save(self, **more):
        save_file({**self.tensors, **more}, self.path / "model.safetensors")


@pytest.fixture
def speculators(tmp_path, config_values, tensors):
    for key in ("architectures", "block_size", "dflash_config", "dtype", "num_target_layers"):
        del config_values[key]
    return SpeculatorsFolder(tmp_path / "speculators", config_values, tensors)


@pytest.fixture
def embedding():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(VOCAB, HIDDEN, generator=generator).bfloat16()


@pytest.fixture
def tied_target(target, embedding):
    target.set_config(architectures=["Qwen3ForCausalLM"])
    save_file({"model.embed_tokens.weight": embedding}, target.path / "model.safetensors")
    return target.path


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def drafter_tensors(drafter):
    return load_file(drafter.weights)


def refusal(call, *arguments, **named):
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        call(*arguments, **named)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_speculators_drafter_is_the_z_lab_drafter_with_ids_one_less(
    speculators, drafter, tied_target
):
    config, tensors = read_drafter(speculators.path, target=tied_target)
    assert config == checkpoint.read_config(drafter.path)
    assert same(tensors, checkpoint.read_tensors(drafter.path))


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


@pytest.mark.parametrize(("non_causal", "is_causal"), [(True, False), (False, True)])
def test_windows_of_speculators_are_read_with_their_direction(
    speculators, tied_target, non_causal, is_causal
):
    layers = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 16}
    speculators.set_config(layers, sliding_window_non_causal=non_causal)
    config = read_layout(speculators.path, target=tied_target)
    assert config.sliding == SlidingAttention(16, (1,), is_causal)


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


@pytest.mark.parametrize("name", ["t2d", "d2t"])
def test_a_reduced_vocabulary_is_refused(speculators, tied_target, name):
    speculators.save(**{name: torch.zeros(VOCAB, dtype=torch.int64)})
    text = refusal(read_layout, speculators.path, target=tied_target)
    assert f"a reduced vocabulary is not supported, found {name}" in text


def test_a_missing_and_an_unexpected_tensor_are_named(speculators, tied_target):
    speculators.save(mask_hidden=torch.zeros(1).bfloat16())
    assert "unknown mask_hidden" in refusal(read_layout, speculators.path, target=tied_target)
    del speculators.tensors["fc.weight"]
    speculators.save()
    assert "missing fc.weight" in refusal(read_layout, speculators.path, target=tied_target)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"speculators_model_type": "dspark"}, "must be \"dflash\", got 'dspark'"),
        ({"aux_hidden_state_layer_ids": [0, 2]}, "0 is the embedding"),
        ({"aux_hidden_state_layer_ids": [2, 9]}, "target_layer_ids must lie in 0..7"),
        ({"draft_vocab_size": 100}, "draft_vocab_size must equal vocab_size"),
        ({"projector_type": "domino"}, "projector_type"),
        ({"sample_from_anchor": True}, "sample_from_anchor"),
        ({"conv_kernel_size": 2}, "conv_kernel_size is not a known key"),
        ({"mask_token_id": None}, "mask_token_id must be given"),
        ({"block_size": ...}, "block_size must be given"),
    ],
)
def test_what_speculators_can_ask_for_and_we_cannot_is_refused(
    speculators, tied_target, changes, rule
):
    speculators.set_config(**changes)
    assert rule in refusal(read_layout, speculators.path, target=tied_target)


def test_windows_whose_direction_is_not_said_are_refused(speculators, tied_target):
    layers = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 16}
    speculators.set_config(layers, sliding_window_non_causal=...)
    text = refusal(read_layout, speculators.path, target=tied_target)
    assert "sliding_window_non_causal must be given" in text


def test_the_layers_of_the_target_must_come_from_somewhere(speculators):
    text = refusal(read_layout, speculators.path, target=None)
    assert "number of layers is not in this drafter's config.json. Name the target" in text


def test_an_exported_speculators_folder_is_served_as_it_is(drafter, tied_target, tmp_path):
    export(drafter.path, tmp_path / "out", layout="speculators", target=tied_target)
    assert checkpoint.validate(tmp_path / "out") == checkpoint.read_config(drafter.path)
    assert same(checkpoint.read_tensors(tmp_path / "out"), drafter_tensors(drafter))


@pytest.mark.parametrize("types", [None, ["full_attention", "sliding_attention"]])
def test_a_flag_that_vllm_takes_for_all_layers_is_not_served(speculators, types):
    layers = {"num_target_layers": 8, "layer_types": types, "sliding_window": 16}
    speculators.set_config(layers, sliding_window_non_causal=False)
    text = refusal(checkpoint.validate, speculators.path)
    assert "vLLM then makes layers without a window causal too" in text


def test_causal_windows_in_all_layers_are_served_from_speculators(speculators):
    layers = {"num_target_layers": 8, "layer_types": ["sliding_attention"] * 2}
    speculators.set_config({**layers, "sliding_window": 16}, sliding_window_non_causal=False)
    assert checkpoint.validate(speculators.path).sliding == SlidingAttention(16, (0, 1), True)


def test_an_embedding_in_a_served_folder_is_refused_with_the_way_out(
    drafter, tied_target, tmp_path, embedding
):
    export(drafter.path, tmp_path / "out", layout="speculators", target=tied_target)
    weights = tmp_path / "out" / "model.safetensors"
    save_file({**load_file(weights), "embed_tokens.weight": embedding}, weights)
    assert "`dpace export` does" in refusal(checkpoint.validate, tmp_path / "out")


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
