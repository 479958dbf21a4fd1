"""Hidden states on disk: read from the target once, by whoever runs it, and found again later."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors import safe_open

from dpace_training.data.hidden_states import TargetFeatures, read_features
from dpace_training.data.provenance import alone_in, claim_key
from dpace_training.data.shard_files import (
    FINAL_TENSORS,
    SHARD_TENSORS,
    damage,
    final_shard_path,
    shard_path,
    write_final_shard,
    write_shard,
)
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import TokenizedConversation, documents_digest
from dpace_training.progress import progress_bar

DOCUMENTS_PER_SHARD = 512

logger = logging.getLogger(__name__)


@runtime_checkable
class FeatureReader(Protocol):
    """Whoever runs the target over documents to fill the cache."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the features depend on beside target, layers and text; part of their key file."""
        ...

    def read(
        self, documents: Sequence[TokenizedConversation], *, with_final: bool
    ) -> list[TargetFeatures]:
        """Features of documents of any lengths in the order given, states in bfloat16."""
        ...


class TransformersReader:
    """Runs the target in this process."""

    def __init__(self, target: Target, layer_ids: Sequence[int], *, batch_size: int) -> None:
        self._target = target
        self._layer_ids = layer_ids
        self._batch_size = batch_size

    @property
    def settings(self) -> dict[str, Any]:
        """Nothing: caches from before there were other readers stay valid."""
        return {}

    def read(
        self, documents: Sequence[TokenizedConversation], *, with_final: bool
    ) -> list[TargetFeatures]:
        """Features of documents, read together with those of about their length."""
        return _read_by_length(
            self._target,
            documents,
            self._layer_ids,
            batch_size=self._batch_size,
            with_final=with_final,
        )


class CachedFeatures:
    """Features on disk in bfloat16, one safetensors file per 512 documents, mapped when read."""

    def __init__(self, folder: Path, num_documents: int, *, with_final: bool) -> None:
        numbers = range(-(-num_documents // DOCUMENTS_PER_SHARD))
        self._shards = [safe_open(shard_path(folder, i), framework="pt") for i in numbers]
        self._finals = [
            safe_open(final_shard_path(folder, i), framework="pt") for i in numbers if with_final
        ]
        self._offsets = [shard.get_tensor("offsets").tolist() for shard in self._shards]

    def of(self, indices: Sequence[int]) -> list[TargetFeatures]:
        """Features of the documents at these places, states in bfloat16."""
        return [self._one(*divmod(index, DOCUMENTS_PER_SHARD)) for index in indices]

    def _one(self, shard: int, row: int) -> TargetFeatures:
        start, end = self._offsets[shard][row : row + 2]
        file = self._shards[shard]
        return TargetFeatures(
            taps=file.get_slice("taps")[start:end],
            next_token=file.get_slice("next_token")[start:end],
            final=self._finals[shard].get_slice("final")[start:end] if self._finals else None,
        )


def cache_features(
    target: Target,
    documents: Sequence[TokenizedConversation],
    layer_ids: Sequence[int],
    folder: Path,
    *,
    batch_size: int,
    with_final: bool = False,
    reader: FeatureReader | None = None,
) -> CachedFeatures:
    """Run the target once over all documents, or find that an earlier run has done so.

    Shards are written one after another, so a run that was cut goes on with the next one; one that
    is damaged is made again. Final states lie in files of their own, which an objective on soft
    labels adds to what is there.

    Args:
        target: Model to tap.
        documents: Token ids, in the order in which they are asked for later.
        layer_ids: Layers to tap; id i is the output of decoder layer i, from 0.
        folder: Where the files lie.
        batch_size: Documents read at the same time.
        with_final: Keep the final states too.
        reader: Who runs the target; this process when not given.

    Raises:
        ConfigError: If the folder's files belong to another target, other layers or other text, or
            cannot be written.
    """
    reader = reader or TransformersReader(target, layer_ids, batch_size=batch_size)
    key = {
        "target": target.revision,
        "target_dtype": str(target.model.dtype),
        "layer_ids": list(layer_ids),
        "documents": documents_digest(documents),
        **reader.settings,
    }
    claim_key(folder / "key.json", key, what="hidden states")
    with progress_bar("hidden states of the target", len(documents)) as advance:
        for index, start in enumerate(range(0, len(documents), DOCUMENTS_PER_SHARD)):
            part = documents[start : start + DOCUMENTS_PER_SHARD]
            shard, final = shard_path(folder, index), final_shard_path(folder, index)
            wanted = {shard: SHARD_TENSORS} | ({final: FINAL_TENSORS} if with_final else {})
            # Runs that share the folder wait for each other's shards, and do not make them twice.
            with alone_in(folder):
                if not all(_is_whole(file, names) for file, names in wanted.items()):
                    features = reader.read(part, with_final=with_final)
                    write_shard(shard, [f.taps for f in features], [f.next_token for f in features])
                    if with_final:
                        write_final_shard(final, [f.final for f in features if f.final is not None])
            advance(len(part), "")
    return CachedFeatures(folder, len(documents), with_final=with_final)


def _is_whole(path: Path, names: Collection[str]) -> bool:
    if not path.exists():
        return False
    found = damage(path, names)
    if found is not None:
        logger.warning("%s is damaged (%s) and is made again", path, found)
    return found is None


def _read_by_length(
    target: Target,
    documents: Sequence[TokenizedConversation],
    layer_ids: Sequence[int],
    *,
    batch_size: int,
    with_final: bool = False,
) -> list[TargetFeatures]:
    order = sorted(range(len(documents)), key=lambda i: len(documents[i].token_ids))
    features: dict[int, TargetFeatures] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        found = read_features(
            target, [documents[i] for i in batch], layer_ids, with_final=with_final
        )
        for index, feature in zip(batch, found, strict=True):
            final = None if feature.final is None else feature.final.bfloat16()
            features[index] = TargetFeatures(feature.taps.bfloat16(), feature.next_token, final)
    return [features[index] for index in range(len(documents))]
