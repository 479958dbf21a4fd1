"""Should a challenger become the champion?"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from board import DRAFTER, DRAFTER_REPLICA, REPLICA, TARGET, WORKLOAD, board
from panels import LIFT, RATE, SHARE, Look, Query, bars, lines, note, rows
from promql import per_second

WHO = "{{drafter}} {{revision}} {{arm}}"

PAIRED = """\
**The verdict is the service's own** (`dpace_verdict_*`, `GET /dpace/verdict`, `dpace verdict`):
exact sums, intervals that hold however often one looks, and tokens per second where step times
are known. The lifts of tau on this board come from Prometheus' counters: intervals for one look,
and a challenger in the **shadow** is compared as if its requests were not the champion's. They
are, so the true interval is narrower; the cross moments of pairs are no counters. Shadow
acceptance is *at the champion's anchors*: confirm a promotion with a split.
"""


def build() -> Dashboard:
    """Champion against challenger."""
    return board(
        "comparison",
        "Champion and challenger",
        "Should a challenger become the champion?",
        [note("How to read this board", PAIRED), *_verdict(), *_lift(), *_fairness()],
    )


def _verdict() -> list:
    return [
        rows(
            "Verdict",
            "The service's decision by challenger: promote, hold or rollback. Each replica judges "
            "its own requests. The reason in words is at GET /dpace/verdict. Empty without a "
            "challenger.",
            Query(
                "max by (job, model, instance, challenger, revision, decision) "
                f"(dpace_verdict_decision{{{REPLICA}}} == 1)"
            ),
        ),
        lines(
            "Lift of the verdict",
            "Estimate and bounds of the service's confidence sequence: it holds however often one "
            "looks. Above the margin throughout: promote. Empty while there is too little data.",
            [
                Query(
                    # Bounds of two replicas have no maximum that is a bound of anything.
                    "max by (job, model, instance, challenger, revision, bound) "
                    f"(dpace_verdict_lift{{{REPLICA}}})",
                    "{{challenger}} {{revision}} {{instance}} {{bound}}",
                )
            ],
            LIFT,
        ),
    ]


def _lift() -> list:
    overall = f"dpace:tau_overall_log_lift:rate1h{{{DRAFTER}}}"
    overall_error = f"dpace:tau_overall_log_lift_se:rate1h{{{DRAFTER}}}"
    lift, error = (
        f"dpace:tau_log_lift:rate1h{{{WORKLOAD}}}",
        f"dpace:tau_log_lift_se:rate1h{{{WORKLOAD}}}",
    )
    return [
        lines(
            "Lift of tau, last hour, with its 95 % interval",
            "Tau of the challenger over the champion's, minus 1. An interval that covers 0 says "
            "nothing yet. Tau is not time: a bigger drafter may win here and lose.",
            [
                Query(f"exp({overall}) - 1", WHO),
                Query(f"exp({overall} - 1.96 * {overall_error}) - 1", f"{WHO} low"),
                Query(f"exp({overall} + 1.96 * {overall_error}) - 1", f"{WHO} high"),
            ],
            LIFT,
        ),
        lines(
            "Lift of tau by workload, with its 95 % interval",
            "As on the left, for each workload. With five workloads one of five such intervals "
            "misses 0 by chance about every fourth time.",
            [
                Query(f"exp({lift}) - 1", f"{WHO} {{{{workload}}}}"),
                Query(f"exp({lift} - 1.96 * {error}) - 1", f"{WHO} {{{{workload}}}} low"),
                Query(f"exp({lift} + 1.96 * {error}) - 1", f"{WHO} {{{{workload}}}} high"),
            ],
            LIFT,
        ),
        bars(
            "Acceptance by position, challenger minus champion",
            "Difference of S_k, all workloads, 5 minutes. Where it turns negative, the "
            "challenger's tail is weaker. Intervals of these differences: GET /dpace/verdict.",
            Query(
                f'dpace:acceptance_overall:ratio5m{{{DRAFTER}, arm=~"challenger|shadow"}} '
                "- on (job, model, position) group_left () "
                f'(dpace:acceptance_overall:ratio5m{{{TARGET}, arm="champion"}} '
                "and on (job, model, drafter, revision) dpace:champion:info)",
                f"{WHO} {{{{position}}}}",
            ),
            LIFT,
            width=24,
        ),
    ]


def _fairness() -> list:
    served = "dpace:arm_requests:increase1h"
    return [
        lines(
            "Requests in the statistics",
            "Finished requests per second by arm. In the shadow, one for each request of the "
            "champion that was shadowed.",
            [
                Query(
                    per_second(
                        "dpace_acceptance_requests_total",
                        DRAFTER_REPLICA,
                        "drafter",
                        "revision",
                        "arm",
                    ),
                    WHO,
                )
            ],
            RATE,
        ),
        lines(
            "Share of the challengers, counted and configured",
            "Split mode: both should agree, or no comparison is valid. The alert ArmImbalance "
            "tests it. Requests whose client chose the drafter are not counted.",
            [
                Query(
                    f'sum by (job, model) ({served}{{{REPLICA}, arm="challenger"}}) '
                    f"/ (sum by (job, model) ({served}{{{REPLICA}}}) > 0)",
                    "{{job}} {{model}} counted, 1 h",
                ),
                Query(
                    f'avg by (job, model) (dpace_split_share{{{REPLICA}, arm="challenger"}})',
                    "{{job}} {{model}} configured",
                ),
            ],
            SHARE,
        ),
        lines(
            "Outcomes in the shadow",
            "Requests per second that a challenger shadowed. settled: every position compared; "
            "answer_ended: some were open at the end, counted as unsettled; lost: should be 0.",
            [
                Query(
                    per_second(
                        "dpace_shadow_requests_total",
                        DRAFTER_REPLICA,
                        "drafter",
                        "revision",
                        "outcome",
                    ),
                    "{{drafter}} {{revision}} {{outcome}}",
                )
            ],
            RATE,
        ),
        lines(
            "Chi-squared of the split",
            "Counted against configured shares, one degree of freedom, last hour, by replica and "
            "of all together. Above 10.8 chance explains it once in a thousand looks; the alert "
            "waits for 20. Empty without a split or with little traffic.",
            [
                Query(f"dpace:arm_imbalance_replica:chi2_1h{{{REPLICA}}}", "{{instance}}"),
                Query(f"dpace:arm_imbalance:chi2_1h{{{TARGET}}}", "{{job}} {{model}} all"),
            ],
            Look(decimals=1, low=0, warn_above=20),
        ),
    ]
