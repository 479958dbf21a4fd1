"""Who runs the target: this process, vLLM beside it or a server, as the configuration says."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from dpace_training.config import DataConfig, RegenerateConfig, TrainConfig
from dpace_training.data.answers import TransformersWriter
from dpace_training.data.endpoint_answers import EndpointWriter
from dpace_training.data.engine_answers import EngineWriter
from dpace_training.data.engine_hidden_states import EngineReader
from dpace_training.data.feature_cache import FeatureReader, TransformersReader
from dpace_training.data.regenerate import AnswerWriter
from dpace_training.data.target_model import Target, load_target, load_target_ends

_WRITERS: dict[str, Callable[[Target, RegenerateConfig, DataConfig], AnswerWriter]] = {
    "transformers": lambda target, answers, _: TransformersWriter(target, answers),
    "vllm": lambda target, answers, data: EngineWriter(target, answers, data.vllm),
    "openai": lambda target, answers, _: EndpointWriter(target, answers),
}


def load_needed_target(config: TrainConfig, device: torch.device) -> Target:
    """The target on this device, whole only where this process runs it.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    data, dtype = config.data, getattr(torch, config.target_dtype)
    has_answers = data.regenerate.enabled or config.evaluation.conversations is not None
    answers_here = has_answers and data.regenerate.backend == "transformers"
    if answers_here or data.hidden_states_backend == "transformers":
        return load_target(
            config.target, dtype=dtype, device=device, enable_thinking=data.enable_thinking
        )
    target = load_target_ends(config.target, dtype=dtype, enable_thinking=data.enable_thinking)
    model = target.model
    # The layers between them have no weights that could be moved.
    for end in (model.get_input_embeddings(), model.get_decoder().norm):
        end.to(device)
    model.get_output_embeddings().to(device)
    return target


def answer_writer(target: Target, answers: RegenerateConfig, data: DataConfig) -> AnswerWriter:
    """Whoever answers prompts, with these settings of the answers."""
    return _WRITERS[answers.backend](target, answers, data)


@contextmanager
def feature_reader(
    target: Target, layer_ids: Sequence[int], data: DataConfig, *, max_tokens: int, scratch: Path
) -> Generator[FeatureReader, None, None]:
    """Whoever reads hidden states, while the context is open.

    Args:
        target: Model to tap.
        layer_ids: Layers to tap.
        data: Says who reads.
        max_tokens: Length of the longest document.
        scratch: Folder for files that are deleted again; made if need be.
    """
    if data.hidden_states_backend == "transformers":
        yield TransformersReader(target, layer_ids, batch_size=data.target_batch_size)
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with EngineReader(
        target,
        layer_ids,
        data.vllm,
        max_tokens=max_tokens,
        batch_size=data.target_batch_size,
        scratch=scratch,
    ) as reader:
        yield reader
