"""A D-PACE step of speculators; its interpreter runs this.

Its own model and objective with its trainer's step around them (`train/trainer.py`): all documents
packed into one row, autocast, AdamW, clipping. Labels are the most likely tokens of the target's
last hidden states, which its forward pass always computes.
"""

from importlib.metadata import version

import torch
from speculators.losses import resolve_loss_config
from speculators.models.dflash import DFlashDraftModel, DFlashSpeculatorConfig
from transformers import Qwen3Config

from dpace_training.bench.peers.answering import Side, TakenStep, main
from dpace_training.bench.peers.size import Precision, StepSize


def build(size: StepSize, *, attention: str, precision: Precision) -> Side:
    """The DFlash drafter of speculators with `per_position_loss_weight` dpace, on one batch."""
    torch.manual_seed(0)
    model = DFlashDraftModel(_config(size, attention))
    for frozen in (model.embed_tokens, model.lm_head, model.verifier_lm_head):
        torch.nn.init.normal_(frozen.weight, std=size.hidden_size**-0.5)
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=size.learning_rate)
    # The default, `fused`, is a Triton kernel.
    loss_config = resolve_loss_config("ce", "eager")
    batch = _random_row(size)

    def take_step() -> TakenStep:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            _, loss, metrics = model(
                **batch,
                loss_config=loss_config,
                max_anchors=size.num_documents * size.num_anchors,
                per_position_loss_weight="dpace",
                dpace_alpha=size.alpha,
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), size.clip_norm)
        optimizer.step()
        return TakenStep(loss.detach(), metrics["full_acc_total"])

    return Side(
        versions={name: version(name) for name in ("speculators", "torch", "transformers")},
        num_parameters=sum(weight.numel() for weight in weights),
        take_step=take_step,
    )


def _random_row(size: StepSize) -> dict[str, torch.Tensor]:
    row = (1, size.num_documents * size.num_tokens)
    positions = torch.arange(size.num_tokens).repeat(size.num_documents).unsqueeze(0)
    return {
        "hidden_states": torch.randn(*row, size.num_taps * size.hidden_size),
        "input_ids": torch.randint(size.vocab_size, row),
        "loss_mask": (positions >= size.num_prompt_tokens).long(),
        "verifier_last_hidden_states": torch.randn(*row, size.hidden_size),
        "document_ids": torch.arange(size.num_documents)
        .repeat_interleave(size.num_tokens)
        .unsqueeze(0),
        "position_ids": positions,
    }


def _config(size: StepSize, attention: str) -> DFlashSpeculatorConfig:
    layers = Qwen3Config(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_kv_heads,
        head_dim=size.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
    )
    layers._attn_implementation = attention  # noqa: SLF001 (as its `from_training_args` sets it)
    return DFlashSpeculatorConfig(
        transformer_layer_config=layers,
        draft_vocab_size=size.vocab_size,
        block_size=size.block_size,
        aux_hidden_state_layer_ids=size.target_layer_ids,
        mask_token_id=size.mask_token_id,
    )


if __name__ == "__main__":
    main(build)
