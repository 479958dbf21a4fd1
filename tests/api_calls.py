"""Calls that schemathesis makes of an OpenAPI document, valid and invalid, each of them counted."""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
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


@dataclass
class Calls:
    """What was called and found.

    Attributes:
        count: Calls by operation and class of their status.
        findings: What a check says of a call, with how to repeat it; the first one of each kind.
    """

    count: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: dict[tuple[str, str, int], str] = field(default_factory=dict)

    def table(self) -> str:
        """Calls as text, one operation a line."""
        classes = sorted({kind for _, kind in self.count})
        lines = [f"{'':40} {' '.join(f'{kind:>6}' for kind in classes)}"]
        for name in sorted({name for name, _ in self.count}):
            numbers = " ".join(f"{self.count[name, kind]:6}" for kind in classes)
            lines.append(f"{name:40} {numbers}")
        return "\n".join(lines)


def call_all(  # noqa: PLR0913
    document: Mapping[str, Any],
    number: int,
    send: Callable[[Any, Mapping[str, str]], Any],
    *,
    keys: Sequence[str | None],
    weights: Mapping[str, float],
    start: int = 0,
    change: Callable[[Any, random.Random], None] = lambda _case, _draw: None,
    may_be: Callable[[str, int], bool] = lambda _label, _status: False,
) -> Calls:
    """Call every operation of a document, with valid and with invalid data.

    Args:
        document: OpenAPI.
        number: Calls in total; a weight says how many more of them an operation has than others.
        send: Sends a case with these headers.
        keys: One is drawn for each call; the first in four of five.
        weights: By operation; others have 1.
        start: Where the drawing of cases starts.
        change: May change a case before it is sent.
        may_be: Statuses from 500 that are no finding, by operation.
    """
    calls = Calls()
    operations = [one.ok() for one in schemathesis.openapi.from_dict(dict(document)).get_all_operations()]
    total = sum(weights.get(one.label, 1) for one in operations)
    draw = random.Random(start)
    for operation in operations:
        wanted = max(2, round(number * weights.get(operation.label, 1) / total))
        _call(operation, wanted, send, keys, draw, calls, change, may_be)
    while (missing := number - calls.count.total()) > 0:  # some have few different cases
        operation = max(operations, key=lambda one: weights.get(one.label, 1))
        _call(operation, missing, send, keys, draw, calls, change, may_be)
    return calls


def _call(operation, wanted, send, keys, draw, calls, change, may_be) -> None:
    done = 0
    for _ in range(MAX_ROUNDS):
        for mode in MODES:
            share = (wanted - done) if mode is MODES[-1] else (wanted - done + 1) // 2
            if share > 0:
                done += _call_in_mode(operation, mode, share, send, keys, draw, calls, change, may_be)
        if done >= wanted:
            return


def _call_in_mode(operation, mode, number, send, keys, draw, calls, change, may_be) -> int:
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
    def call(case) -> None:
        nonlocal done
        if done >= number:
            return
        done += 1
        right, *others = keys
        key = right if draw.random() < 0.8 else draw.choice(others)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        change(case, draw)
        response = send(case, headers)
        status = response.status_code
        calls.count[operation.label, f"{status // 100}xx"] += 1
        for check in CHECKS:
            if check is not_a_server_error and may_be(operation.label, status):
                continue
            try:
                case.validate_response(response, checks=[check])
            except (FailureGroup, Failure) as failure:
                text = f"{check.__name__}: {failure}\nsent: {_shown(case)}"
                calls.findings.setdefault((operation.label, check.__name__, status), text)

    with suppress(Unsatisfiable):  # nothing can be wrong with what has no parameters
        call()
    return done


def _shown(case) -> str:
    try:
        return json.dumps({"query": case.query, "headers": dict(case.headers or {}), "body": case.body})
    except TypeError:
        return repr(case.body)
