"""What the target knows at every token: outputs of the tapped layers, and its own next token."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn

from dpace_serve.errors import ConfigError
from dpace_training.data.provenance import claim_key
from dpace_training.data.shard_files import (
    final_shard_path,
    shard_path,
    write_final_shard,
    write_shard,
)
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import TokenizedConversation, documents_digest
from dpace_training.drafter.taps import recorded_taps
from dpace_training.progress import progress_bar

DOCUMENTS_PER_SHARD = 512
UNKNOWN_TOKEN = -1


@dataclass(frozen=True, slots=True)
class TargetFeatures:
    """The target's view of one document.

    `taps` are the outputs of the tapped layers side by side. `next_token` is the target's most
    likely next token, known where the document's next token is trained on, else -1. `final` is
    what the LM head reads, after the last norm; it is kept only where soft labels need it.
    """

    taps: Float[Tensor, "tokens features"]
    next_token: Int[Tensor, " tokens"]
    final: Float[Tensor, "tokens hidden"] | None = None


@runtime_checkable
class FeatureSource(Protocol):
    """Where the features of documents come from."""

    def of(self, indices: Sequence[int]) -> list[TargetFeatures]:
        """Features of the documents at these places of the data."""
        ...


class RecomputedFeatures:
    """Runs the target on every request."""

    def __init__(
        self,
        target: Target,
        documents: Sequence[TokenizedConversation],
        layer_ids: Sequence[int],
        *,
        with_final: bool = False,
    ) -> None:
        self._target = target
        self._documents = documents
        self._layer_ids = layer_ids
        self._with_final = with_final

    def of(self, indices: Sequence[int]) -> list[TargetFeatures]:
        """Features of the documents at these places, in the target's number format."""
        return read_features(
            self._target,
            [self._documents[i] for i in indices],
            self._layer_ids,
            with_final=self._with_final,
        )


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

    Shards are written one after another, so a run that was cut goes on with the next one. Final
    states lie in files of their own, which an objective on soft labels adds to what is there.

    Args:
        target: Model to tap.
        documents: Token ids, in the order in which they are asked for later.
        layer_ids: Layers to tap; id i is the output of decoder layer i, from 0.
        folder: Where the files lie.
        batch_size: Documents read at the same time.
        with_final: Keep the final states too.
        reader: Who runs the target; this process when not given.

    Raises:
        ConfigError: If the folder's files belong to another target, other layers or other text.
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
            files = [shard_path(folder, index)] + [final_shard_path(folder, index)] * with_final
            if not all(file.exists() for file in files):
                features = reader.read(part, with_final=with_final)
                write_shard(files[0], [f.taps for f in features], [f.next_token for f in features])
                if with_final:
                    write_final_shard(files[1], [f.final for f in features if f.final is not None])
            advance(len(part), "")
    return CachedFeatures(folder, len(documents), with_final=with_final)


@torch.no_grad()
def read_features(
    target: Target,
    documents: Sequence[TokenizedConversation],
    layer_ids: Sequence[int],
    *,
    with_final: bool = False,
) -> list[TargetFeatures]:
    """Run the target on a batch of documents, padded on the right.

    Args:
        target: Model to tap.
        documents: Non-empty documents.
        layer_ids: Layers to tap; id i is the output of decoder layer i, from 0.
        with_final: Return the final states too.

    Raises:
        ConfigError: If a layer does not exist.
    """
    require_layers(target, layer_ids)
    lengths = [len(document.token_ids) for document in documents]
    # Attention is causal: what stands behind a document's end cannot reach it, so no mask.
    token_ids = torch.zeros((len(documents), max(lengths)), dtype=torch.long)
    for row, document in enumerate(documents):
        token_ids[row, : lengths[row]] = torch.tensor(document.token_ids)
    with recorded_taps(target.model, layer_ids) as recorded:
        final = target.model.get_decoder()(
            input_ids=token_ids.to(target.model.device), use_cache=False
        ).last_hidden_state
    joined = recorded.joined()
    head = target.model.get_output_embeddings()
    return [
        TargetFeatures(
            taps=joined[row, :length],
            next_token=next_tokens(final[row, :length], document.loss_mask, head),
            final=final[row, :length] if with_final else None,
        )
        for row, (document, length) in enumerate(zip(documents, lengths, strict=True))
    ]


def require_layers(target: Target, layer_ids: Sequence[int]) -> None:
    """Check that the target has these layers.

    Raises:
        ConfigError: If it lacks one.
    """
    num_layers = len(target.model.get_decoder().layers)
    if not all(0 <= layer_id < num_layers for layer_id in layer_ids):
        raise ConfigError(
            f"target layer ids must lie in 0..{num_layers - 1}, got {list(layer_ids)}. "
            "Correct drafter.target_layer_ids."
        )


def next_tokens(
    final: Float[Tensor, "tokens hidden"], loss_mask: Sequence[bool], head: nn.Module
) -> Int[Tensor, " tokens"]:
    """The target's most likely next tokens, -1 where the next token is not trained on.

    Args:
        final: What the LM head reads.
        loss_mask: True on trained tokens, one for each token.
        head: The target's LM head.
    """
    is_asked = torch.zeros(len(loss_mask), dtype=torch.bool)
    is_asked[:-1] = torch.tensor(loss_mask[1:], dtype=torch.bool)
    next_token = torch.full((len(loss_mask),), UNKNOWN_TOKEN, dtype=torch.int32)
    if is_asked.any():
        next_token[is_asked] = head(final[is_asked]).argmax(dim=-1).int().cpu()
    return next_token


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
