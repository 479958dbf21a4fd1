"""How many logits exist, and how long."""

import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dpace_training.losses.config import LossConfig
from dpace_training.losses.objective import block_objective


class LargestLogits(TorchDispatchMode):
    """Remembers the most rows of any tensor whose last axis is the vocabulary, and of softmaxes."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab = vocab
        self.rows = 0
        self.softmax_rows = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.ndim > 1 and tensor.shape[-1] == self.vocab:
                rows = tensor.numel() // self.vocab
                self.rows = max(self.rows, rows)
                if "softmax" in str(function):
                    self.softmax_rows = max(self.softmax_rows, rows)
        return result


def test_no_more_logits_than_one_chunk_exist_at_once_forward_or_backward():
    vocab, hidden_size, blocks, positions = 97, 8, 12, 5
    head = torch.randn(vocab, hidden_size)
    hidden = torch.randn(blocks, positions, hidden_size, requires_grad=True)
    with LargestLogits(vocab) as seen:
        total, _ = block_objective(
            hidden,
            head,
            torch.randint(vocab, (blocks, positions)),
            torch.ones(blocks, positions, dtype=torch.bool),
            torch.ones(blocks),
            LossConfig(blocks_per_chunk=3),
        )
        total.backward()
    assert seen.rows == 3 * positions


def test_logits_are_gone_when_the_loss_is_there():
    vocab, saved = 97, []

    def watch(tensor: Tensor) -> Tensor:
        if tensor.shape[-1:] == (vocab,):
            saved.append(weakref.ref(tensor))
        return tensor

    hidden = torch.randn(12, 5, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(watch, lambda tensor: tensor):
        total, _ = block_objective(
            hidden,
            torch.randn(vocab, 8),
            torch.randint(vocab, (12, 5)),
            torch.ones(12, 5, dtype=torch.bool),
            torch.ones(12),
            LossConfig(blocks_per_chunk=3),
        )
    assert len(saved) >= 4
    assert all(reference() is None for reference in saved)
    total.backward()
    assert hidden.grad.abs().max() > 0


def largest_logits(loss: LossConfig, logits: Tensor, supervised: Tensor) -> LargestLogits:
    blocks, positions, vocab = logits.shape
    hidden = logits.clone().requires_grad_()  # the head is the unit matrix
    labels = torch.zeros(blocks, positions, dtype=torch.int64)
    with LargestLogits(vocab) as seen:
        total, _ = block_objective(
            hidden, torch.eye(vocab), labels, supervised, torch.ones(blocks), loss
        )
        total.backward()
    return seen


def test_unsupervised_positions_get_no_logits():
    supervised = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool()
    assert largest_logits(LossConfig(), torch.randn(2, 4, 9), supervised).softmax_rows == 4


def test_accept_until_fail_works_out_nothing_but_the_drafts_behind_the_first_error():
    # Token 0 is the label: the first block errs at position 2, the second nowhere.
    logits = torch.zeros(2, 4, 9)
    logits[:, :, 0] = 1
    logits[0, 1, 5] = 2
    logits[0, 2, 5] = 2
    supervised = torch.ones(2, 4, dtype=torch.bool)
    assert largest_logits(LossConfig(recipe="auf"), logits, supervised).softmax_rows == 6


def test_dpace_weights_look_behind_the_first_error_so_all_of_it_is_worked_out():
    logits = torch.zeros(2, 4, 9)
    logits[:, :, 5] = 1
    supervised = torch.ones(2, 4, dtype=torch.bool)
    loss = LossConfig(recipe="dpace", support="until_first_error")
    assert largest_logits(loss, logits, supervised).softmax_rows == 8
