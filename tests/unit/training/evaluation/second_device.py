"""A device that is not there: its tensors lie in main memory, and mixing them with others fails.

As on a real accelerator, an operation takes tensors of one device; numbers without an axis and
indices from main memory may join. Nothing is copied from one to the other but by `to`, `cpu` and
`copy_`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("cuda", 0)
CPU = torch.device("cpu")
MOVES = {Tensor.to, Tensor.cpu}
CROSSING = {Tensor.copy_, torch._has_compatible_shallow_copy_type}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}


class Remote(Tensor):
    """A tensor of that device."""


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Make the device exist while the context is open."""
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    # A module's move must replace its parameters: setting their data would leave them plain.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Operations():
            yield DEVICE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


class _Operations(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func == Tensor.device.__get__:
                return DEVICE if isinstance(args[0], Remote) else func(*args)
            if func in MOVES:
                return _moved(func, args, kwargs)
            if func in CROSSING:
                return func(*args, **kwargs)
            _require_one_device(func, args, kwargs)
            is_remote = any(isinstance(leaf, Remote) for leaf in tree_leaves((args, kwargs)))
            if kwargs.get("device") is not None:
                is_remote = _is_second(kwargs["device"])
                kwargs = kwargs | {"device": _really(kwargs["device"])}
            result = func(*args, **kwargs)
            if func in {Tensor.tolist, Tensor.numpy}:
                return result
            return tree_map_only(Tensor, _remote, result) if is_remote else result


def _remote(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, Remote) else tensor.as_subclass(Remote)


def _moved(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    tensor, *rest = args
    goes = isinstance(tensor, Remote)
    if func is Tensor.cpu:
        return tensor.as_subclass(Tensor).clone() if goes else tensor
    for value in (*rest, *kwargs.values()):
        if isinstance(value, Tensor):
            goes = isinstance(value, Remote)
        elif isinstance(value, torch.device | str):
            goes = _is_second(value)
    here = [_really(value) for value in rest]
    moved = func(
        tensor.as_subclass(Tensor),
        *here,
        **{name: _really(value) for name, value in kwargs.items()},
    )
    return _remote(moved) if goes else moved.as_subclass(Tensor)


def _is_second(value: object) -> bool:
    return isinstance(value, torch.device | str) and torch.device(value).type == DEVICE.type


def _really(value: object) -> object:
    """Where the tensors of a device lie; anything else as it is."""
    return CPU if _is_second(value) else value


def _require_one_device(func: Any, args: Any, kwargs: Any) -> None:
    checked = args[:1] + args[2:] if func in INDEXING else args
    tensors = [leaf for leaf in tree_leaves((checked, kwargs)) if isinstance(leaf, Tensor)]
    kinds = {isinstance(tensor, Remote) for tensor in tensors if tensor.ndim}
    if len(kinds) > 1:
        raise RuntimeError(f"{func}: tensors of two devices")
