"""On which kinds of requests does speculation work?"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from board import REPLICA, WORKLOAD, WORKLOAD_REPLICA, board
from panels import RATE, SHARE, TAU, Look, Query, bars, lines
from promql import in_range, per_second

WHO = "{{workload}} {{drafter}} {{revision}} {{arm}}"
LABELS = ("workload", "drafter", "revision", "arm")


def build() -> Dashboard:
    """Acceptance by workload."""
    return board(
        "workloads",
        "Workloads",
        "On which kinds of requests does speculation work?",
        [*_tau(), *_mix()],
    )


def _tau() -> list:
    tau, error = f"dpace:tau:rate1h{{{WORKLOAD}}}", f"dpace:tau_se:rate1h{{{WORKLOAD}}}"
    accepted, steps = (
        in_range(f"dpace_acceptance_{kind}_total", WORKLOAD_REPLICA, *LABELS)
        for kind in ("accepted", "steps")
    )
    first, drafted = (
        per_second(f"dpace_{kind}_tokens_total", f'{WORKLOAD_REPLICA}, position="1"', *LABELS)
        for kind in ("accepted", "drafted")
    )
    return [
        bars(
            "Tau by workload, time range",
            "Tokens per verification step. Code and JSON are easy, open prose is hard: compare a "
            "workload with itself, not with others.",
            Query(f"1 + {accepted} / ({steps} > 0)", WHO),
            TAU,
            height=12,
        ),
        lines(
            "Tau of the last hour, with its 95 % interval",
            "Request as unit, one look. Wide where requests are few. All replicas together.",
            [
                Query(tau, WHO),
                Query(f"{tau} - 1.96 * {error}", f"{WHO} low"),
                Query(f"{tau} + 1.96 * {error}", f"{WHO} high"),
            ],
            TAU,
        ),
        lines(
            "First position accepted",
            "Share of the steps whose first draft token was accepted: how well the drafter knows "
            "this kind of text at all.",
            [Query(f"{first} / ({drafted} > 0)", WHO)],
            SHARE,
        ),
    ]


def _mix() -> list:
    served = f'{WORKLOAD_REPLICA}, arm!="shadow"'
    requests = per_second("dpace_acceptance_requests_total", served, "workload")
    steps = per_second("dpace_acceptance_steps_total", served, "workload")
    return [
        lines(
            "Requests by workload",
            "Served requests per second. A tau of all workloads moves with this mix though no "
            "workload's own tau did.",
            [Query(requests, "{{workload}}")],
            RATE,
        ),
        lines(
            "Tokens by workload",
            "Tokens per second that verification steps put into answers.",
            [
                Query(
                    per_second("dpace_emitted_tokens_total", WORKLOAD_REPLICA, "workload"),
                    "{{workload}}",
                )
            ],
            RATE,
        ),
        lines(
            "Steps per request",
            "Verification steps of a served request, mean: long answers weigh more in tau.",
            [Query(f"{steps} / ({requests} > 0)", "{{workload}}")],
            Look(decimals=1, low=0),
        ),
        lines(
            "Requests with an unknown workload tag",
            "Per second; counted as other. Add the tag to `workloads` in the configuration, or "
            "correct the client.",
            [
                Query(
                    per_second("dpace_workload_unknown_total", REPLICA, "instance"),
                    "{{instance}}",
                )
            ],
            RATE,
        ),
    ]
