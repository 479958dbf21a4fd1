"""The draft-verify loop in its plainest form: greedy, one prompt, no server.

One step: the drafter drafts a block after the anchor, the last token known so far; the target reads
anchor and drafts in one pass; drafts are accepted up to the first that is not the target's own
greedy choice, and that choice (the correction, or the bonus token) becomes the next anchor. The
target has not read the anchor when its block is drafted, so the drafter sees taps of earlier
tokens only.
"""

from collections.abc import Set
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from dpace_serve.acceptance.last_step import SettledSteps, settle_last_step
from dpace_training.drafter.model import BlockDrafter
from dpace_training.drafter.taps import recorded_taps

NO_STEPS = SettledSteps((), (), unsettled_drafted=0, unsettled_accepted=0, is_cut=False)


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """One verification step, as an engine sees it before it looks for the end of the answer."""

    anchor: int
    """Position of the anchor in prompt and answer together."""
    drafts: tuple[int, ...]
    """Drafted tokens."""
    logits: Float[Tensor, "positions vocab"]
    """Draft logits."""
    accepted: int
    """Leading drafts that the target confirmed."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A greedy answer and how it came about."""

    tokens: tuple[int, ...]
    """The answer, from the token that the prompt's pass gives to the end token or the limit."""
    steps: tuple[DecodeStep, ...]
    """Verification steps in order; none if the first token ends the answer."""
    finish_reason: str
    """`stop` after an end token, `length` at the limit."""

    def settled(self) -> SettledSteps:
        """Steps as they are counted: the last one cut to the end of the answer."""
        if not self.steps:
            return NO_STEPS
        emitted_before = sum(step.accepted + 1 for step in self.steps[:-1])
        return settle_last_step(
            [step.accepted for step in self.steps],
            [len(step.drafts) for step in self.steps],
            len(self.tokens) - 1 - emitted_before,
        )


@torch.inference_mode()
def decode(
    target: PreTrainedModel,
    drafter: BlockDrafter,
    prompt: Int[Tensor, " tokens"],
    *,
    max_tokens: int,
    end_ids: Set[int],
) -> Decoded:
    """Answer a prompt greedily by drafting and verifying.

    Args:
        target: Causal language model of transformers, in evaluation mode.
        drafter: Drafter for that target.
        prompt: Token ids, at least one.
        max_tokens: Most tokens of the answer, at least one.
        end_ids: Tokens that end the answer; the end token is part of it.
    """
    embedding = target.get_input_embeddings().weight
    head = target.get_output_embeddings().weight
    cache = DynamicCache()
    steps: list[DecodeStep] = []
    with recorded_taps(target, drafter.config.target_layer_ids) as recorded:
        choices = _greedy_choices(target, prompt, cache)
        answer = [int(choices[-1])]
        taps = recorded.joined()[0]
        while not _is_finished(answer, max_tokens, end_ids):
            logits = drafter.draft(taps, answer[-1], embedding, head)
            drafts = logits.argmax(dim=-1)
            choices = _greedy_choices(
                target, torch.cat((prompt.new_tensor([answer[-1]]), drafts)), cache
            )
            accepted = int((drafts == choices[:-1]).cumprod(dim=0).sum())
            steps.append(DecodeStep(taps.shape[0], tuple(drafts.tolist()), logits, accepted))
            taps = torch.cat((taps, recorded.joined()[0, : accepted + 1]))
            cache.crop(taps.shape[0])
            answer += choices[: accepted + 1].tolist()
            answer = _until_end(answer, max_tokens, end_ids)
    finish_reason = "stop" if answer[-1] in end_ids else "length"
    return Decoded(tuple(answer), tuple(steps), finish_reason)


def _greedy_choices(
    target: PreTrainedModel, token_ids: Int[Tensor, " tokens"], cache: DynamicCache
) -> Int[Tensor, " tokens"]:
    """The target's next token after each given token; the cache grows by these tokens."""
    output = target(input_ids=token_ids.unsqueeze(0), past_key_values=cache, use_cache=True)
    choices: Tensor = output.logits[0].argmax(dim=-1)
    return choices


def _is_finished(answer: list[int], max_tokens: int, end_ids: Set[int]) -> bool:
    return len(answer) >= max_tokens or answer[-1] in end_ids


def _until_end(answer: list[int], max_tokens: int, end_ids: Set[int]) -> list[int]:
    """The answer up to its first end token or the limit, whichever comes first."""
    ends = (index + 1 for index, token in enumerate(answer) if token in end_ids)
    return answer[: min(next(ends, max_tokens), max_tokens)]
