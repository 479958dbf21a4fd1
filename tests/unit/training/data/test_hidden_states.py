import pytest
import torch

from dpace_serve.errors import ConfigError
from dpace_training.data.hidden_states import read_features
from dpace_training.data.tokenize import TokenizedConversation

LAYER_IDS = (1, 3)


def document(length, document_id=0):
    token_ids = tuple((7 * index + document_id) % 250 for index in range(length))
    mask = tuple(index >= length // 2 for index in range(length))
    return TokenizedConversation(token_ids, mask, "other", document_id)


DOCUMENTS = [document(length, index) for index, length in enumerate((9, 4, 12, 6, 5))]


def test_a_tap_is_the_output_of_its_layer(target):
    item = document(9)
    (feature,) = read_features(target, [item], LAYER_IDS)
    states = target.model(torch.tensor([item.token_ids]), output_hidden_states=True).hidden_states
    # hidden_states[0] is the embedding, so the output of layer i is at i + 1.
    assert torch.equal(feature.taps, torch.cat([states[2][0], states[4][0]], dim=-1))


def test_the_next_token_is_the_targets_choice_where_it_is_trained_on(target):
    item = document(9)
    (feature,) = read_features(target, [item], LAYER_IDS)
    choice = target.model(torch.tensor([item.token_ids])).logits[0].argmax(dim=-1).tolist()
    assert feature.next_token.tolist() == [-1, -1, -1, *choice[3:8], -1]


def test_a_longer_neighbour_in_the_batch_changes_nothing(target):
    alone = read_features(target, [DOCUMENTS[1]], LAYER_IDS)[0]
    together = read_features(target, DOCUMENTS, LAYER_IDS)[1]
    torch.testing.assert_close(together.taps, alone.taps, atol=1e-5, rtol=1e-5)
    assert torch.equal(together.next_token, alone.next_token)


def test_a_layer_that_does_not_exist_is_an_error(target):
    with pytest.raises(ConfigError, match=r"must lie in 0\.\.5, got \[1, 6\]"):
        read_features(target, DOCUMENTS, (1, 6))


def test_final_states_are_what_the_head_reads(target):
    item = document(9)
    (feature,) = read_features(target, [item], LAYER_IDS, with_final=True)
    logits = target.model(torch.tensor([item.token_ids])).logits[0]
    head = target.model.get_output_embeddings().weight
    torch.testing.assert_close(feature.final @ head.T, logits)
