"""Acceptance of a drafter on held-out prompts that the target has answered."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_training.data.hidden_states import FeatureSource, read_states
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import TokenizedConversation
from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.all_anchors import LeadingRuns, leading_runs
from dpace_training.evaluation.replay import replay
from dpace_training.evaluation.rollouts import Rollout, batches_by_length
from dpace_training.progress import progress_bar

MIN_FILL = 0.9


@dataclass(frozen=True, slots=True)
class HeldOutPrompt:
    """A prompt with the target's answer, and its workload label."""

    rollout: Rollout
    workload: str


@dataclass(frozen=True, slots=True)
class ArmAcceptance:
    """What one drafter did on each prompt; all tuples run over the same prompts.

    `pairs` are (accepted draft tokens, verification steps). `leading_runs` are the drafts after
    every token, where they were asked for.
    """

    name: str
    workloads: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    counts: tuple[AcceptanceCounts, ...]
    leading_runs: tuple[LeadingRuns, ...] | None = None

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
            leading_runs=(
                None if self.leading_runs is None else tuple(self.leading_runs[i] for i in kept)
            ),
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
        documents: Prompts with the target's own answers.
        layer_ids: Layers that the drafter taps.
        batch_size: Documents read at the same time.
    """

    def read(places: Sequence[int]) -> list[Tensor]:
        states = read_states(target, [documents[place] for place in places], layer_ids)
        return [in_main_memory(taps) for taps, _ in states]

    return _joined(documents, read, batch_size=batch_size)


def prompts_with_features(
    documents: Sequence[TokenizedConversation], features: FeatureSource, *, batch_size: int
) -> list[HeldOutPrompt]:
    """Join answered prompts with hidden states that lie ready or are computed here.

    Args:
        documents: Prompts with the target's own answers.
        features: Features of exactly these documents.
        batch_size: Documents asked for at the same time.
    """
    return _joined(
        documents,
        lambda places: [in_main_memory(feature.taps) for feature in features.of(places)],
        batch_size=batch_size,
    )


def batches_of_documents(
    documents: Sequence[TokenizedConversation], *, batch_size: int
) -> Iterator[list[int]]:
    """Places of documents that the target reads together, with at most a tenth of padding."""
    return batches_by_length(
        [len(document.token_ids) for document in documents],
        fits=lambda rows, longest, shortest: rows <= batch_size and shortest >= MIN_FILL * longest,
    )


def in_main_memory(taps: Float[Tensor, "tokens features"]) -> Float[Tensor, "tokens features"]:
    """A copy there, which keeps no batch alive with its padding."""
    return taps.to("cpu", copy=True)


def _joined(
    documents: Sequence[TokenizedConversation],
    read: Callable[[Sequence[int]], list[Tensor]],
    *,
    batch_size: int,
) -> list[HeldOutPrompt]:
    prompts: dict[int, HeldOutPrompt] = {}
    with progress_bar("hidden states of held-out answers", len(documents)) as advance:
        for places in batches_of_documents(documents, batch_size=batch_size):
            for place, taps in zip(places, read(places), strict=True):
                document = documents[place]
                rollout = Rollout(
                    token_ids=torch.tensor(document.token_ids),
                    num_prompt_tokens=document.answer_start,
                    taps=taps,
                )
                prompts[place] = HeldOutPrompt(rollout, document.workload)
            advance(len(places), "")
    return [prompts[place] for place in range(len(documents))]


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
    with progress_bar(f"acceptance of {name}", len(prompts)) as advance:
        replayed = replay(
            drafter,
            [prompt.rollout for prompt in prompts],
            embedding=embedding,
            head=head,
            advance=lambda finished: advance(finished, ""),
        )
    counts = [
        AcceptanceCounts.from_steps(
            steps.per_step_accepted,
            steps.per_step_drafted,
            num_draft_tokens,
            steps.emitted_tokens,
        )
        for steps in replayed
    ]
    return ArmAcceptance(
        name=name,
        workloads=tuple(prompt.workload for prompt in prompts),
        pairs=tuple((count.accepted_total, count.steps) for count in counts),
        counts=tuple(counts),
    )


def measure_leading_runs(
    name: str,
    drafter: BlockDrafter,
    prompts: Sequence[HeldOutPrompt],
    *,
    embedding: Float[Tensor, "vocab hidden"],
    head: Float[Tensor, "vocab hidden"],
) -> tuple[LeadingRuns, ...]:
    """Draft after every token of every answer; arguments as for `measure_acceptance`."""
    with progress_bar(f"{name} at all anchors", len(prompts)) as advance:
        return tuple(
            leading_runs(
                drafter,
                [prompt.rollout for prompt in prompts],
                embedding=embedding,
                head=head,
                advance=lambda finished: advance(finished, ""),
            )
        )
