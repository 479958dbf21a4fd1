"""Hidden states on disk: read from the target once, by whoever runs it, and found again later."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dpace_training.data.hidden_states import TargetFeatures, read_features
from dpace_training.data.provenance import alone_in, claim_key
from dpace_training.data.shard_files import (
    final_shard_damage,
    final_shard_path,
    num_documents,
    opened,
    shard_damage,
    shard_path,
    write_final_shard,
    write_shard,
)
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import TokenizedConversation, documents_digest
from dpace_training.progress import progress_bar

# What is held in memory while the cache is filled, and once more while it is joined to be written.
# A document of 3072 tokens takes 150 MB of an 8B target with 5 taps and 300 MB of a 70B one; so a
# shard has 10,000 and 5,000 tokens, enough to keep a GPU busy, since no batch spans two shards.
SHARD_BYTES = 2**29

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
        """Features of documents of any lengths in the order given, in memory, in bfloat16.

        All of them are held at the same time: `cache_features` asks for one shard at a time.
        """
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
    """Features on disk in bfloat16, mapped when asked for; no file stays open in between.

    A large cache has more files than a process may open or map.
    """

    def __init__(self, folder: Path, firsts: Sequence[int], *, with_final: bool) -> None:
        """Name the files, without reading any.

        Args:
            folder: Where they lie.
            firsts: Place of the first document of each shard, in order.
            with_final: Read the final states too.
        """
        self._folder = folder
        self._firsts = firsts
        self._with_final = with_final

    def of(self, indices: Sequence[int]) -> list[TargetFeatures]:
        """Features of the documents at these places, states as the reader gave them.

        Raises:
            ConfigError: If a file has gone or was damaged since.
        """
        return [self._one(index) for index in indices]

    def _one(self, index: int) -> TargetFeatures:
        first = self._firsts[bisect_right(self._firsts, index) - 1]
        with opened(shard_path(self._folder, first)) as file:
            start, end = file.get_tensor("offsets")[index - first :][:2].tolist()
            taps = file.get_slice("taps")[start:end]
            next_token = file.get_slice("next_token")[start:end]
        if not self._with_final:
            return TargetFeatures(taps, next_token)
        with opened(final_shard_path(self._folder, first)) as file:
            return TargetFeatures(taps, next_token, file.get_slice("final")[start:end])


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

    Shards are written one after another as they fill, so a run that was cut goes on with the next
    one; one that is damaged is made again. A shard holds up to `SHARD_BYTES`, or one document that
    is larger. Final states lie in files of their own, which an objective on soft labels adds to
    what is there.

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
    # Final states count where they are not kept too: they may join their shard later.
    token_bytes = (len(layer_ids) + 1) * target.text_config.hidden_size * torch.bfloat16.itemsize
    writer = _ShardWriter(
        documents, folder, reader, with_final=with_final, max_tokens=SHARD_BYTES // token_bytes
    )
    firsts: list[int] = []
    first = 0
    with progress_bar("hidden states of the target", len(documents)) as advance:
        while first < len(documents):
            # Runs that share the folder wait for each other's shards, and do not make them twice.
            with alone_in(folder):
                count = writer.complete(first)
            firsts.append(first)
            first += count
            advance(count, "")
    return CachedFeatures(folder, firsts, with_final=with_final)


class _ShardWriter:
    def __init__(
        self,
        documents: Sequence[TokenizedConversation],
        folder: Path,
        reader: FeatureReader,
        *,
        with_final: bool,
        max_tokens: int,
    ) -> None:
        self._documents = documents
        self._lengths = [len(document.token_ids) for document in documents]
        self._folder = folder
        self._reader = reader
        self._with_final = with_final
        self._max_tokens = max_tokens

    def complete(self, first: int) -> int:
        """Make what is missing of the shard that begins at this document; how many it holds."""
        shard, final = shard_path(self._folder, first), final_shard_path(self._folder, first)
        has_taps = shard.exists() and _is_whole(shard, shard_damage(shard, self._lengths, first))
        # A shard keeps its number of documents, under whatever bound it was written.
        count = num_documents(shard) if has_taps else self._num_that_fit(first)
        num_tokens = sum(self._lengths[first : first + count])
        has_all = has_taps and (
            not self._with_final
            or (final.exists() and _is_whole(final, final_shard_damage(final, num_tokens)))
        )
        if not has_all:
            features = self._reader.read(
                self._documents[first : first + count], with_final=self._with_final
            )
            if not has_taps:
                write_shard(shard, [f.taps for f in features], [f.next_token for f in features])
            if self._with_final:
                write_final_shard(final, [f.final for f in features if f.final is not None])
        return count

    def _num_that_fit(self, first: int) -> int:
        """At least one: a document that is larger than a shard has one of its own."""
        room = self._max_tokens - self._lengths[first]
        end = first + 1
        while end < len(self._lengths) and self._lengths[end] <= room:
            room -= self._lengths[end]
            end += 1
        return end - first


def _is_whole(path: Path, damage: str | None) -> bool:
    if damage is not None:
        logger.warning("%s is damaged (%s) and is made again", path, damage)
    return damage is None


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
            features[index] = TargetFeatures(
                _kept(feature.taps),
                feature.next_token,
                None if feature.final is None else _kept(feature.final),
            )
    return [features[index] for index in range(len(documents))]


def _kept(states: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
    """A copy: what was read is a view that holds the whole batch, on the target's device."""
    return states.to("cpu", torch.bfloat16, copy=True)
