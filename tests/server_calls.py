"""Several clients that call a running server at once, each in a process of its own."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import requests

from tests.api_calls import Caller, Calls, call_all
from tests.hostile_requests import PLAIN, hostile

KEYS = {
    "api_key": "a-key-for-tests",
    "admin_key": "an-admin-key-for-tests",
    "metrics_key": "a-metrics-key-for-tests",
}
MODEL = "tiny"
NUM_CLIENTS, NUM_ROUNDS = 4, 5
ANSWER_SECONDS = 120
FOLDERS = ["a", "b", "a", "b", "../a", "/etc", "a/../b", "", "a\x00", "x" * 5000, "\ud800"]
NAMES = ["a", "b", "dflash", "dpace"]
WEIGHTS = {
    "POST /v1/completions": 12,
    "POST /v1/chat/completions": 12,
    "PUT /dpace/drafters/champion": 2,
    "PUT /dpace/drafters/challenger": 2,
    "POST /dpace/promote": 3,
    "DELETE /dpace/drafters/challenger": 3,
}


def call_server(url: str, document: dict[str, Any], number: int, *, start: int) -> Calls:
    """Calls of all operations, valid, invalid and hostile, with right and wrong keys.

    Args:
        url: The server.
        document: Its OpenAPI document.
        number: Calls of all clients together.
        start: Where the first client's drawing starts.
    """
    calls = Calls()
    # Not threads: Hypothesis generates in one at a time.
    with ProcessPoolExecutor(NUM_CLIENTS, mp_context=get_context("spawn")) as clients:
        begun = [
            clients.submit(_call, url, document, number // NUM_CLIENTS, start + client)
            for client in range(NUM_CLIENTS)
        ]
        for client in begun:
            calls.add(client.result())
    return calls


def _call(url: str, document: dict[str, Any], number: int, start: int) -> Calls:
    pages = [path for path in document["paths"] if path.startswith("/dpace/static/")]
    weights = WEIGHTS | {f"{method} {path}": 0.1 for path in pages for method in ("GET", "HEAD")}
    with requests.Session() as session:
        session.trust_env = False

        def send(request: dict[str, Any]) -> requests.Response:
            sent = {**request, "url": url + request["url"]}
            return session.request(**sent, timeout=ANSWER_SECONDS, allow_redirects=False)

        caller = Caller(send, KEYS, rewrite=_rewrite)
        return call_all(caller, document, number, weights=weights, start=start, rounds=NUM_ROUNDS)


def _rewrite(case, draw):
    """Something an engine or a fleet takes up, where a generated body would rarely get so far."""
    body = case.body if isinstance(case.body, dict) else {}
    chance = draw.random()
    if case.path in PLAIN:
        if chance < 0.4:
            return hostile(case.path, MODEL, draw)
        if chance < 0.8:
            kept = {name: body[name] for name in sorted(body) if draw.random() < 0.4}
            return {**kept, "model": MODEL, **PLAIN[case.path]}
        if chance < 0.9:
            return {**body, "model": MODEL}
    elif case.method == "PUT" and chance < 0.5:
        return {"folder": draw.choice(FOLDERS)}
    elif case.path == "/dpace/promote" and chance < 0.5:
        return draw.choice([{}, {"name": draw.choice(NAMES)}])
    return None
