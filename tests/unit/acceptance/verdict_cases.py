"""Requests with known tau, and verdicts on them with the usual terms."""

import random

from dpace_serve.acceptance.judgement import judge_paired, judge_split
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.acceptance.paired_moments import PairedMoments, PairSums
from dpace_serve.acceptance.sample_ratio import SampleRatio
from dpace_serve.acceptance.split_moments import ArmMoments, SplitMoments
from dpace_serve.acceptance.verdict import StepTime
from dpace_serve.acceptance.verdict_rule import VerdictRule

RULE = VerdictRule(
    minimum_lift=0.02,
    maximum_loss=0.02,
    confidence=0.95,
    planned_requests=1000,
    minimum_requests=100,
)
SAME_SHAPE = StepTime(1.0, "same_shape")
HALVES = (0.5, 0.5)


def pairs_of(count, lift, *, noise=1, steps=1000, positions=()):
    """Half of the requests accept `noise` less than champion's 1000 + lift, the other half more."""
    a = [(1000, steps)] * count
    b = [(1000 + lift + (noise if i % 2 else -noise), steps) for i in range(count)]
    return PairedMoments(PairSums.from_pairs(a, b), positions)


def paired(count=200, lift=100, *, noise=10, **changes):
    case = {
        "champion": "a",
        "challenger": "b",
        "rule": RULE,
        "step_time": SAME_SHAPE,
        "weights": None,
        "num_lost": 0,
    }
    return judge_paired({"json": pairs_of(count, lift, noise=noise)}, **(case | changes))


def arm(pairs, positions=()):
    return ArmMoments(AcceptanceMoments.from_pairs(pairs), positions)


def split(a, b, *, workloads=None, **changes):
    case = {
        "champion": "a",
        "challenger": "b",
        "rule": RULE,
        "step_time": SAME_SHAPE,
        "weights": None,
        "sample_ratio": SampleRatio((len(a), len(b)), HALVES),
    }
    given = workloads or {"json": SplitMoments(arm(a), arm(b))}
    return judge_split(given, **(case | changes))


def spread_requests(count, seed, shift=0.0):
    """(accepted, steps) of requests with tau about 2 + shift."""
    draw = random.Random(seed)
    return [(round(100 * max(0, draw.gauss(1 + shift, 0.3))), 100) for _ in range(count)]
