"""Acceptance of a drafter on held-out prompts that the target has answered greedily."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_training.data.hidden_states import FeatureSource, RecomputedFeatures
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import TokenizedConversation
from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.replay import Rollout, replay
from dpace_training.progress import progress_bar

BLOCKS_PER_CHUNK = 256


@dataclass(frozen=True, slots=True)
class HeldOutPrompt:
    """A prompt with the target's answer, and its workload label."""

    rollout: Rollout
    workload: str


@dataclass(frozen=True, slots=True)
class ArmAcceptance:
    """What one drafter did on each prompt; all tuples run over the same prompts.

    `pairs` are (accepted draft tokens, verification steps).
    """

    name: str
    workloads: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    counts: tuple[AcceptanceCounts, ...]

    @property
    def total(self) -> AcceptanceCounts:
        """Counts over all prompts."""
        return sum(self.counts[1:], start=self.counts[0])

    @property
    def moments(self) -> AcceptanceMoments:
        """Sums from which tau and its interval follow."""
        return AcceptanceMoments.from_pairs(self.pairs)

    def only(self, workload: str) -> "ArmAcceptance":
        """The prompts of one workload."""
        kept = [i for i, label in enumerate(self.workloads) if label == workload]
        return ArmAcceptance(
            name=self.name,
            workloads=tuple(self.workloads[i] for i in kept),
            pairs=tuple(self.pairs[i] for i in kept),
            counts=tuple(self.counts[i] for i in kept),
        )


def held_out_prompts(
    target: Target,
    documents: Sequence[TokenizedConversation],
    layer_ids: Sequence[int],
    *,
    batch_size: int,
) -> list[HeldOutPrompt]:
    """Read the target's hidden states of answered prompts; only last answers are replayed.

    Args:
        target: Model that answered.
        documents: Prompts with the target's greedy answers.
        layer_ids: Layers that the drafter taps.
        batch_size: Documents read at the same time.
    """
    features = RecomputedFeatures(target, documents, layer_ids)
    return prompts_with_features(documents, features, batch_size=batch_size)


def prompts_with_features(
    documents: Sequence[TokenizedConversation], features: FeatureSource, *, batch_size: int
) -> list[HeldOutPrompt]:
    """Join answered prompts with hidden states that lie ready or are computed here.

    Args:
        documents: Prompts with the target's greedy answers.
        features: Features of exactly these documents.
        batch_size: Documents asked for at the same time.
    """
    prompts: list[HeldOutPrompt] = []
    with progress_bar("hidden states of held-out answers", len(documents)) as advance:
        for start in range(0, len(documents), batch_size):
            batch = documents[start : start + batch_size]
            found = features.of(range(start, start + len(batch)))
            for document, feature in zip(batch, found, strict=True):
                rollout = Rollout(
                    token_ids=torch.tensor(document.token_ids),
                    num_prompt_tokens=_answer_start(document),
                    taps=feature.taps.float().clone(),
                )
                prompts.append(HeldOutPrompt(rollout, document.workload))
            advance(len(batch), "")
    return prompts


def measure_acceptance(
    name: str,
    drafter: BlockDrafter,
    prompts: Sequence[HeldOutPrompt],
    *,
    embedding: Float[Tensor, "vocab hidden"],
    head: Float[Tensor, "vocab hidden"],
) -> ArmAcceptance:
    """Replay every prompt's answer with the drafter.

    Args:
        name: Name of the drafter in results.
        drafter: Drafter of the target that wrote the answers.
        prompts: At least one prompt.
        embedding: The target's input embedding.
        head: The target's LM head.
    """
    num_draft_tokens = drafter.config.num_draft_tokens
    counts: list[AcceptanceCounts] = []
    with progress_bar(f"acceptance of {name}", len(prompts)) as advance:
        for prompt in prompts:
            steps = replay(
                drafter,
                prompt.rollout,
                embedding=embedding,
                head=head,
                blocks_per_chunk=BLOCKS_PER_CHUNK,
            )
            counts.append(
                AcceptanceCounts.from_steps(
                    steps.per_step_accepted,
                    steps.per_step_drafted,
                    num_draft_tokens,
                    steps.emitted_tokens,
                )
            )
            advance(1, "")
    return ArmAcceptance(
        name=name,
        workloads=tuple(prompt.workload for prompt in prompts),
        pairs=tuple((count.accepted_total, count.steps) for count in counts),
        counts=tuple(counts),
    )


def _answer_start(document: TokenizedConversation) -> int:
    mask = document.loss_mask
    start = len(mask)
    # A cut document may end before its answer starts: then there is nothing to replay.
    while start > 0 and mask[start - 1]:
        start -= 1
    return start
