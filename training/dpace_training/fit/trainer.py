"""The training steps: the same seeds and data give the same drafter, also across a resume."""

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dpace_serve.errors import ConfigError
from dpace_training.config import TrainConfig
from dpace_training.data.anchors import anchor_candidates
from dpace_training.data.prepare import PreparedData
from dpace_training.data.tokenize import documents_digest
from dpace_training.drafter.model import BlockDrafter
from dpace_training.drafter.warm_start import load_weights
from dpace_training.fit.batches import Batch, epoch_batches, make_batch
from dpace_training.fit.checkpoint import ResumePoint, load_resume_point, save_resume_point
from dpace_training.fit.optimizer import learning_rate_at, make_optimizer
from dpace_training.losses.objective import block_objective
from dpace_training.losses.reduction import ReductionCounts, block_scales, needs_weight_sum
from dpace_training.losses.statistics import ObjectiveStatistics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepResult:
    """One optimizer step: loss before it, gradient norm before clipping, and what to log."""

    loss: float
    gradient_norm: float
    learning_rate: float
    statistics: ObjectiveStatistics


class Trainer:
    """Fits one drafter to prepared data; a new trainer on the same output goes on where it was.

    Attributes:
        drafter: The drafter, weights in float32.
        embedding: The target's input embedding, frozen, in float32.
        head: The target's LM head, frozen, in float32.
        step: Optimizer steps taken so far.
        total_steps: Optimizer steps of the whole run.
        num_without_anchor: Documents too short or without answer, which are left out.
    """

    def __init__(self, config: TrainConfig, data: PreparedData) -> None:
        model = data.target.model
        self.embedding: Tensor = model.get_input_embeddings().weight.detach().float()
        self.head: Tensor = model.get_output_embeddings().weight.detach().float()
        self.drafter = _initial_drafter(config, data).to(self.head.device)
        self._config = config
        self._data = data
        self._optimizer = make_optimizer(self.drafter, config.fit)
        self._places = _places_with_anchors(config, data)
        self.num_without_anchor = len(data.documents) - len(self._places)
        self.steps_per_epoch = -(-len(self._places) // config.fit.batch_size)
        self.total_steps = config.fit.epochs * self.steps_per_epoch
        if config.fit.max_steps is not None:
            self.total_steps = min(self.total_steps, config.fit.max_steps)
        self._digest = f"{data.target.revision}/{documents_digest(data.documents)}"
        point = load_resume_point(
            config.output, self.drafter, self._optimizer, config, data=self._digest
        )
        self.step = point.step if point is not None else 0
        self._order: tuple[int, list[list[int]]] = (-1, [])

    @property
    def epoch(self) -> int:
        """Number of the epoch of the next step, from 0."""
        return self.step // self.steps_per_epoch

    def train_step(self) -> StepResult:
        """Take the next step."""
        fit = self._config.fit
        batches = self._next_batches()
        totals = _total_counts(batches)
        self._optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        statistics = ObjectiveStatistics.zero(
            self.drafter.config.num_draft_tokens, torch.device("cpu")
        )
        for batch in batches:
            batch_loss, batch_statistics = self._objective(batch, totals)
            torch.autograd.backward(batch_loss)
            loss += float(batch_loss.detach())
            statistics = statistics + batch_statistics
        if needs_weight_sum(self._config.loss.reduction):
            weight_sum = float(statistics.weight_sum)
            loss /= weight_sum
            for parameter in self.drafter.parameters():
                if parameter.grad is not None:
                    parameter.grad /= weight_sum
        norm = torch.nn.utils.clip_grad_norm_(self.drafter.parameters(), fit.clip_norm)
        learning_rate = learning_rate_at(self.step, total_steps=self.total_steps, fit=fit)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.step += 1
        return StepResult(loss, float(norm), learning_rate, statistics)

    def save(self) -> None:
        """Save everything that a resume needs."""
        point = ResumePoint(step=self.step, data=self._digest)
        save_resume_point(self._config.output, self.drafter, self._optimizer, self._config, point)

    def _next_batches(self) -> list[Batch]:
        """The next step's documents, in one or more micro-batches."""
        fit = self._config.fit
        epoch, index = divmod(self.step, self.steps_per_epoch)
        if self._order[0] != epoch:
            lengths = [len(self._data.documents[place].token_ids) for place in self._places]
            order = epoch_batches(lengths, batch_size=fit.batch_size, seed=fit.seed, epoch=epoch)
            self._order = (epoch, order)
        places = [self._places[i] for i in self._order[1][index]]
        size = fit.micro_batch_size or len(places)
        return [
            make_batch(
                self._data.documents,
                self._data.features,
                places[start : start + size],
                block_size=self.drafter.config.block_size,
                fit=fit,
                labels=self._config.loss.labels,
                epoch=epoch,
            )
            for start in range(0, len(places), size)
        ]

    def _objective(
        self, batch: Batch, totals: ReductionCounts
    ) -> tuple[Float[Tensor, ""], ObjectiveStatistics]:
        scales = block_scales(
            batch.supervised, reduction=self._config.loss.reduction, totals=totals
        )
        device = self.head.device
        autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=self._config.fit.autocast == "bfloat16"
        )
        with autocast:
            inputs = self.drafter.embed_blocks(batch.anchor_tokens.to(device), self.embedding)
            hidden = self.drafter(batch.taps.to(device), inputs, batch.anchors.to(device))
            return block_objective(
                hidden[:, :, 1:].flatten(0, 1),
                self.head,
                batch.labels.to(device).flatten(0, 1),
                batch.supervised.to(device).flatten(0, 1),
                scales.to(device).flatten(),
                self._config.loss,
                batch.target_states(device),
            )


def _initial_drafter(config: TrainConfig, data: PreparedData) -> BlockDrafter:
    # Seeded on its own: drafters that differ in their objective only start from the same weights.
    with torch.random.fork_rng():
        torch.manual_seed(config.fit.seed)
        drafter = BlockDrafter(data.drafter)
    if config.drafter.init_from is not None:
        load_weights(drafter, config.drafter.init_from, target=data.target.folder)
    return drafter


def _places_with_anchors(config: TrainConfig, data: PreparedData) -> list[int]:
    places = []
    for place, document in enumerate(data.documents):
        candidates = anchor_candidates(
            torch.tensor(document.loss_mask),
            block_size=config.drafter.block_size,
            allow_tail=config.fit.allow_tail,
        )
        if len(candidates):
            places.append(place)
    if len(places) < len(data.documents):
        logger.warning(
            "%d of %d documents have no place for a block of %d tokens and are left out",
            len(data.documents) - len(places),
            len(data.documents),
            config.drafter.block_size,
        )
    if not places:
        raise ConfigError(
            f"no document has an answer that holds a block of {config.drafter.block_size} tokens. "
            "Set fit.allow_tail, a smaller drafter.block_size, or give longer answers."
        )
    return places


def _total_counts(batches: list[Batch]) -> ReductionCounts:
    first, *others = (ReductionCounts.of(batch.supervised) for batch in batches)
    return sum(others, start=first)
