"""The binding of a request survives its way to the worker."""

import pytest

from dpace_serve.vllm_engine.row_binding import BINDING, PLAIN, RowBinding, binding_of


@pytest.mark.parametrize("binding", [RowBinding(3, 0, ()), RowBinding(9, 2, (1, 3))])
def test_a_binding_is_read_as_it_was_written(binding):
    assert binding_of({BINDING: binding.to_list(), "other": 1}) == binding


@pytest.mark.parametrize("extra_args", [None, {}, {"other": 1}])
def test_a_request_without_one_is_served_by_the_first_slot(extra_args):
    assert binding_of(extra_args) == PLAIN
    assert (PLAIN.serving, PLAIN.shadows) == (0, ())
