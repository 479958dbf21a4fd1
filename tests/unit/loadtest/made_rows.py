"""Rows, records and facts by hand: every test names only what it is about."""

from dpace_loadtest.join import JoinedRow
from dpace_loadtest.rows import RequestRow
from dpace_loadtest.run_facts import ArmFacts, RunFacts, SloLimits
from dpace_loadtest.service import ServiceFacts, ServiceRecords
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.request_id import hashed_id


def row(scheduled=0.0, *, ttft=0.1, tokens=11, seconds=1.1, lag=0.0, outcome="ok", **others):
    """A request sent `lag` late, with text from `ttft` after that until its end."""
    is_ok = outcome == "ok"
    sent = scheduled + lag
    values = {
        "response_id": f"chatcmpl-{scheduled}",
        "arm": "a",
        "load": 1.0,
        "round": 0,
        "phase": "measured",
        "workload": "code",
        "prompt_key": f"p{scheduled}",
        "session": round(scheduled * 1000),
        "turn": 0,
        "scheduled_seconds": scheduled,
        "sent_seconds": sent,
        "first_token_seconds": sent + ttft if is_ok else None,
        "last_token_seconds": sent + seconds if is_ok else None,
        "ended_seconds": sent + seconds,
        "chunk_gaps_seconds": (seconds - ttft,) if is_ok else (),
        "outcome": outcome,
        "status": 200 if is_ok else None,
        "error": None if is_ok else "it failed",
        "prompt_tokens": 5 if is_ok else None,
        "completion_tokens": tokens if is_ok else None,
    }
    return RequestRow(**(values | others))


def record(response_id, accepted=(2, 0), drafted=None, *, hashes=True, excluded=None, **others):
    """What a server says of a request; its ids are hashes, as a reader sees them."""
    drafted = (3,) * len(accepted) if drafted is None else drafted
    arm = others.get("arm", "champion")
    is_counted = excluded is None
    emitted = sum(accepted) + len(accepted) if is_counted and arm != "shadow" else 0
    values = {
        "request_id": hashed_id(response_id) if hashes else response_id,
        "drafter": "dpace",
        "revision": "1",
        "arm": arm,
        "workload": "code",
        "per_step_accepted": tuple(accepted) if is_counted else (),
        "per_step_drafted": tuple(drafted) if is_counted else (),
        "emitted_tokens": emitted,
        "unsettled_drafted": 0,
        "unsettled_accepted": 0,
        "finish_reason": "length",
        "excluded": excluded,
    }
    return RequestAcceptance(**(values | others))


def joined(one_row, accepted=None, **others):
    """A request, with a record where accepted tokens are given."""
    served = None if accepted is None else record(one_row.response_id, accepted, **others)
    return JoinedRow(one_row, served, (), "not_found" if served is None else None)


def service(url="http://a", records=(), **others):
    values = {
        "url": url,
        "standing": "followed",
        "facts": ServiceFacts((("dpace", "1", 4),), "dflash", 3, ("code",)),
        "records": tuple(records),
        "num_missed": 0,
        "num_restarts": 0,
        "num_failed_reads": 0,
        "problem": None,
    }
    return ServiceRecords(**(values | others))


def slo(ttft=None, tpot=None, end_to_end=None, share=None):
    return SloLimits(ttft, tpot, end_to_end, share)


def facts(*arms, **others):
    names = arms or ("a",)
    values = {
        "name": "made up",
        "mode": "open",
        "arms": tuple(ArmFacts(name, f"http://{name}", None) for name in names),
        "baseline": None,
        "loads": (1.0,),
        "slo": slo(),
        "max_failed_share": 0.01,
        "saturation_seconds": 0.05,
        "seed": 7,
        "prompt_hash": "0123abcd",
        "versions": {"dpace_serve": "0.1.0"},
        "started_at": "2026-11-29T20:00:00+00:00",
        "generator_cpu": {("b", 1.0): 0.254},
    }
    return RunFacts(**(values | others))
