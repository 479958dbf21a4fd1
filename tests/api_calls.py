"""Calls that schemathesis makes of an OpenAPI document, valid and invalid, each of them counted."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
MAX_ROUNDS = 50
RIGHT_KEY_SHARE = 0.8


@dataclass
class Calls:
    """What was called and found.

    Attributes:
        count: Calls by operation and status.
        findings: What a check says of an answer, and what was sent; the first of each kind.
    """

    count: Counter[tuple[str, int]] = field(default_factory=Counter)
    findings: dict[tuple[str, str, int], str] = field(default_factory=dict)

    def statuses(self, label: str) -> set[int]:
        """The statuses that an operation answered with."""
        return {status for name, status in self.count if name == label}

    def add(self, other: "Calls") -> None:
        """Take in what another client has called and found."""
        self.count += other.count
        self.findings = other.findings | self.findings

    def report(self) -> str:
        """Calls by operation and class of status, and the findings."""
        lines = []
        for label in sorted({name for name, _ in self.count}):
            classes: Counter[str] = Counter()
            for (name, status), number in self.count.items():
                if name == label:
                    classes[f"{status // 100}xx"] += number
            lines.append(f"{label}: {dict(sorted(classes.items()))}")
        return "\n".join([*lines, *(f"{key}: {text}" for key, text in self.findings.items())])


@dataclass(frozen=True)
class Caller:
    """How calls are made.

    Attributes:
        send: Sends what `requests.request` would; its answer.
        keys: The right key of each security scheme.
        others: Wrong keys, and none.
        rewrite: Another body for a case, or None.
        expected_errors: Statuses from 500 that are no finding.
    """

    send: Callable[[dict[str, Any]], Any]
    keys: Mapping[str, str]
    others: Sequence[str | None] = ("wrong", "", None)
    rewrite: Callable[[Any, Random], Any] = lambda _case, _draw: None
    expected_errors: frozenset[int] = frozenset()


def call_all(
    caller: Caller,
    document: Mapping[str, Any],
    number: int,
    *,
    weights: Mapping[str, float],
    start: int = 0,
    rounds: int = 1,
) -> Calls:
    """Call every operation of a document, with valid and with invalid data.

    Args:
        caller: How.
        document: OpenAPI.
        number: Calls in total.
        weights: How many more of them an operation has than others, which have 1.
        start: Where the drawing starts.
        rounds: How often all operations come in turn, so that one meets what another left.
    """
    schema = schemathesis.openapi.from_dict(dict(document))
    operations = [one.ok() for one in schema.get_all_operations()]
    total = sum(weights.get(one.label, 1) for one in operations)
    calls, draw = Calls(), Random(start)
    for _ in range(rounds):
        for operation in operations:
            share = number / rounds * weights.get(operation.label, 1) / total
            # What is less than one call is one now and then.
            _call(caller, operation, int(share + draw.random()), calls, draw)
    for operation in operations:
        if not calls.statuses(operation.label):
            _call(caller, operation, 1, calls, draw)
    heaviest = max(operations, key=lambda one: weights.get(one.label, 1))
    while (missing := number - calls.count.total()) > 0:  # some have few different cases
        _call(caller, heaviest, missing, calls, draw)
    return calls


def _call(caller: Caller, operation: Any, wanted: int, calls: Calls, draw: Random) -> None:
    done = 0
    for _ in range(MAX_ROUNDS):
        for mode in MODES:
            left = wanted - done
            share = (left + 1) // 2 if mode is MODES[0] else left
            if share > 0:
                done += _call_in_mode(caller, operation, mode, share, calls, draw)
        if done >= wanted:
            return


def _call_in_mode(
    caller: Caller, operation: Any, mode: GenerationMode, number: int, calls: Calls, draw: Random
) -> int:
    done = 0

    @seed(draw.getrandbits(64))
    @settings(
        max_examples=number,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        nonlocal done
        if done < number:
            done += 1
            _call_once(caller, case, calls, draw)

    with suppress(Unsatisfiable):  # nothing can be wrong with what has no parameters
        call()
    return done


def _call_once(caller: Caller, case: Any, calls: Calls, draw: Random) -> None:
    request = case.as_transport_kwargs(base_url="", headers=_authorization(caller, case, draw))
    request.pop("cookies", None)
    body = caller.rewrite(case, draw)
    if body is not None:
        request.pop("json", None)
        request["data"] = json.dumps(body).encode()
        request["headers"]["Content-Type"] = "application/json"
    response = caller.send(request)
    label, status = case.operation.label, response.status_code
    calls.count[label, status] += 1
    for check in CHECKS:
        if check is not_a_server_error and status in caller.expected_errors:
            continue
        try:
            case.validate_response(response, checks=[check])
        except (FailureGroup, Failure) as failure:
            sent = {name: request.get(name) for name in ("params", "json", "data")}
            reasons = getattr(failure, "exceptions", [failure])
            text = f"{'; '.join(map(str, reasons))} - sent: {sent} - got: {response.text[:500]}"
            calls.findings.setdefault((label, check.__name__, status), text)


def _authorization(caller: Caller, case: Any, draw: Random) -> dict[str, str]:
    schemes = [name for one in case.operation.definition.raw.get("security", []) for name in one]
    key = caller.keys[draw.choice(schemes)] if schemes else draw.choice(list(caller.keys.values()))
    if draw.random() >= RIGHT_KEY_SHARE:
        key = draw.choice([*caller.others, *caller.keys.values()])
    return {} if key is None else {"Authorization": f"Bearer {key}"}
