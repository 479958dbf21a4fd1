"""How good the demo target is: right answers by task family, perplexity on held-out code."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from dpace_training.config import RegenerateConfig
from dpace_training.data.answers import answer_documents
from dpace_training.data.conversations import Conversation, Message
from dpace_training.data.target_model import Target
from dpace_training.demo.corpus import Task, library_texts

ANSWER_TOKENS = 160
TEXT_TOKENS = 256  # the context that the target was trained with
WINDOWS = 400


@dataclass(frozen=True, slots=True)
class TargetQuality:
    """What a person may expect of the target.

    Attributes:
        right: Share of held-out questions answered word for word, by family.
        right_overall: The same over all families.
        questions: How many questions each family had.
        library_perplexity: exp(nats per token) on held-out library text.
        library_bits_per_byte: The same text in bits per byte, comparable between tokenizers.
    """

    right: dict[str, float]
    right_overall: float
    questions: dict[str, int]
    library_perplexity: float
    library_bits_per_byte: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready values."""
        return asdict(self)


def measure_target(target: Target, tasks: Sequence[Task], *, batch_size: int) -> TargetQuality:
    """Answer every held-out question greedily, and read held-out library text."""
    asked = [
        Conversation(
            index,
            task.workload,
            (Message("user", task.question), Message("assistant", task.answer)),
            None,
        )
        for index, task in enumerate(tasks)
    ]
    greedy = RegenerateConfig(max_new_tokens=ANSWER_TOKENS, batch_size=batch_size)
    answered = answer_documents(target, asked, greedy, description="held-out questions")
    questions = Counter(task.workload for task in tasks)
    right = Counter(
        task.workload
        for task, document in zip(tasks, answered, strict=True)
        if isinstance(document, Conversation) and document.messages[-1].content == task.answer
    )
    perplexity, bits = _library_perplexity(target.model, target.tokenizer)
    return TargetQuality(
        right={family: right[family] / count for family, count in questions.items()},
        right_overall=right.total() / questions.total(),
        questions=dict(questions),
        library_perplexity=perplexity,
        library_bits_per_byte=bits,
    )


@torch.no_grad()
def _library_perplexity(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> tuple[float, float]:
    windows: list[list[int]] = []
    for text in library_texts(held_out=True):
        ids = tokenizer(text).input_ids
        starts = range(0, len(ids) - TEXT_TOKENS + 1, TEXT_TOKENS)
        windows += [ids[start : start + TEXT_TOKENS] for start in starts]
    windows = windows[:: max(1, len(windows) // WINDOWS)]
    nats, tokens, num_bytes = 0.0, 0, 0
    for window in windows:
        input_ids = torch.tensor([window])
        logits = model(input_ids=input_ids).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, input_ids[0, 1:], reduction="sum")
        nats += loss.item()
        tokens += len(window) - 1
        num_bytes += len(tokenizer.decode(window[1:]).encode())
    return math.exp(nats / tokens), nats / math.log(2) / num_bytes
