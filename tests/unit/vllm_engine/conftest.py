"""A recorder with everything around it but the engine."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.verdict import StepTime
from dpace_serve.acceptance.verdict_rule import VerdictRule
from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint
from dpace_serve.live.comparison import Terms
from dpace_serve.live.comparisons import Comparisons
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.hosted import Candidate
from dpace_serve.live.traffic import Traffic
from dpace_serve.metrics.exporter import AcceptanceMetrics
from dpace_serve.vllm_engine.arrivals import Arrivals
from dpace_serve.vllm_engine.recorder import AcceptanceRecorder


def candidate(name):
    folder = bundle.drafter_folder("dpace")
    return Candidate(name, f"{name}-revision", folder, checkpoint.read_config(folder))


class Bench:
    """A recorder, its fleet and metrics, the records it kept, and the drafts of its shadows."""

    def __init__(self, *, num_challengers, mode="shadow", allows_choice=False):
        challengers = [candidate(f"other{number}") for number in range(num_challengers)]
        self.registry = CollectorRegistry()
        self.metrics = AcceptanceMetrics(
            self.registry, workloads=["json"], num_draft_tokens=7, method="dflash"
        )
        for drafter in (candidate("dpace"), *challengers):
            arms = ["champion", "challenger", "shadow"]
            self.metrics.add_drafter(drafter.name, drafter.revision, 8, arms)
        self.fleet = Fleet(
            candidate("dpace"),
            challengers,
            num_spare_slots=0,
            traffic=Traffic(mode, 0.4, 1.0, draw_salt="a salt"),
        )
        terms = Terms(
            VerdictRule(0.02, 0.02, 0.95, 100, 50),
            weights=None,
            num_draft_tokens=7,
            step_time=lambda *_: StepTime(1.0, "same_shape"),
            num_steps=dict,
            clock=lambda: 0.0,
        )
        self.comparisons = Comparisons(self.fleet, terms)
        self.drafts = {}
        self.kept = []
        arrivals = Arrivals(self.fleet, workloads=("json",), allows_choice=allows_choice)
        self.recorder = AcceptanceRecorder(
            arrivals,
            self.metrics,
            self.comparisons,
            method="dflash",
            take=self.take,
            keep=(self.kept.append,),
        )

    async def take(self, keys):
        await asyncio.sleep(0)
        return {key: self.drafts[key] for key in keys if key in self.drafts}

    def num_running(self):
        return sum(row["running"] for row in self.fleet.drafters()["drafters"])


@pytest.fixture
def make_bench():
    return Bench
