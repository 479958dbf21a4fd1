"""What the target knows at every token: outputs of the tapped layers, and its own next token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dpace_serve.errors import ConfigError
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import TokenizedConversation
from dpace_training.drafter.taps import recorded_taps

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


def read_features(
    target: Target,
    documents: Sequence[TokenizedConversation],
    layer_ids: Sequence[int],
    *,
    with_final: bool = False,
) -> list[TargetFeatures]:
    """Run the target on a batch of documents.

    Args:
        target: Model to tap.
        documents: Non-empty documents.
        layer_ids: Layers to tap; id i is the output of decoder layer i, from 0.
        with_final: Return the final states too.

    Raises:
        ConfigError: If a layer does not exist.
    """
    head = target.model.get_output_embeddings()
    return [
        TargetFeatures(
            taps=taps,
            next_token=next_tokens(final, document.loss_mask, head),
            final=final if with_final else None,
        )
        for document, (taps, final) in zip(
            documents, read_states(target, documents, layer_ids), strict=True
        )
    ]


@torch.no_grad()
def read_states(
    target: Target, documents: Sequence[TokenizedConversation], layer_ids: Sequence[int]
) -> list[tuple[Float[Tensor, "tokens features"], Float[Tensor, "tokens hidden"]]]:
    """Taps and final states of a batch of documents, padded on the right; the head is not run.

    They are views of the whole batch, its padding included.

    Args:
        target: Model to tap.
        documents: Non-empty documents.
        layer_ids: Layers to tap; id i is the output of decoder layer i, from 0.

    Raises:
        ConfigError: If a layer does not exist, or a document has more tokens than positions.
    """
    require_layers(target, layer_ids)
    longest = max(documents, key=lambda document: len(document.token_ids))
    if len(longest.token_ids) > target.max_positions:
        raise ConfigError(
            f"document {longest.document_id}: has {len(longest.token_ids)} tokens, the target "
            f"reads at most {target.max_positions}. Lower data.max_tokens."
        )
    # Attention is causal: what stands behind a document's end cannot reach it, so no mask.
    token_ids = pad_sequence(
        [torch.tensor(document.token_ids) for document in documents], batch_first=True
    )
    with recorded_taps(target.model, layer_ids) as recorded:
        final = target.model.get_decoder()(
            input_ids=token_ids.to(target.model.device), use_cache=False
        ).last_hidden_state
    joined = recorded.joined()
    lengths = [len(document.token_ids) for document in documents]
    return [(joined[row, :length], final[row, :length]) for row, length in enumerate(lengths)]


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


@torch.no_grad()
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
