"""The report for machines: one JSON object, described in loadtest/REPORT.md."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from dpace_loadtest.acceptance_summary import CONFIDENCE, JoinCounts
from dpace_loadtest.join import JoinedRow
from dpace_loadtest.knee import MIN_ANSWERED_SHARE
from dpace_loadtest.run_facts import ArmFacts
from dpace_loadtest.run_result import RunResult
from dpace_loadtest.service import ServiceRecords, server_name
from dpace_loadtest.summary import Group, LoadSummary

SCHEMA_VERSION = 1


def report_json(result: RunResult) -> dict[str, Any]:
    """The whole report but for the rows; what is unknown is null, never 0."""
    facts = result.facts
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": asdict(result.verdict) | {"exit_code": result.verdict.exit_code},
        "scenario": {
            "name": facts.name,
            "mode": facts.mode,
            "load_unit": facts.load_unit,
            "loads": list(facts.loads),
            "seed": facts.seed,
            "prompt_hash": facts.prompt_hash,
            "started_at": facts.started_at,
            "versions": dict(facts.versions),
            "slo": asdict(facts.slo),
            "max_failed_share": facts.max_failed_share,
            "saturation_seconds": facts.saturation_seconds,
            "confidence": CONFIDENCE,
        },
        "baseline": result.baseline,
        "arms": [_arm(result, arm) for arm in facts.arms],
        "loads": [_load(one, result) for one in result.summaries],
        "acceptance": [
            {
                "arm": one.arm,
                "workload": one.workload,
                "drafters": [asdict(drafter) for drafter in one.acceptance],
                "joined": _join_counts(one.joined),
            }
            for one in result.acceptances
        ],
        "comparisons": [asdict(one) for one in result.comparisons],
        "knees": {
            "min_answered_share": MIN_ANSWERED_SHARE,
            "arms": {arm: asdict(knee) for arm, knee in result.knees.items()},
        },
        "timelines": [asdict(one) for one in result.timelines],
    }


def joined_row_dicts(result: RunResult) -> Iterator[dict[str, Any]]:
    """Every request with its records, in the order of the rows."""
    for one in result.joined:
        yield _joined(one)


def _joined(one: JoinedRow) -> dict[str, Any]:
    row = one.row
    return {
        **asdict(row),
        "send_lag_seconds": row.send_lag_seconds,
        "ttft_from_schedule_seconds": row.ttft_from_schedule_seconds,
        "ttft_from_send_seconds": row.ttft_from_send_seconds,
        "tpot_seconds": row.tpot_seconds,
        "end_to_end_seconds": row.end_to_end_seconds,
        "acceptance": None if one.served is None else one.served.to_dict(),
        "shadows": [shadow.to_dict() for shadow in one.shadows],
        "unjoined": one.unjoined,
    }


def _arm(result: RunResult, arm: ArmFacts) -> dict[str, Any]:
    service = result.service_of(arm)
    return {
        "name": arm.name,
        "url": server_name(arm.url),
        "asked_drafter": arm.drafter,
        "service": None if service is None else _service(service),
    }


def _service(service: ServiceRecords) -> dict[str, Any]:
    facts = service.facts
    return {
        "standing": service.standing,
        "drafters": []
        if facts is None
        else [
            {"name": name, "revision": revision, "block_size": block_size}
            for name, revision, block_size in facts.drafters
        ],
        "method": None if facts is None else facts.method,
        "num_draft_tokens": None if facts is None else facts.num_draft_tokens,
        "workloads": None if facts is None else list(facts.workloads),
        "num_records": len(service.records),
        "num_missed": service.num_missed,
        "num_restarts": service.num_restarts,
        "num_failed_reads": service.num_failed_reads,
        "problem": service.problem,
    }


def _load(one: LoadSummary, result: RunResult) -> dict[str, Any]:
    offered = one.offered
    return {
        "arm": one.arm,
        "load": one.load,
        "offered": None
        if offered is None
        else asdict(offered) | {"answered_share": offered.answered_share},
        "steadiness": asdict(one.steadiness),
        "send_lag": asdict(one.send_lag),
        "is_generator_saturated": one.is_saturated,
        "generator_cpu": result.facts.generator_cpu.get((one.arm, one.load)),
        "total": _group(one.total),
        "workloads": {
            group.workload: _group(group) for group in one.workloads if group.workload is not None
        },
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "num_requests": group.num_requests,
        "outcomes": dict(group.outcomes),
        "latency_seconds": asdict(group.latency),
        "window_seconds": group.window_seconds,
        "requests_per_second": group.requests_per_second,
        "tokens_per_second": group.tokens_per_second,
        "goodput": None if group.goodput is None else asdict(group.goodput),
        "acceptance": [asdict(one) for one in group.acceptance],
        "joined": _join_counts(group.joined),
    }


def _join_counts(counts: JoinCounts) -> dict[str, Any]:
    return {
        "num_requests": counts.num_requests,
        "num_counted": counts.num_counted,
        "excluded": dict(counts.excluded),
        "unjoined": dict(counts.unjoined),
        "shadows_excluded": dict(counts.shadows_excluded),
    }
