"""What panels show beside the recording rules, from the records and what clients were answered."""

import collections
import itertools
import math
from collections.abc import Callable

from dpace_serve.acceptance.arm import ARMS as ALL_ARMS
from dpace_serve.acceptance.exclusion import EXCLUSION_REASONS
from dpace_serve.metrics.labels import DRAFTER_OPERATIONS, OPERATION_RESULTS, SHADOW_OUTCOMES
from tests.engine.live.watched import numbers
from tests.engine.live.watched.numbers import WHERE, WHO, Series
from tests.engine.live.watched.watched_server import NUM_DRAFT_TOKENS

ALERT_LABELS = ("alertname", "drafter", "arm", "workload", "operation", "result")


def used(watched, what: str) -> float:
    return sum(answer["usage"][what] for answer in watched.answers)


def prompt_tokens(watched) -> float:
    """The engine reads a prompt once for each of its answers."""
    return sum(
        answer["usage"]["prompt_tokens"] * len(answer["choices"]) for answer in watched.answers
    )


def num_answers(watched) -> float:
    return sum(len(answer["choices"]) for answer in watched.answers)


def alerts(watched) -> Series:
    """What waits and what fires; that is the one operation which was refused."""
    states = {
        (alert["state"], *(alert["labels"].get(label, "") for label in ALERT_LABELS)): 1.0
        for rule in watched.rules
        for alert in rule.get("alerts", [])
    }
    firing = [labels for labels in states if labels[0] == "firing"]
    assert firing == [("firing", "SwapFailed", "", "", "", "challenge", "refused")]
    return states


def slots(watched) -> Series:
    """Roles of the loaded drafters; a challenger may serve whoever chooses it, and shadows."""
    arms = {"champion": ["champion"], "challenger": ["challenger", "shadow"]}
    return {
        (slot["name"], slot["revision"], arm, "dflash", "8"): 1
        for slot in watched.slots
        for arm in arms.get(slot["role"], [])
    }


def excluded(watched) -> Series:
    found = collections.Counter((record["arm"], record["excluded"]) for record in watched.records)
    return {key: found[key] for key in itertools.product(ALL_ARMS, EXCLUSION_REASONS)}


def operations(watched) -> Series:
    """One folder was absent."""
    found = dict.fromkeys(itertools.product(DRAFTER_OPERATIONS, OPERATION_RESULTS), 0)
    return found | {("challenge", "refused"): 1}


def outcomes(watched) -> Series:
    found = collections.Counter()
    for record in watched.records:
        if record["arm"] == "shadow":
            is_open = record["unsettled_drafted"] > 0
            outcome = "answer_ended" if is_open else "settled"
            found["excluded" if record["excluded"] else outcome] += 1
    return {("dflash", outcome): found[outcome] for outcome in SHADOW_OUTCOMES}


def taus(share: float) -> Callable[..., Series]:
    """A quantile of tau of single requests, in buckets of width 1."""

    def of(watched) -> Series:
        found = {}
        for drafter, arm in numbers.ARMS:
            taus = [
                1 + sum(record["per_step_accepted"]) / record["steps"]
                for record in watched.counted(drafter=drafter, arm=arm)
            ]
            bounds = [*range(1, NUM_DRAFT_TOKENS + 2), math.inf]
            counts = {bound: sum(tau <= bound for tau in taus) for bound in bounds}
            found[drafter, arm] = numbers.quantile(share, counts)
        return found

    return of


def latency(share: float, metric: str) -> Callable[..., float]:
    """A quantile of one of the engine's histograms."""

    def of(watched) -> float:
        counts = collections.Counter()
        for sample in watched.samples[f"{metric}_bucket"]:
            counts[float(sample.labels["le"])] += sample.value
        return numbers.quantile(share, counts)

    return of


def unsettled(watched) -> Series:
    unsettled = numbers.sums(watched, WHO, lambda r: r["unsettled_drafted"])
    settled = numbers.sums(watched, WHO, lambda r: sum(r["per_step_drafted"]))
    return {key: value / (value + settled[key]) for key, value in unsettled.items()}


def difference(watched) -> Series:
    rates = numbers.acceptance(watched, WHO)
    return {
        key: rate - rates["dpace", "champion", key[2]]
        for key, rate in rates.items()
        if key[1] != "champion"
    }


def decision(watched) -> Series:
    (row,) = watched.verdict["comparisons"]
    return {(row["challenger"]["name"], row["challenger"]["revision"], row["decision"]): 1}


def effect(watched) -> Series:
    (row,) = watched.verdict["comparisons"]
    effect = row["effect"]
    return {("estimate",): effect["lift"], ("low",): effect["low"], ("high",): effect["high"]}


def by_workload(name: Callable[..., Series]) -> Callable[..., Series]:
    """Sums over the arms that serve."""

    def of(watched) -> Series:
        found = dict.fromkeys(((workload,) for workload in numbers.workloads(watched)), 0)
        for (_, arm, workload), value in name(watched).items():
            if arm != "shadow":
                found[workload,] += value
        return found

    return of


def requests(watched) -> Series:
    return numbers.moments(watched, WHERE, "requests")


def steps(watched) -> Series:
    return numbers.moments(watched, WHERE, "steps")


def emitted(watched) -> Series:
    """Tokens in answers; a shadow puts none there."""
    return numbers.sums(watched, WHERE, lambda r: (r["arm"] != "shadow") * r["emitted_tokens"])


def mean_drafts(watched) -> float:
    served = [record for record in watched.counted() if record["arm"] != "shadow"]
    drafted = sum(sum(record["per_step_drafted"]) for record in served)
    return drafted / sum(record["steps"] for record in served)


def steps_at_1(what: str) -> Callable[..., Series]:
    return lambda w: numbers.sums(w, WHERE, lambda r: numbers.reach(r, what, 1))
