"""A D-PACE step of SpecForge; its interpreter runs this.

SpecForge's own model, objective and optimizer, as its DFlash provider and trainer put them together
(`algorithms/model_providers.py`, `training/controller.py`). In bfloat16 the weights are bfloat16
and the optimizer keeps float32 copies: that is SpecForge's way, not autocast.

`sdpa` works out all logits at once. `sdpa-128` takes the objective 128 anchors at a time, which is
SpecForge's default, and computes their logits a second time in the backward pass.
"""

from importlib.metadata import version

import torch
from specforge.algorithms.common.dflash_family_model import OnlineDFlashModel
from specforge.modeling.draft.dflash import DFlashDraftModel
from specforge.optimizer import BF16Optimizer
from torch import nn
from transformers import Qwen3Config

from dpace_training.bench.peers.answering import Side, TakenStep, main
from dpace_training.bench.peers.size import Precision, StepSize


def build(size: StepSize, *, attention: str, precision: Precision) -> Side:
    """SpecForge's DFlash model with `loss_type` dpace, on one random batch."""
    torch.manual_seed(0)
    dtype = getattr(torch, precision)
    attention, _, chunk_blocks = attention.partition("-")
    drafter = DFlashDraftModel(_config(size, attention))
    head = nn.Linear(size.hidden_size, size.vocab_size, bias=False).requires_grad_(False)
    embedding = nn.Embedding(size.vocab_size, size.hidden_size).requires_grad_(False)
    model = OnlineDFlashModel(
        draft_model=drafter,
        target_lm_head=head,
        target_embed_tokens=embedding,
        mask_token_id=size.mask_token_id,
        block_size=size.block_size,
        attention_backend=attention,
        num_anchors=size.num_anchors,
        objective_chunk_blocks=int(chunk_blocks or 0),
        loss_type="dpace",
        dpace_alpha=size.alpha,
    ).to(dtype=dtype)
    model.train()
    optimizer = BF16Optimizer(drafter, lr=size.learning_rate, max_grad_norm=size.clip_norm)
    shape = (size.num_documents, size.num_tokens)
    token_ids = torch.randint(size.vocab_size, shape)
    taps = torch.randn(*shape, size.num_taps * size.hidden_size, dtype=dtype)
    loss_mask = torch.ones(shape)
    loss_mask[:, : size.num_prompt_tokens] = 0

    def take_step() -> TakenStep:
        loss, _, metrics = model(token_ids, taps, loss_mask)
        loss.backward()
        optimizer.step()
        return TakenStep(loss.detach(), metrics["accuracy_denom"])

    return Side(
        versions={name: version(name) for name in ("specforge", "torch", "transformers")},
        num_parameters=sum(weight.numel() for weight in optimizer.model_params),
        take_step=take_step,
    )


def _config(size: StepSize, attention: str) -> Qwen3Config:
    config = Qwen3Config(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_kv_heads,
        head_dim=size.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        block_size=size.block_size,
        num_target_layers=size.num_target_layers,
        dflash_config={
            "mask_token_id": size.mask_token_id,
            "target_layer_ids": size.target_layer_ids,
        },
    )
    config._attn_implementation = attention  # noqa: SLF001 (as SpecForge's provider sets it)
    return config


if __name__ == "__main__":
    main(build)
