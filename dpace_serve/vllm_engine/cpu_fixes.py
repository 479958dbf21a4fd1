"""Three bugs of vLLM 0.32 on CPU, fixed at run time; other platforms are left alone.

Each fix can tell whether upstream still needs it: a test fails when one can be dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from vllm import _custom_ops as ops
from vllm.model_executor.models.qwen3_dflash import DFlashQwen3Model
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.ops import topk_topp_sampler

PROBE_SEED = 0


@dataclass(frozen=True, slots=True)
class CpuFix:
    """A bug of the engine on CPU and its cure.

    Attributes:
        name: Short name for messages.
        links: Where upstream discusses it.
        owner: Module or class whose attribute is wrong.
        attribute: Name of the wrong function.
        upstream: The engine's own function.
        replacement: Ours.
        is_right: Whether a given function computes what it should, by a small numeric probe.
    """

    name: str
    links: tuple[str, ...]
    owner: Any
    attribute: str
    upstream: Callable[..., Any]
    replacement: Callable[..., Any]
    is_right: Callable[[Callable[..., Any]], bool]

    def apply(self) -> None:
        """Put our function in the place of the engine's."""
        setattr(self.owner, self.attribute, self.replacement)

    def is_needed(self) -> bool:
        """Whether the engine's own function is still wrong."""
        current_platform.import_kernels()
        current_platform.register_triton_kernel_overrides()
        return not self.is_right(self.upstream)


def apply() -> None:
    """Apply all fixes if this process runs on the CPU platform; safe to call again."""
    if not current_platform.is_cpu():
        return
    for fix in FIXES:
        fix.apply()


def normalize_context_keys(model: DFlashQwen3Model, all_keys: torch.Tensor) -> torch.Tensor:
    """Normalise each drafter layer's context keys with that layer's own weights.

    The CPU kernel ignores the layer axis of the weights and uses layer 0's for all: wrong draft
    logits, lower acceptance, correct output.

    Args:
        model: The engine's drafter.
        all_keys: Keys, `[layers, tokens, heads, head_dim]`.
    """
    normalized = torch.empty_like(all_keys)
    for layer, weight in enumerate(model._k_norm_weights):  # noqa: SLF001  (it replaces a method)
        ops.rms_norm(normalized[layer], all_keys[layer], weight, model._rms_norm_eps)  # noqa: SLF001
    return normalized


def expand_batch_to_tokens(
    x: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    num_tokens: int,
    replace_from: int = 0,
    replace_to: int = 0,
) -> torch.Tensor:
    """Repeat each request's value for each of its tokens.

    The engine's CPU kernel writes into a copy that nobody reads, so temperature, top-k and top-p
    of drafted tokens are uninitialised memory: sampling with speculation is not lossless.

    Args:
        x: One value per request.
        cu_num_tokens: Running sum of the requests' token counts.
        num_tokens: Its last value.
        replace_from: Value to replace.
        replace_to: What to put there.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    values = x.masked_fill(x == replace_from, replace_to)
    return torch.repeat_interleave(values, counts.to(torch.int64), output_size=num_tokens)


def apply_top_k_only(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Mask all but the k largest logits of each row.

    A speculating engine samples each step with the rejection sampler, a step of prompts alone too:
    no draft, so no row. The engine's function takes the largest k of no rows, and that ends the
    engine core.

    Args:
        logits: `[rows, vocab]`; may be changed in place.
        k: How many to keep: `[rows]`.
    """
    return logits if not logits.shape[0] else APPLY_TOP_K.upstream(logits, k)


class _ProbeModel:
    """What `_normalize_context_k` reads of the drafter."""

    def __init__(self, weights: torch.Tensor) -> None:
        self._k_norm_weights = weights
        self._rms_norm_eps = 1e-6


def _normalizes_each_layer(function: Callable[..., Any]) -> bool:
    generator = torch.Generator().manual_seed(PROBE_SEED)
    keys = torch.randn(3, 5, 2, 32, generator=generator)
    weights = torch.rand(3, 32, generator=generator) + 0.5
    normalized = keys * torch.rsqrt(keys.pow(2).mean(-1, keepdim=True) + 1e-6)
    expected = normalized * weights[:, None, None, :]
    return torch.allclose(function(_ProbeModel(weights), keys), expected, atol=1e-5)


def _repeats_each_value(function: Callable[..., Any]) -> bool:
    # Stale memory could hold the right values once; it cannot hold new random ones each time.
    generator = torch.Generator().manual_seed(PROBE_SEED)
    counts = torch.tensor([3, 1, 4])
    for _ in range(3):
        values = torch.rand(3, generator=generator) + 0.5
        expanded = function(values, counts.cumsum(0).to(torch.int32), 8)
        if not torch.equal(expanded, values.repeat_interleave(counts)):
            return False
    return True


def _takes_no_rows(function: Callable[..., Any]) -> bool:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    try:
        masked = function(torch.empty(0, 3), torch.empty(0, dtype=torch.int32))
    except RuntimeError:
        return False
    kept = function(logits.clone(), torch.tensor([2], dtype=torch.int32))
    expected = torch.tensor([[-torch.inf, 3.0, 2.0]])
    return len(masked) == 0 and torch.equal(kept, expected)


CONTEXT_KEYS = CpuFix(
    name="context keys",
    links=(
        "https://github.com/vllm-project/vllm/pull/46761",  # brought the two-axis weights
        "https://github.com/vllm-project/vllm/pull/56431",  # the same bug, fixed for XPU only
    ),
    owner=DFlashQwen3Model,
    attribute="_normalize_context_k",
    upstream=DFlashQwen3Model._normalize_context_k,  # noqa: SLF001  (the method that is wrong)
    replacement=normalize_context_keys,
    is_right=_normalizes_each_layer,
)
EXPAND_BATCH = CpuFix(
    name="sampling parameters of drafted tokens",
    links=(
        "https://github.com/vllm-project/vllm/issues/55005",
        "https://github.com/vllm-project/vllm/pull/55006",
    ),
    owner=rejection_sampler,
    attribute="expand_batch_to_tokens",
    upstream=rejection_sampler.expand_batch_to_tokens,
    replacement=expand_batch_to_tokens,
    is_right=_repeats_each_value,
)
APPLY_TOP_K = CpuFix(
    name="top-k of a step without drafts",
    links=(),
    owner=topk_topp_sampler,
    attribute="apply_top_k_only",
    upstream=topk_topp_sampler.apply_top_k_only,
    replacement=apply_top_k_only,
    is_right=_takes_no_rows,
)
FIXES = (CONTEXT_KEYS, EXPAND_BATCH, APPLY_TOP_K)
