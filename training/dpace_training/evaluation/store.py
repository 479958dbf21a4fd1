"""Answers of the target and its hidden states in a folder, for the next drafter on these prompts.

Hidden states of other layers lie beside, each set in a folder of its own. They are kept in the
number format the target computes in: a replay from the store counts what one without it counts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpace_training.data.feature_cache import cache_features
from dpace_training.data.hidden_states import TargetFeatures, read_features
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import TokenizedConversation
from dpace_training.evaluation.held_out import (
    HeldOutPrompt,
    batches_of_documents,
    in_main_memory,
    prompts_with_features,
)


def answers_file(store: Path) -> Path:
    """Where a store keeps the target's answers."""
    return store / "answers.jsonl"


def stored_prompts(
    target: Target,
    documents: Sequence[TokenizedConversation],
    layer_ids: Sequence[int],
    store: Path,
    *,
    batch_size: int,
) -> list[HeldOutPrompt]:
    """Answered prompts with hidden states from the store, which are read from the target if new.

    Args:
        target: Model that answered.
        documents: Prompts with the target's own answers.
        layer_ids: Layers that the drafter taps.
        store: Folder of the store.
        batch_size: Documents read at the same time.

    Raises:
        ConfigError: If the store belongs to another target or other answers, or cannot be written.
    """
    features = cache_features(
        target,
        documents,
        layer_ids,
        store / f"layers-{'-'.join(map(str, layer_ids))}",
        batch_size=batch_size,
        reader=_ExactReader(target, layer_ids, batch_size=batch_size),
    )
    return prompts_with_features(documents, features, batch_size=batch_size)


class _ExactReader:
    """Reads hidden states for the cache of training without rounding them to bfloat16."""

    def __init__(self, target: Target, layer_ids: Sequence[int], *, batch_size: int) -> None:
        self._target = target
        self._layer_ids = layer_ids
        self._batch_size = batch_size

    @property
    def settings(self) -> dict[str, Any]:
        """The number format of the states, so that training never takes them for its own."""
        return {"states_dtype": str(self._target.model.dtype)}

    def read(
        self, documents: Sequence[TokenizedConversation], *, with_final: bool
    ) -> list[TargetFeatures]:
        """Features of documents, read in the batches of an evaluation without a store."""
        features: dict[int, TargetFeatures] = {}
        for places in batches_of_documents(documents, batch_size=self._batch_size):
            batch = [documents[place] for place in places]
            read = read_features(self._target, batch, self._layer_ids, with_final=with_final)
            features |= {
                place: TargetFeatures(in_main_memory(found.taps), found.next_token, found.final)
                for place, found in zip(places, read, strict=True)
            }
        return [features[place] for place in range(len(documents))]
