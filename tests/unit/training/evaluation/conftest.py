"""A random target with so few tokens that a random drafter is often right by chance."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from dpace_serve.acceptance.last_step import SettledSteps
from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_training.config import TrainConfig
from dpace_training.drafter.model import BlockDrafter
from dpace_training.drafter.taps import recorded_taps
from dpace_training.evaluation.decode import Decoded, decode
from dpace_training.evaluation.replay import replay
from dpace_training.evaluation.rollouts import Rollout
from dpace_training.fit import run

VOCAB, MASK = 6, 5
LIMIT = 24
LAYER_IDS = (0, 1, 2)


@dataclass(frozen=True)
class Pair:
    target: Qwen3ForCausalLM
    drafter: BlockDrafter
    decoded: dict[tuple[Any, ...], Decoded] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        """Embedding and head of the target, as evaluations take them."""
        return {
            "embedding": self.target.get_input_embeddings().weight,
            "head": self.target.get_output_embeddings().weight,
        }

    def decode(self, prompt: Tensor, max_tokens: int, end_ids: frozenset[int]) -> Decoded:
        key = (*prompt.tolist(), max_tokens, end_ids)
        if key not in self.decoded:
            self.decoded[key] = decode(
                self.target, self.drafter, prompt, max_tokens=max_tokens, end_ids=end_ids
            )
        return self.decoded[key]

    @torch.no_grad()
    def rollout(self, prompt: Tensor, answer: tuple[int, ...]) -> Rollout:
        tokens = torch.cat((prompt, torch.tensor(answer)))
        with recorded_taps(self.target, LAYER_IDS) as recorded:
            self.target(tokens.unsqueeze(0))
        return Rollout(tokens, len(prompt), recorded.joined()[0])

    def replay(self, answered: list[Rollout]) -> list[SettledSteps]:
        return replay(self.drafter, answered, **self.weights, advance=lambda finished: None)


@pytest.fixture(name="pair", scope="session")
def make_pair() -> Pair:
    torch.manual_seed(8)
    target = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, initializer_range=0.6,
            tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    config = DrafterConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-6, rope_theta=10000.0,
        max_position_embeddings=256, vocab_size=VOCAB, block_size=4, mask_token_id=MASK,
        target_layer_ids=LAYER_IDS, num_target_layers=4, target_hidden_size=32,
    )  # fmt: skip
    return Pair(target, BlockDrafter(config).eval())


@pytest.fixture
def prompts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(4, (3 + i % 5,), generator=generator) for i in range(20)]


@pytest.fixture(scope="session")
def made(target_folder, tmp_path_factory):
    """A drafter trained on exactly the prompts it is measured on, so it gets some right."""
    folder = tmp_path_factory.mktemp("trained")
    chats = [
        {
            "messages": [{"role": "user", "content": "say " + "x" * index}],
            "workload": "json" if index % 2 else "csv",
        }
        for index in range(6)
    ]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    config = TrainConfig.model_validate(
        {
            "target": target_folder,
            "output": folder / "dpace",
            "data": {
                "conversations": prompts,
                "work": folder / "work",
                "regenerate": {"max_new_tokens": LIMIT},
            },
            "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
            "fit": {"epochs": 12, "batch_size": 6, "learning_rate": 1e-2, "allow_tail": True},
            "evaluation": {"conversations": prompts, "every": 60, "max_new_tokens": LIMIT},
        }
    )
    return config, run.train(config)
