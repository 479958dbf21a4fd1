"""A hook that is not in its place is seen, whatever SGLang says of it."""

import functools
import types

import pytest

from dpace_serve.errors import EngineError
from dpace_serve.sglang_engine import hooking
from dpace_serve.sglang_engine.hooking import Hook


class Engine:
    def step(self, batch):
        return batch


def around(original, engine, batch):
    return original(engine, batch) + 1


def wrapped(original, hook):
    """As SGLang's registry wraps a function."""

    @functools.wraps(original)
    def wrapper(*args, **kwargs):
        return hook(original, *args, **kwargs)

    return wrapper


@pytest.fixture
def engine(monkeypatch):
    module = types.ModuleType("an_engine")
    module.Engine = type("Engine", (), {"step": Engine.step})
    monkeypatch.setitem(__import__("sys").modules, "an_engine", module)
    return module.Engine


HOOK = Hook("an_engine.Engine.step", ("self", "batch"), around)


def test_a_hook_in_its_place_is_found_below_those_of_others(engine):
    engine.step = wrapped(engine.step, around)
    assert hooking.not_applied([HOOK]) == []
    engine.step = wrapped(engine.step, lambda original, *given: original(*given))
    assert hooking.not_applied([HOOK]) == []
    assert engine().step(3) == 4


def test_a_hook_that_never_took_hold_is_named(engine):
    assert hooking.not_applied([HOOK]) == ["an_engine.Engine.step"]


def test_another_function_in_its_place_is_no_hook(engine):
    engine.step = wrapped(engine.step, lambda original, *given: original(*given))
    assert hooking.not_applied([HOOK]) == ["an_engine.Engine.step"]


def test_a_function_that_is_gone_is_named(engine):
    del engine.step
    assert hooking.not_applied([HOOK]) == ["an_engine.Engine.step"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda engine: setattr(engine, "step", lambda self, batch, more: batch), "batch, more"),
        (lambda engine: delattr(engine, "step"), "is not there"),
    ],
)
def test_a_function_of_another_version_is_refused_before_anything_is_hooked(engine, change, said):
    change(engine)
    with pytest.raises(EngineError, match=said):
        hooking.require_expected(HOOK)


def test_the_function_that_the_hook_was_written_for_is_not_refused(engine):
    hooking.require_expected(HOOK)
    engine.step = wrapped(engine.step, around)
    hooking.require_expected(HOOK)
