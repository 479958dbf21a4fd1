"""An answer that no token fits is refused where a grammar was asked for, and only there."""

from types import SimpleNamespace

import pytest

from dpace_serve.vllm_engine.unsatisfied_grammar import refusing

CONSTRAINED = SimpleNamespace(structured_outputs=object())
FREE = SimpleNamespace(structured_outputs=None)


class RefusedError(Exception):
    pass


def engine(*reasons):
    closed = []

    async def generate(prompt, sampling_params, request_id, *args, **kwargs):
        try:
            for reason in reasons:
                yield SimpleNamespace(outputs=[SimpleNamespace(finish_reason=reason)])
        finally:
            closed.append(request_id)

    return refusing(generate, RefusedError), closed


async def reasons_of(outputs):
    return [one.finish_reason async for output in outputs for one in output.outputs]


async def test_a_request_whose_grammar_fits_nothing_is_refused_and_its_generator_closed():
    generate, closed = engine(None, "error", "stop")
    with pytest.raises(RefusedError, match="must allow some text"):
        await reasons_of(generate("The", CONSTRAINED, "one"))
    assert closed == ["one"]


async def test_an_error_of_the_engine_stays_one_without_a_grammar():
    generate, _ = engine(None, "error")
    assert await reasons_of(generate("The", FREE, "one")) == [None, "error"]


async def test_an_answer_that_fits_is_given_on():
    generate, _ = engine(None, None, "stop")
    assert await reasons_of(generate("The", CONSTRAINED, "one")) == [None, None, "stop"]
    assert await reasons_of(generate("The", object(), "two")) == [None, None, "stop"]
