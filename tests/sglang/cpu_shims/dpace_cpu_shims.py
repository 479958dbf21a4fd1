"""FOR TESTS ONLY: a plugin that lets SGLang 0.5.23 draft with DFLASH on a CPU."""

import os
from pathlib import Path

DRAFTS_VARIABLE = "DPACE_TEST_DRAFTS"
BACKEND = "torch_native"


def register():
    """Put the shims around SGLang's functions, on a CPU."""
    if os.environ.get("SGLANG_USE_CPU_ENGINE") != "1":
        return
    import torch
    from sglang.srt.arg_groups.choices import add_draft_attention_backend_choices
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    add_draft_attention_backend_choices([BACKEND])
    torch.Tensor.record_stream = _ignore_stream
    for target, around in {
        "sglang.srt.arg_groups.speculative_hook._handle_dflash": _pass_the_device_check,
        "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend.forward_extend": (
            _attend_to_the_block
        ),
        "sglang.srt.models.dflash.DFlashAttention.__init__": _without_triton,
        "sglang.srt.speculative.dflash_worker_v2.DFlashWorkerV2"
        "._greedy_sample_from_vocab_parallel_head": _keep_drafts,
    }.items():
        HookRegistry.register(target, around, HookType.AROUND)


def _ignore_stream(tensor, stream):
    """A CPU has no streams."""


class _WithDflash:
    """The CPU's platform, which also says that it can draft."""

    def __init__(self, platform):
        self._platform = platform

    def __getattr__(self, name):
        return getattr(self._platform, name)

    def is_out_of_tree(self):
        return True

    def supports_speculative_algorithm(self, algorithm):
        return algorithm == "DFLASH"

    def supports_speculative_draft_attention_backend(self, algorithm, backend):
        return backend == BACKEND

    def get_default_speculative_draft_attention_backend(self, algorithm):
        return BACKEND


def _pass_the_device_check(original, server_args):
    from sglang.srt.arg_groups import speculative_hook

    platform = speculative_hook.current_platform
    speculative_hook.current_platform = _WithDflash(platform)
    try:
        original(server_args)
        speculative_hook._disable_overlap_schedule_for_cpu(server_args)
    finally:
        speculative_hook.current_platform = platform


def _attend_to_the_block(original, backend, *given, **named):
    """Attention of a verified block, which this backend takes for the start of a prompt."""
    batch = given[4]  # after query, key, value and layer
    if not batch.forward_mode.is_target_verify():
        return original(backend, *given, **named)
    import torch

    before, length = batch.seq_lens, int(batch.spec_info.draft_token_num)
    kept = (before, batch.extend_prefix_lens, batch.extend_seq_lens)
    batch.seq_lens, batch.extend_prefix_lens = before + length, before
    batch.extend_seq_lens = torch.full_like(before, length)
    try:
        return original(backend, *given, **named)
    finally:
        batch.seq_lens, batch.extend_prefix_lens, batch.extend_seq_lens = kept


def _without_triton(original, attention, *given, **named):
    original(attention, *given, **named)
    attention.use_table_qk_norm_rope = False  # in bfloat16 it is a Triton kernel


def _keep_drafts(original, worker, *, hidden_states, lm_head, **named):
    """Leave what was drafted, and the logits, in a folder that a test watches, if it is there."""
    import torch

    tokens = original(worker, hidden_states=hidden_states, lm_head=lm_head, **named)
    folder = Path(os.environ.get(DRAFTS_VARIABLE, ""))
    if DRAFTS_VARIABLE in os.environ and folder.is_dir():
        logits = hidden_states.to(lm_head.weight.dtype) @ lm_head.weight.T
        number = len(list(folder.iterdir()))
        torch.save({"tokens": tokens.clone(), "logits": logits}, folder / f"{number:06d}.pt")
    return tokens
