"""Which of the target's hidden states a layer id means."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from dpace_training.drafter.taps import recorded_taps


def tiny_target() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=3,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        )
    ).eval()  # fmt: skip


@torch.no_grad()
def test_layer_id_i_is_the_output_of_decoder_layer_i():
    target = tiny_target()
    with recorded_taps(target, (0, 1)) as recorded:
        hidden = target(torch.tensor([[1, 2, 3]]), output_hidden_states=True).hidden_states
    # hidden[0] is the embedding, so the output of layer 0 is hidden[1].
    assert torch.equal(recorded.joined(), torch.cat((hidden[1], hidden[2]), dim=-1))


@torch.no_grad()
def test_the_last_layers_output_is_taken_before_the_final_norm():
    target = tiny_target()
    with recorded_taps(target, (2,)) as recorded:
        normed = target(torch.tensor([[1, 2, 3]]), output_hidden_states=True).hidden_states[3]
    assert torch.allclose(target.model.norm(recorded.joined()), normed)
    assert not torch.allclose(recorded.joined(), normed)


def test_nothing_is_recorded_after_the_context_is_closed():
    target = tiny_target()
    with recorded_taps(target, (1,)) as recorded:
        pass
    target(torch.tensor([[1]]))
    assert recorded.outputs == {}
