"""The engine's model of a drafter with position specialists: vLLM's, its last part replaced."""

from collections.abc import Iterable

import torch
from torch import Tensor
from typing_extensions import override
from vllm.compilation.breakable_cudagraph import BreakableCUDAGraphWrapper
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.models.qwen3_dflash import DFlashQwen3ForCausalLM, DFlashQwen3Model

from dpace_serve.drafter.draft_groups import DraftGroups
from dpace_serve.drafter.specialists import SECTION, read_specialists
from dpace_serve.errors import ConfigError
from dpace_serve.vllm_engine.hosted_checkpoints import require_one_rank
from dpace_serve.vllm_engine.specialist_layer import BlockPlan, SpecialistLayer, StepAdapters

_PREFIX = f"{SECTION}."


@support_torch_compile
class SpecialistDraftModel(DFlashQwen3Model):
    """Layers of a drafter whose draft positions have parameters of their own, in groups."""

    def __init__(
        self, *, vllm_config: VllmConfig, start_layer_id: int = 0, prefix: str = ""
    ) -> None:
        super().__init__(vllm_config=vllm_config, start_layer_id=start_layer_id, prefix=prefix)
        if self.quant_config is not None:
            raise ConfigError(
                "a drafter with position specialists must be served in its own number format, got "
                f"quantization {self.quant_config.get_name()}. Drop it."
            )
        plan = _plan(vllm_config)
        groups = plan.groups
        # What the graph is compiled for. The engine keeps graphs by what the configuration says.
        self.config.dpace_blocks = [groups.shortest, groups.longest, plan.max_tokens]
        self.adapters: StepAdapters | None = None
        if groups.specialists.kind == "low_rank":
            self.adapters = StepAdapters(plan, self.config.hidden_size)
        else:
            last = SpecialistLayer(self.layers[-1], plan, self.config.intermediate_size)
            self.layers[-1] = last
        self._plan = plan
        self._followed = 0
        self.follow(groups.longest)

    def follow(self, num_draft_tokens: int) -> None:
        """Take the rows of the coming steps as blocks of this many draft tokens."""
        if num_draft_tokens != self._followed:
            self._plan.groups.require_planned(num_draft_tokens)
            self._own_part().follow(num_draft_tokens)
            self._followed = num_draft_tokens

    @override
    def forward(
        self, input_ids: Tensor, positions: Tensor, input_embeds: Tensor | None = None
    ) -> Tensor:
        """Last hidden states of all rows; those of anchors predict nothing."""
        hidden: Tensor = super().forward(input_ids, positions, input_embeds)
        return hidden if self.adapters is None else self.adapters(hidden)

    @override
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the shared tensors as the engine does, and the stacked ones here."""
        own: set[str] = set()

        def shared() -> Iterable[tuple[str, Tensor]]:
            for name, weight in weights:
                if name.startswith(_PREFIX):
                    self._own_part().load(name.removeprefix(_PREFIX), weight)
                    own.add(name)
                else:
                    yield name, weight

        loaded: set[str] = super().load_weights(shared())
        return loaded | own

    def _own_part(self) -> StepAdapters | SpecialistLayer:
        last: SpecialistLayer = self.layers[-1]
        return last if self.adapters is None else self.adapters


class SpecialistDraftForCausalLM(DFlashQwen3ForCausalLM):
    """A drafter with position specialists, as the engine's proposer drives it."""

    model_cls = SpecialistDraftModel

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        require_one_rank(
            vllm_config.speculative_config.draft_model_config.model,
            get_tensor_model_parallel_world_size(),
        )
        super().__init__(vllm_config=vllm_config, prefix=prefix)


def follow_blocks(model: torch.nn.Module, num_draft_tokens: int) -> None:
    """Tell a drafter how long the blocks of the coming steps are; a plain one needs not know."""
    if isinstance(model, BreakableCUDAGraphWrapper):
        model = model.unwrap()
    if isinstance(model, SpecialistDraftForCausalLM):
        model.model.follow(num_draft_tokens)


def _plan(vllm_config: VllmConfig) -> BlockPlan:
    speculation = vllm_config.speculative_config
    longest = speculation.num_speculative_tokens
    specialists = read_specialists(speculation.draft_model_config.hf_config.to_dict())
    if specialists is None:
        raise ConfigError(
            f"this architecture needs the section {SECTION} in config.json, got none. Put the "
            "config.json of this drafter beside its weights."
        )
    rows = vllm_config.scheduler_config.max_num_seqs * (1 + longest)
    captured = vllm_config.compilation_config.max_cudagraph_capture_size or 0
    # Where lengths come from a table, another may take its place while the engine runs.
    has_table = speculation.num_speculative_tokens_per_batch_size is not None
    shortest = 1 if has_table else longest
    return BlockPlan(DraftGroups(specialists, longest, shortest), max(rows, captured) + 1)
