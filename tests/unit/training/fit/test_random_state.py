"""The random states of CPU and accelerator in a saved run; the accelerator is a stand-in."""

import types

import pytest
import torch

from dpace_training.fit.random_state import read_random_states, restore_random_states

CPU, DEVICE = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def states(monkeypatch):
    """Random states of a machine's accelerators by device."""
    states = {DEVICE: torch.tensor([1, 2, 3], dtype=torch.uint8)}
    module = types.SimpleNamespace(
        get_rng_state=lambda device: states[device].clone(),
        set_rng_state=lambda state, device: states.__setitem__(device, state.clone()),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: {DEVICE: module}[device])
    return states


def of_rank(states, rank):
    return {f"{name}.{rank}": state for name, state in states.items()}


def test_draws_go_on_where_the_state_was_read():
    saved = of_rank(read_random_states(CPU), 0)
    expected = torch.rand(3)
    torch.manual_seed(99)
    restore_random_states(saved, rank=0, device=CPU)
    assert torch.equal(torch.rand(3), expected)


def test_the_state_of_this_ranks_accelerator_comes_back(states):
    saved = of_rank(read_random_states(DEVICE), 0)
    states[DEVICE] = torch.tensor([7, 7, 7], dtype=torch.uint8)
    saved |= of_rank(read_random_states(DEVICE), 1)
    states[DEVICE] = torch.tensor([0, 0, 0], dtype=torch.uint8)
    restore_random_states(saved, rank=0, device=DEVICE)
    assert states[DEVICE].tolist() == [1, 2, 3]
    restore_random_states(saved, rank=1, device=DEVICE)
    assert states[DEVICE].tolist() == [7, 7, 7]


def test_a_rank_or_device_that_was_not_there_keeps_its_own_state(states):
    saved = of_rank(read_random_states(CPU), 0)
    expected = torch.get_rng_state()
    restore_random_states(saved, rank=1, device=DEVICE)
    assert states[DEVICE].tolist() == [1, 2, 3]
    assert torch.equal(torch.get_rng_state(), expected)
    # From an accelerator to a CPU: nothing to put the device's state into.
    restore_random_states(of_rank(read_random_states(DEVICE), 0), rank=0, device=CPU)
