"""A trainer on random text and random hidden states: a step's time depends on neither."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dpace_serve.config import build_config
from dpace_serve.demo.bundle import target_folder
from dpace_training.config import TrainConfig
from dpace_training.data.hidden_states import TargetFeatures
from dpace_training.data.prepare import PreparedData
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import TokenizedConversation
from dpace_training.drafter.shape import drafter_config
from dpace_training.fit.ranks import Ranks
from dpace_training.fit.trainer import Trainer

DOCUMENTS, TOKENS, PROMPT = 64, 96, 16


def random_trainer(target: Target, output: Path, recipe: str, fit: dict[str, Any]) -> Trainer:
    """A trainer of a drafter like the bundled ones.

    Args:
        target: The bundled target.
        output: Folder of the run; nothing is written until it is saved.
        recipe: Objective, as `loss.recipe`.
        fit: Settings of `fit` beside batch size, anchors and epochs.
    """
    settings = {
        "target": str(target_folder()),
        "output": str(output),
        "data": {"conversations": "random", "work": "random"},
        "drafter": {"num_hidden_layers": 2, "block_size": 8, "mask_token_id": 3},
        "loss": {"recipe": recipe},
        "fit": {"batch_size": 16, "num_anchors": 16, "epochs": 1000} | fit,
    }
    config = build_config(TrainConfig, settings, source=recipe)
    return Trainer(config, _random_data(config, target), Ranks())


class _RandomFeatures:
    def __init__(self, target: Target, num_taps: int) -> None:
        hidden = target.text_config.hidden_size
        generator = torch.Generator().manual_seed(0)
        self._features = TargetFeatures(
            taps=torch.randn(TOKENS, num_taps * hidden, generator=generator),
            next_token=torch.zeros(TOKENS, dtype=torch.int32),
            final=torch.randn(TOKENS, hidden, generator=generator),
        )

    def of(self, indices: Sequence[int]) -> list[TargetFeatures]:
        return [self._features for _ in indices]


def _random_data(config: TrainConfig, target: Target) -> PreparedData:
    rng = random.Random(0)
    vocab = target.text_config.vocab_size
    documents = [
        TokenizedConversation(
            token_ids=tuple(rng.randrange(vocab) for _ in range(TOKENS)),
            loss_mask=tuple(i >= PROMPT for i in range(TOKENS)),
            workload="other",
            document_id=index,
        )
        for index in range(DOCUMENTS)
    ]
    features = _RandomFeatures(target, config.drafter.num_taps)
    return PreparedData(
        target=target,
        drafter=drafter_config(config, target),
        documents=documents,
        features=features,
        held_out=[],
        held_out_features=features,
        agreement=1.0,
    )
