"""An engine whose step times and acceptance are known."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dpace_serve.serve_config import ServeConfig
from dpace_serve.tuning.config import TuneConfig
from dpace_serve.vllm_engine.tuning_calls import TrafficCall, TrafficRun, TunedAnswer

ACCEPTED = {0: 0, 3: 15, 7: 20}
"""Accepted draft tokens in ten steps, by draft length."""


def step_seconds(batch_size: int, num_draft_tokens: int) -> float:
    """A fixed part, and one for each token that a step verifies."""
    return 0.010 + 0.001 * batch_size * (num_draft_tokens + 1)


@dataclass
class ScriptedEngine:
    """Answers each prompt in ten steps; keeps what it was asked."""

    num_full_steps: int = 10
    calls: list[TrafficCall] = field(default_factory=list)

    def answer(self, call: TrafficCall) -> TrafficRun:
        self.calls.append(call)
        length = next((k for _, last, k in call.ranges if call.batch_size <= last), None)
        length = call.ranges[-1][2] if length is None else length
        answers = tuple(TunedAnswer(place, ACCEPTED[length], 10) for place in call.places)
        num_tokens = sum(answer.accepted + answer.steps for answer in answers)
        seconds = step_seconds(call.batch_size, length)
        num_steps = 10 * len(call.places) / call.batch_size
        return TrafficRun(
            answers, num_tokens, num_steps * seconds, (seconds,) * self.num_full_steps
        )


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def config() -> TuneConfig:
    return TuneConfig(
        serve=ServeConfig(target="t", drafter=Path("d")),
        prompts=Path("p"),
        draft_lengths=(0, 3, 7),
        batch_sizes=(1, 4, 16),
        rounds=3,
        prompts_per_round=4,
        prompts_per_slot=2,
    )
