import pytest
import torch

from dpace_training.config import FitConfig
from dpace_training.data.hidden_states import TargetFeatures
from dpace_training.data.tokenize import TokenizedConversation
from dpace_training.fit.batches import (
    anchor_coverage,
    epoch_batches,
    make_batch,
    supervised_positions,
)

FIT = FitConfig(num_anchors=3, seed=4)


def document(document_id, length, prompt):
    mask = tuple(index >= prompt for index in range(length))
    return TokenizedConversation(tuple(range(length)), mask, "other", document_id)


DOCUMENTS = [document(10, 12, 2), document(11, 7, 3), document(12, 5, 4)]


def next_tokens(item):
    """The target would say 100 + position wherever that is trained on."""
    known = torch.tensor([*item.loss_mask[1:], False])
    return torch.where(known, 101 + torch.arange(len(item.token_ids)), -1).int()


class CountingFeatures:
    """Each token's tap is its position, and so is its final state where that is kept."""

    def __init__(self, *, with_final=False):
        self.with_final = with_final

    def of(self, indices):
        return [
            TargetFeatures(
                taps=torch.arange(len(DOCUMENTS[i].token_ids)).unsqueeze(-1).bfloat16(),
                next_token=next_tokens(DOCUMENTS[i]),
                final=torch.arange(len(DOCUMENTS[i].token_ids)).unsqueeze(-1).bfloat16()
                if self.with_final
                else None,
            )
            for i in indices
        ]


def batch(indices, *, epoch=0, labels="data", with_final=False, fit=FIT):
    return make_batch(
        DOCUMENTS,
        CountingFeatures(with_final=with_final),
        indices,
        block_size=4,
        fit=fit,
        labels=labels,
        epoch=epoch,
    )


def test_labels_follow_the_anchor_and_taps_stand_at_their_token():
    made = batch([0, 1])
    assert made.taps.shape == (2, 12, 1)
    assert made.taps.dtype == torch.float32
    # Token ids count up from 0, so the label of draft position k is anchor + k.
    assert torch.equal(made.anchor_tokens, made.anchors)
    expected = made.anchors.unsqueeze(-1) + torch.arange(1, 4)
    assert torch.equal(made.labels[made.supervised], expected[made.supervised])
    assert made.supervised[0].all()


def test_a_document_has_the_same_anchors_in_every_batch():
    alone, together = batch([1]), batch([0, 1])
    # Document 11 has one place for a block: anchor 3, since 4 tokens must follow from there.
    assert alone.anchors.tolist() == [[3]]
    assert together.anchors[1].tolist() == [3, 0, 0]
    assert together.supervised[1].any(dim=-1).tolist() == [True, False, False]


def test_another_epoch_draws_other_anchors():
    drawn = {tuple(batch([0], epoch=epoch).anchors[0].tolist()) for epoch in range(8)}
    assert len(drawn) > 1
    assert all(len(set(anchors)) == 3 for anchors in drawn)


def test_a_document_without_a_block_is_all_unsupervised():
    made = batch([2, 0])
    assert not made.supervised[0].any()
    assert made.supervised[1].all()


@pytest.mark.parametrize("labels", ["data", "target_argmax", "soft"])
@pytest.mark.parametrize("allow_tail", [False, True])
@pytest.mark.parametrize("epoch", [0, 5])
def test_what_is_supervised_is_known_before_any_features(labels, allow_tail, epoch):
    fit = FitConfig(num_anchors=3, seed=4, allow_tail=allow_tail)
    for indices in ([0], [1], [2], [2, 0, 1]):
        made = batch(indices, epoch=epoch, labels=labels, fit=fit)
        known = supervised_positions(DOCUMENTS, indices, block_size=4, fit=fit, epoch=epoch)
        assert torch.equal(known, made.supervised)


@pytest.mark.parametrize("num_documents", [1, 7, 200])
def test_an_epoch_visits_each_document_once(num_documents):
    lengths = [(37 * index) % 50 + 1 for index in range(num_documents)]
    batches = epoch_batches(lengths, batch_size=4, seed=0, epoch=0)
    assert sorted(index for part in batches for index in part) == list(range(num_documents))
    assert sorted(len(part) for part in batches)[1:] == [4] * (len(batches) - 1)


def test_the_order_follows_seed_and_epoch():
    lengths = [5] * 40
    order = epoch_batches(lengths, batch_size=4, seed=0, epoch=0)
    assert order == epoch_batches(lengths, batch_size=4, seed=0, epoch=0)
    assert order != epoch_batches(lengths, batch_size=4, seed=0, epoch=1)
    assert order != epoch_batches(lengths, batch_size=4, seed=1, epoch=0)


def test_documents_of_a_batch_are_of_similar_length():
    lengths = [(37 * index) % 64 + 1 for index in range(128)]
    batches = epoch_batches(lengths, batch_size=4, seed=0, epoch=0)
    widths = [max(lengths[i] for i in part) - min(lengths[i] for i in part) for part in batches]
    assert max(widths) <= 2
    longest = [max(lengths[i] for i in part) for part in batches]
    assert longest != sorted(longest)


@pytest.mark.parametrize("labels", ["target_argmax", "soft"])
def test_the_targets_own_choice_can_be_the_label(labels):
    made, data = batch([0, 1], labels=labels), batch([0, 1])
    assert torch.equal(made.labels[made.supervised], 100 + data.labels[data.supervised])
    # The anchor stays what the text says: the draft goes on from there.
    assert torch.equal(made.anchor_tokens, data.anchor_tokens)


def test_a_draft_position_is_predicted_at_the_token_before_it():
    made = batch([0, 1], with_final=True)
    target = made.target_states(torch.device("cpu"))
    rows = target.states[target.rows, 0]
    supervised = made.supervised.flatten(0, 1)
    labels = made.labels.flatten(0, 1)
    assert torch.equal(rows[supervised], labels[supervised].float() - 1)
    # Rows of the second document lie behind those of the first, whose width is the batch's.
    assert target.rows[3].tolist() == [12 + 3, 12 + 4, 12 + 5]


def test_rows_beyond_the_documents_end_stay_inside_the_batch():
    made = batch([1], with_final=True, fit=FitConfig(num_anchors=3, seed=4, allow_tail=True))
    target = made.target_states(torch.device("cpu"))
    assert int(target.rows.max()) < len(target.states)


def test_without_soft_labels_there_are_no_target_states():
    assert batch([0]).target_states(torch.device("cpu")) is None


def test_coverage_is_the_share_of_trained_tokens_that_blocks_predict():
    # Of 12 - 2 and 7 - 3 trained tokens all but the first can stand behind an anchor; document 12
    # has one trained token and no anchor.
    every = FitConfig(num_anchors=100, seed=4, allow_tail=True)
    assert anchor_coverage(DOCUMENTS, block_size=4, fit=every) == pytest.approx((9 + 3) / 15)
    # One anchor in document 11 at 3, of a block that ends inside: tokens 4, 5 and 6.
    alone = FitConfig(num_anchors=1, seed=4)
    assert anchor_coverage(DOCUMENTS[1:2], block_size=4, fit=alone) == pytest.approx(3 / 4)
