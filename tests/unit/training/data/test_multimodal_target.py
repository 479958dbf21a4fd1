"""A target whose settings of the language model stand in a part of its configuration."""

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from dpace_serve.config import build_config
from dpace_serve.drafter import checkpoint
from dpace_serve.errors import ConfigError
from dpace_training.config import OfflineEngineConfig, RegenerateConfig, TrainConfig
from dpace_training.data.engine_answers import EngineWriter
from dpace_training.data.engine_hidden_states import EngineReader
from dpace_training.data.prepare import prepare
from dpace_training.data.target_model import load_target
from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.config import ComparisonConfig
from dpace_training.evaluation.doctor import examine_by_replay
from dpace_training.study.config import StudyConfig
from dpace_training.study.run import run_study

TEXT = {
    "vocab_size": 259, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 16,
    "max_position_embeddings": 96,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip


@pytest.fixture(scope="module")
def gemma3_folder(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("gemma3")
    torch.manual_seed(0)
    config = Gemma3Config(
        text_config=TEXT,
        vision_config=VISION,
        mm_tokens_per_image=4,
        eos_token_id=257,
        boi_token_index=250,
        eoi_token_index=251,
        image_token_index=252,
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def values(gemma3_folder, write_jsonl, tmp_path):
    chats = [{"messages": [{"role": "user", "content": f"say {i}"}]} for i in range(4)]
    return {
        "target": str(gemma3_folder),
        "output": str(tmp_path / "drafter"),
        "data": {
            "conversations": str(write_jsonl("chats.jsonl", chats)),
            "work": str(tmp_path / "work"),
            "regenerate": {"max_new_tokens": 6},
        },
        "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2, "rope_theta": 1e4},
        "fit": {"epochs": 1, "num_anchors": 2},
    }


def test_its_settings_are_those_of_the_language_model(gemma3_folder):
    target = load_target(gemma3_folder, dtype=torch.float32)
    assert not hasattr(target.model.config, "max_position_embeddings")
    assert (target.max_positions, target.text_config.vocab_size) == (96, 259)


def test_a_drafter_of_it_is_prepared_and_examined(values, gemma3_folder, tmp_path):
    data = prepare(build_config(TrainConfig, values, source="the test"))
    checkpoint.write(tmp_path / "drafter", data.drafter, BlockDrafter(data.drafter).state_dict())
    prompts = ComparisonConfig(conversations=tmp_path / "chats.jsonl", max_new_tokens=6)
    findings = examine_by_replay(
        str(gemma3_folder), tmp_path / "drafter", prompts, device=torch.device("cpu")
    )
    assert "acceptance" in [finding.check for finding in findings]


def test_a_study_measures_on_it(values, tmp_path):
    held_out = {"conversations": str(tmp_path / "chats.jsonl"), "max_new_tokens": 6}
    study = {
        "base": values,
        "arms": {"dpace": {"recipe": "dpace"}},
        "baseline": "dpace",
        "seeds": [0],
        "held_out": {"greedy": held_out},
    }
    result = run_study(build_config(StudyConfig, study, source="the test"), torch.device("cpu"))
    assert result["arms"][0]["sets"]["greedy"]["prompts"] == 4


def test_the_engine_is_asked_for_no_more_than_its_positions(gemma3_folder, tmp_path):
    target = load_target(gemma3_folder, dtype=torch.float32)
    with pytest.raises(ConfigError, match=r"at most the target's 96 positions, got 97"):
        EngineWriter(target, RegenerateConfig(), OfflineEngineConfig(max_model_len=97))
    with pytest.raises(ConfigError, match=r"a target with 96 positions, got one of 95"):
        EngineReader(
            target, (1,), OfflineEngineConfig(), max_tokens=95, batch_size=1, scratch=tmp_path
        )
