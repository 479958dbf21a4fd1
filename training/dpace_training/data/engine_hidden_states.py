"""Hidden states of a target that runs in vLLM: the same features as from a target in this process.

vLLM exports the outputs of decoder layers. The final state is computed here, from the last layer's
output and the target's own final norm, and the next token from it and the LM head.
"""

import fcntl
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dpace_serve.errors import ConfigError, EngineError
from dpace_serve.vllm_engine.offline import OfflineEngine
from dpace_serve.vllm_engine.offline_calls import EngineSettings, ExportSettings
from dpace_training.config import OfflineEngineConfig
from dpace_training.data.hidden_states import TargetFeatures, next_tokens, require_layers
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import TokenizedConversation

# One generated token, and one place that the engine keeps for its draft: without it the engine
# leaves out the export and says nothing.
SPARE_POSITIONS = 2


class EngineReader:
    """Runs the target in vLLM while the context is open; the engine starts when first asked."""

    def __init__(
        self,
        target: Target,
        layer_ids: Sequence[int],
        config: OfflineEngineConfig,
        *,
        max_tokens: int,
        batch_size: int,
        scratch: Path,
    ) -> None:
        """Prepare, without starting anything.

        Args:
            target: Its embedding, norm and head are enough (`load_target_ends`).
            layer_ids: Layers to tap; id i is the output of decoder layer i, from 0.
            config: Size and memory of the engine.
            max_tokens: Length of the longest document.
            batch_size: Documents read at the same time.
            scratch: Existing folder for the engine's files until they are read.

        Raises:
            ConfigError: If a layer does not exist, or the target has too few positions.
        """
        require_layers(target, layer_ids)
        limit = target.max_positions
        if max_tokens + SPARE_POSITIONS > limit:
            raise ConfigError(
                f"the engine reads documents of at most {limit - SPARE_POSITIONS} tokens of a "
                f"target with {limit} positions, got one of {max_tokens}. Lower data.max_tokens."
            )
        self._target = target
        self._last_layer = len(target.model.get_decoder().layers) - 1
        self._layer_ids = tuple(layer_ids)
        # The engine sorts layers and drops repeated ones.
        self._exported = tuple(sorted({*layer_ids, self._last_layer}))
        self._config = config
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._scratch = scratch
        self._engine: OfflineEngine | None = None
        self._open = ExitStack()

    def __enter__(self) -> "EngineReader":
        """Nothing yet: a complete cache needs no engine."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the engine and delete its files."""
        self._engine = None
        self._open.close()

    @property
    def settings(self) -> dict[str, Any]:
        """Other kernels round differently."""
        return {"backend": "vllm"}

    def read(
        self, documents: Sequence[TokenizedConversation], *, with_final: bool
    ) -> list[TargetFeatures]:
        """Features of documents in the order given, states in bfloat16.

        Raises:
            EngineError: If the engine fails or exports something else.
        """
        features: list[TargetFeatures] = []
        for start in range(0, len(documents), self._batch_size):
            batch = documents[start : start + self._batch_size]
            files = self._started().export_hidden_states([one.token_ids for one in batch])
            for document, file in zip(batch, files, strict=True):
                states = _take_export(file, document, len(self._exported))
                features.append(self._features(document, states, with_final=with_final))
        return features

    def _started(self) -> OfflineEngine:
        if self._engine is None:
            folder = self._open.enter_context(
                TemporaryDirectory(dir=self._scratch, prefix="engine-")
            )
            settings = EngineSettings(
                target=self._target.folder,
                dtype=str(self._target.model.dtype).removeprefix("torch."),
                max_model_len=self._max_tokens + SPARE_POSITIONS,
                max_num_seqs=self._batch_size,
                tensor_parallel_size=self._config.tensor_parallel_size,
                gpu_memory_utilization=self._config.gpu_memory_utilization,
                eager=self._config.eager,
                export=ExportSettings(self._exported, Path(folder)),
            )
            self._engine = self._open.enter_context(OfflineEngine(settings))
        return self._engine

    @torch.no_grad()
    def _features(
        self,
        document: TokenizedConversation,
        states: Float[Tensor, "tokens layers hidden"],
        *,
        with_final: bool,
    ) -> TargetFeatures:
        model = self._target.model
        places = [self._exported.index(layer_id) for layer_id in self._layer_ids]
        last = states[:, self._exported.index(self._last_layer)]
        final = model.get_decoder().norm(last.to(model.device, model.dtype))
        return TargetFeatures(
            taps=states[:, places].flatten(start_dim=1).bfloat16(),
            next_token=next_tokens(final, document.loss_mask, model.get_output_embeddings()),
            final=final.bfloat16().cpu() if with_final else None,
        )


def _take_export(
    path: Path, document: TokenizedConversation, num_layers: int
) -> Float[Tensor, "tokens layers hidden"]:
    """Wait for a document's file, read it and delete it."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        with lock.open("rb") as file:
            # The engine's writer holds the lock until the file is whole.
            fcntl.flock(file, fcntl.LOCK_SH)
            with safe_open(path, framework="pt") as tensors:
                token_ids = tensors.get_tensor("token_ids").tolist()
                states: Tensor = tensors.get_tensor("hidden_states")
        path.unlink()
        lock.unlink()
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise EngineError(
            f"vLLM did not export the hidden states of document {document.document_id} ({reason}). "
            "Check the space on the disk, and its own log above."
        ) from None
    if tuple(token_ids) != document.token_ids or states.shape[:2] != (len(token_ids), num_layers):
        raise EngineError(
            f"vLLM exported states {tuple(states.shape)} for another text than document "
            f"{document.document_id}. Install the version that this one is tested with."
        )
    if not states.isfinite().all():
        raise EngineError(
            f"vLLM's hidden states of document {document.document_id} are not all finite. Set "
            "target_dtype to the number format that the target was trained in."
        )
    return states
