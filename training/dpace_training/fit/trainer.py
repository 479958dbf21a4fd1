"""The training steps: the same seeds and data give the same drafter, also across a resume."""

import logging
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dpace_serve.errors import ConfigError, TrainingError
from dpace_training.config import TrainConfig
from dpace_training.data.anchors import anchor_candidates
from dpace_training.data.prepare import PreparedData
from dpace_training.data.tokenize import documents_digest
from dpace_training.drafter.model import BlockDrafter
from dpace_training.drafter.warm_start import load_weights
from dpace_training.fit.batches import Batch, epoch_batches, make_batch, supervised_positions
from dpace_training.fit.optimizer import learning_rate_at, make_optimizers
from dpace_training.fit.packing import pack
from dpace_training.fit.ranks import Ranks, accumulating, spread
from dpace_training.fit.resume import (
    Fitted,
    ResumePoint,
    load_resume_point,
    save_resume_point,
    whole_weights,
)
from dpace_training.losses.config import LossConfig
from dpace_training.losses.objective import block_objective
from dpace_training.losses.reduction import (
    ReductionCounts,
    block_scales,
    joint_per_block,
    needs_weight_sum,
    needs_weights_first,
)
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

    All ranks make the same calls. Each takes its part of every step's documents; the sum of their
    gradients is that of one process.

    Attributes:
        drafter: The drafter, weights in float32; with FSDP2, this rank's part of them.
        embedding: The target's input embedding, frozen, in float32.
        head: The target's LM head, frozen, in float32.
        step: Optimizer steps taken so far.
        total_steps: Optimizer steps of the whole run.
        num_without_anchor: Documents too short or without answer, which are left out.
    """

    def __init__(self, config: TrainConfig, data: PreparedData, ranks: Ranks) -> None:
        model = data.target.model
        device = ranks.device
        self.embedding: Tensor = model.get_input_embeddings().weight.detach().float().to(device)
        self.head: Tensor = model.get_output_embeddings().weight.detach().float().to(device)
        self.drafter = _initial_drafter(config, data).to(device)
        self.drafter.recompute_layers = config.fit.recompute_layers
        self.drafter.attention = config.fit.attention
        self._config = config
        self._data = data
        self._ranks = ranks
        self._module: nn.Module = spread(
            self.drafter, self.drafter.layers, ranks, config.fit.sharding
        )
        # After spreading, because FSDP2 puts other tensors in the place of the parameters.
        self._optimizers = make_optimizers(self.drafter, config.fit)
        self._places = _places_with_anchors(config, data)
        self.num_without_anchor = len(data.documents) - len(self._places)
        self.steps_per_epoch = -(-len(self._places) // config.fit.batch_size)
        self.total_steps = config.fit.epochs * self.steps_per_epoch
        if config.fit.max_steps is not None:
            self.total_steps = min(self.total_steps, config.fit.max_steps)
        self._digest = f"{data.target.revision}/{documents_digest(data.documents)}"
        point = load_resume_point(config.output, self._fitted, config, data=self._digest)
        self.step = point.step if point is not None else 0
        self._order: tuple[int, list[list[int]]] = (-1, [])

    @property
    def epoch(self) -> int:
        """Number of the epoch of the next step, from 0."""
        return self.step // self.steps_per_epoch

    def train_step(self) -> StepResult:
        """Take the next step.

        Raises:
            TrainingError: If loss or gradient is not finite; the weights are as before the step.
        """
        fit = self._config.fit
        places = self._next_places()
        loss, statistics = self._accumulate(self._parts(places))
        if needs_weight_sum(self._config.loss.reduction):
            weight_sum = float(statistics.weight_sum)
            loss /= weight_sum
            for parameter in self.drafter.parameters():
                if parameter.grad is not None:
                    parameter.grad /= weight_sum
        norm = _whole(torch.nn.utils.clip_grad_norm_(self.drafter.parameters(), fit.clip_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._not_finite(loss, norm, places)
        learning_rate = learning_rate_at(self.step, total_steps=self.total_steps, fit=fit)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        self.step += 1
        return StepResult(loss, norm, learning_rate, statistics)

    def save(self) -> None:
        """Save everything that a resume needs."""
        point = ResumePoint(step=self.step, data=self._digest)
        save_resume_point(self._config.output, self._fitted, self._config, point)

    def whole_drafter(self) -> BlockDrafter | None:
        """The drafter with all its weights, on the first rank only."""
        if self._ranks.size == 1:
            return self.drafter
        weights = whole_weights(self._fitted)
        if not self._ranks.is_first:
            return None
        drafter = BlockDrafter(self._data.drafter)
        drafter.load_state_dict(weights)
        return drafter.to(self._ranks.device)

    @property
    def _fitted(self) -> Fitted:
        return Fitted(self._module, self._optimizers, self._ranks)

    def _next_places(self) -> list[int]:
        """Where the next step's documents lie in the data, over all ranks."""
        fit = self._config.fit
        epoch, index = divmod(self.step, self.steps_per_epoch)
        if self._order[0] != epoch:
            lengths = [len(self._data.documents[place].token_ids) for place in self._places]
            order = epoch_batches(lengths, batch_size=fit.batch_size, seed=fit.seed, epoch=epoch)
            self._order = (epoch, order)
        return [self._places[i] for i in self._order[1][index]]

    def _parts(self, places: Sequence[int]) -> list[Sequence[int]]:
        """Documents of this rank's micro-batches; none where only others have one left."""
        mine = places[self._ranks.rank :: self._ranks.size]
        largest = -(-len(places) // self._ranks.size)
        size = self._config.fit.micro_batch_size or largest
        return [mine[start : start + size] for start in range(0, largest, size)]

    def _batch(self, places: Sequence[int]) -> Batch:
        return make_batch(
            self._data.documents,
            self._data.features,
            places,
            block_size=self.drafter.config.block_size,
            fit=self._config.fit,
            labels=self._config.loss.labels,
            epoch=self.epoch,
        )

    def _accumulate(self, parts: Sequence[Sequence[int]]) -> tuple[float, ObjectiveStatistics]:
        """Gradients of a whole step; its loss and statistics, over all ranks.

        Features are read for one micro-batch at a time, and are gone when its gradient is there.
        """
        totals = self._total_counts(parts)
        objective = self._config.loss
        if needs_weights_first(objective):
            weight_sum = self._weight_sum(parts, totals)
            objective = joint_per_block(objective, weight_sum=weight_sum, totals=totals)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), dtype=torch.float64)
        statistics = ObjectiveStatistics.zero(
            self.drafter.config.num_draft_tokens, self._ranks.device
        )
        for index, part in enumerate(parts):
            with accumulating(self._module, is_last=index == len(parts) - 1):
                batch_loss, batch_statistics = self._objective(part, totals, objective)
                # Frameworks average gradients over ranks; the step's gradient is their sum.
                torch.autograd.backward(batch_loss * self._ranks.size)
            loss += batch_loss.detach().double().cpu()
            statistics = statistics + batch_statistics
        sums = torch.cat([loss.view(1), *(s.view(-1).cpu() for s in astuple(statistics))])
        sums = self._ranks.sum(sums)
        return float(sums[0]), statistics.like(sums[1:])

    @torch.no_grad()
    def _weight_sum(self, parts: Sequence[Sequence[int]], totals: ReductionCounts) -> float:
        """Sum of all weights of a step over all ranks, by a forward pass of its own."""
        mine = torch.zeros((), dtype=torch.float64)
        for part in parts:
            _, statistics = self._objective(part, totals, self._config.loss)
            mine += statistics.weight_sum.cpu()
        return float(self._ranks.sum(mine))

    def _objective(
        self, places: Sequence[int], totals: ReductionCounts, objective: LossConfig
    ) -> tuple[Float[Tensor, ""], ObjectiveStatistics]:
        if places:
            batch = self._batch(places)
        else:
            # Gradients are exchanged in every backward pass, so a rank without work joins in.
            batch = self._batch(self._next_places()[:1]).unsupervised()
        scales = block_scales(batch.supervised, reduction=objective.reduction, totals=totals)
        rows = pack(batch, row_tokens=self._config.fit.pack_tokens)
        device = self._ranks.device
        autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=self._config.fit.autocast == "bfloat16"
        )
        with autocast:
            inputs = self.drafter.embed_blocks(rows.anchor_tokens.to(device), self.embedding)
            hidden = self._module(
                rows.taps.to(device), inputs, rows.anchors.to(device), rows.starts.to(device)
            )
            return block_objective(
                hidden[:, :, 1:].flatten(0, 1)[rows.places.flatten().to(device)],
                self.head,
                batch.labels.to(device).flatten(0, 1),
                batch.supervised.to(device).flatten(0, 1),
                scales.to(device).flatten(),
                objective,
                batch.target_states(device),
            )

    def _total_counts(self, parts: Sequence[Sequence[int]]) -> ReductionCounts:
        """What the denominators count, over all micro-batches and ranks, without any features."""
        mine = ReductionCounts(0, 0, 0, 0)
        for places in parts:
            if places:
                supervised = supervised_positions(
                    self._data.documents,
                    places,
                    block_size=self.drafter.config.block_size,
                    fit=self._config.fit,
                    epoch=self.epoch,
                )
                mine += ReductionCounts.of(supervised)
        totals = self._ranks.sum(torch.tensor(astuple(mine)))
        return ReductionCounts(*totals.tolist())

    def _not_finite(self, loss: float, norm: float, places: Sequence[int]) -> TrainingError:
        ids = [self._data.documents[place].document_id for place in places]
        return TrainingError(
            f"step {self.step + 1}: loss {loss}, gradient norm {norm}; both must be finite. The "
            f"step's documents are {ids}, the last saved state is kept. Look at these documents, "
            "or lower fit.learning_rate or fit.clip_norm."
        )


def _initial_drafter(config: TrainConfig, data: PreparedData) -> BlockDrafter:
    # Seeded on its own: drafters that differ in their objective only start from the same weights.
    with torch.random.fork_rng():
        torch.manual_seed(config.fit.seed)
        drafter = BlockDrafter(data.drafter)
    if config.drafter.init_from is not None:
        load_weights(drafter, config.drafter.init_from, target=data.target.folder)
    return drafter


def _whole(number: Tensor) -> float:
    """A number that FSDP2 may have left in parts."""
    return float(number.full_tensor() if isinstance(number, DTensor) else number)


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
