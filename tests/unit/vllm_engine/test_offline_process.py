"""How the process of an offline engine answers; the engine is a fake, the pipe is real."""

from multiprocessing import Pipe
from threading import Thread

import pytest

from dpace_serve.vllm_engine import offline_process
from dpace_serve.vllm_engine.offline_calls import FinishedAnswer, GenerateCall

CALL = GenerateCall((), 0.0, frozenset())


@pytest.fixture
def play(monkeypatch):
    """Sets what the fake engine finishes, step by step."""
    monkeypatch.setattr(offline_process, "_start", lambda settings: None)
    return lambda steps: monkeypatch.setattr(offline_process, "_results", lambda *_: steps)


def test_each_step_is_a_message_of_its_own(play):
    results = [[FinishedAnswer(1, (5, 6))], [FinishedAnswer(0, (7,)), FinishedAnswer(2, (8,))]]
    play(iter(results))
    ours, theirs = Pipe()
    process = Thread(target=offline_process.run, args=(theirs, None))
    process.start()
    assert ours.recv() is None
    ours.send(CALL)
    assert [ours.recv(), ours.recv()] == results
    ours.close()
    process.join(timeout=10)
    assert not process.is_alive()


def test_a_caller_that_leaves_in_the_middle_ends_the_process_in_silence(play):
    ours, theirs = Pipe()

    def steps():
        yield [FinishedAnswer(0, (5,))]
        ours.close()
        yield [FinishedAnswer(1, (6,))]
        pytest.fail("the engine went on for nobody")

    play(steps())
    ours.send(CALL)
    offline_process.run(theirs, None)
    theirs.close()
