"""Is speculation worth it now, and is anything wrong?"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from board import DRAFTER, REPLICA, TARGET, board
from panels import LIFT, RATE, TAU, Look, Query, lines, number, rows
from promql import in_range, per_second

SPEEDUP = Look(unit="none", decimals=2, low=0, warn_below=1)
COUNT = Look(unit="short", decimals=0, low=0, warn_above=1)
SERVED = 'arm=~"champion|challenger"'


def build() -> Dashboard:
    """The first board to open."""
    return board(
        "overview",
        "Overview",
        "Is speculation worth it now, and is anything wrong?",
        [*_headline(), *_course(), *_events()],
    )


def _headline() -> list:
    return [
        number(
            "Estimated speed-up over no speculation",
            "How many times faster answers come than without speculation, at the present load: "
            "estimated time of the same tokens without it over the time they took, 5 minutes. "
            "Below 1 drafting is a loss. Empty until the server has calibrated step times (`dpace "
            "tune`).",
            Query(f"dpace:speedup_estimate:rate5m{{{TARGET}}}", "{{job}} {{model}}"),
            SPEEDUP,
        ),
        number(
            "Tau of the champion",
            "Tokens per verification step, bonus token included, 5 minutes. 1 is no draft token "
            "accepted. It says nothing about time: read it beside the speed-up.",
            Query(
                f'dpace:tau_overall:rate5m{{{DRAFTER}, arm="champion"}}',
                "{{drafter}} {{revision}} {{arm}}",
            ),
            TAU,
        ),
        number(
            "Tokens per second",
            "Tokens put into answers, all replicas together (vLLM's own count).",
            Query(per_second("vllm:generation_tokens_total", REPLICA)),
            RATE,
        ),
        number(
            "Requests per second",
            "Requests that ended, aborted ones too (vLLM's own count).",
            Query(per_second("vllm:request_success_total", REPLICA)),
            RATE,
        ),
        number(
            "Alerts firing",
            "Of deploy/prometheus/rules/alerts.yml, firing now; the table below names them.",
            Query(f'count(ALERTS{{alertstate="firing", {TARGET}}}) or vector(0)'),
            COUNT,
        ),
        number(
            "Records lost",
            "Records of requests lost by our own code in the time range. Should be 0; the "
            "server's log has the reason.",
            Query(in_range("dpace_export_errors_total", REPLICA)),
            COUNT,
        ),
    ]


def _course() -> list:
    tau, error = (
        f"dpace:tau_overall:rate1h{{{DRAFTER}, {SERVED}}}",
        f"dpace:tau_overall_se:rate1h{{{DRAFTER}, {SERVED}}}",
    )
    who = "{{drafter}} {{revision}} {{arm}}"
    return [
        lines(
            "Estimated speed-up",
            "The headline over time. The red line is 1, where speculation neither helps nor hurts.",
            [Query(f"dpace:speedup_estimate:rate5m{{{TARGET}}}", "{{job}} {{model}}")],
            SPEEDUP,
        ),
        lines(
            "Tau of the last hour, with its 95 % interval",
            "Arms that serve. The interval has the request as unit and holds for one look; two "
            "intervals that do not overlap differ. All replicas together: the variable instance "
            "does not apply.",
            [
                Query(tau, who),
                Query(f"{tau} - 1.96 * {error}", f"{who} low"),
                Query(f"{tau} + 1.96 * {error}", f"{who} high"),
            ],
            TAU,
        ),
        lines(
            "Tokens per second by replica",
            "Tokens put into answers. A replica that falls alone has a problem of its own.",
            [
                Query(
                    per_second("vllm:generation_tokens_total", REPLICA, "instance"),
                    "{{instance}}",
                )
            ],
            RATE,
        ),
        lines(
            "Lift of the challenger",
            "Tau of a challenger over the champion's, minus 1, last hour. Tau is not time: the "
            "board Champion and challenger has the verdict. Empty without a challenger.",
            [
                Query(
                    f"exp(dpace:tau_overall_log_lift:rate1h{{{DRAFTER}}}) - 1",
                    "{{drafter}} {{revision}} {{arm}}",
                )
            ],
            LIFT,
        ),
    ]


def _events() -> list:
    return [
        rows(
            "Alerts",
            "What fires or is about to. Empty is good.",
            Query(f"ALERTS{{{TARGET}}}"),
        ),
        rows(
            "Drafters that get requests now",
            "Which arm, and which block size. During a swap replicas may differ.",
            Query(
                "count by (job, model, drafter, revision, arm, method, block_size) "
                f"(dpace_drafter_info{{{REPLICA}}})"
            ),
        ),
        lines(
            "Requests left out of the statistics",
            "Per second, by arm and reason. aborted is the client's doing; no_record and "
            "no_shadow are ours. What is left out is in no rate of any board.",
            [
                Query(
                    per_second("dpace_requests_excluded_total", REPLICA, "arm", "reason"),
                    "{{arm}} {{reason}}",
                )
            ],
            RATE,
        ),
        lines(
            "Operations on drafters",
            "Swaps, challenges, promotions and drops around each point, by how they ended. Only ok "
            "changes who serves.",
            [
                Query(
                    "sum by (operation, result) "
                    f"(increase(dpace_drafter_swaps_total{{{REPLICA}}}[$__rate_interval]))",
                    "{{operation}} {{result}}",
                )
            ],
            Look(decimals=0, low=0),
        ),
    ]
