"""How full is the engine, and what does a step cost?"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from board import REPLICA, TARGET, board
from panels import RATE, SHARE, Look, Query, lines
from promql import per_second

SECONDS = Look(unit="s", low=0)
COUNT = Look(decimals=1, low=0)
BY_REPLICA = "{{instance}}"


def build() -> Dashboard:
    """Load, latency and the cost of steps."""
    return board(
        "load",
        "Load",
        "How full is the engine, and what does a step cost?",
        [*_queue(), *_steps(), *_latency()],
    )


def _rate(metric: str) -> str:
    return per_second(metric, REPLICA, "instance")


def _queue() -> list:
    def now(metric: str) -> str:
        return f"sum by (instance) ({metric}{{{REPLICA}}})"

    return [
        lines(
            "Requests running and waiting",
            "Running are in the batch, waiting are not. A queue that stays means too few "
            "replicas: more draft tokens do not help a full engine.",
            [
                Query(now("vllm:num_requests_running"), f"{BY_REPLICA} running"),
                Query(now("vllm:num_requests_waiting"), f"{BY_REPLICA} waiting"),
            ],
            COUNT,
        ),
        lines(
            "KV cache in use",
            "Share of the cache's blocks. Near 100 % requests are preempted and computed again.",
            [Query(f"max by (instance) (vllm:kv_cache_usage_perc{{{REPLICA}}})", BY_REPLICA)],
            SHARE,
        ),
        lines(
            "Tokens per second",
            "Prompt tokens, those from the cache too, and answer tokens put out.",
            [
                Query(_rate("vllm:prompt_tokens_total"), f"{BY_REPLICA} prompt"),
                Query(_rate("vllm:generation_tokens_total"), f"{BY_REPLICA} answer"),
            ],
            RATE,
        ),
        lines(
            "Preemptions",
            "Requests per second that lost their cache to others and start over. Should be 0.",
            [Query(_rate("vllm:num_preemptions_total"), BY_REPLICA)],
            RATE,
        ),
        lines(
            "Refused requests",
            "Requests per second that did not reach the engine, or were ended early. busy: too few "
            "replicas; key and route: somebody tries doors; request and body: a client asks for "
            "too much; deadline: answers take too long.",
            [
                Query(
                    per_second("dpace_requests_refused_total", REPLICA, "instance", "reason"),
                    f"{BY_REPLICA} {{{{reason}}}}",
                )
            ],
            RATE,
        ),
    ]


def _steps() -> list:
    steps = f"({_rate('dpace_decode_steps_total')} > 0)"
    served = f'{REPLICA}, arm!="shadow"'
    drafted = per_second("dpace_drafted_tokens_total", served, "instance")
    verified = per_second("dpace_verification_steps_total", served, "instance")
    tokens, requests = _rate("dpace_decode_tokens_total"), _rate("dpace_decode_requests_total")
    return [
        lines(
            "Time of a step",
            "Mean wall time of an engine step that only decodes. It grows with the batch and with "
            "the draft length; speculation pays while tau grows faster.",
            [Query(f"{_rate('dpace_decode_seconds_total')} / {steps}", BY_REPLICA)],
            SECONDS,
        ),
        lines(
            "Batch size",
            "Requests in a decoding step, mean. Draft lengths that pay at 1 may not pay at 16.",
            [Query(f"{requests} / {steps}", BY_REPLICA)],
            COUNT,
        ),
        lines(
            "Tokens per step and request",
            "Tokens that a decoding step gives one request, mean: tau as the engine sees it, all "
            "arms that serve.",
            [Query(f"{tokens} / ({requests} > 0)", BY_REPLICA)],
            Look(decimals=2, low=1),
        ),
        lines(
            "Draft tokens per verification step (K)",
            "Mean number of draft tokens that were settled in a step of a request: the block "
            "length, less where a schedule drafts less under load, and less the positions past "
            "the end of answers.",
            [Query(f"{drafted} / ({verified} > 0)", BY_REPLICA)],
            Look(decimals=2, low=0),
        ),
        lines(
            "Calibrated cost of a step by draft length",
            "Calibrated time of the same steps with this many draft tokens, over the time they "
            "took: 1 at the served length. If that one drifts from 1, calibrate again. Empty "
            "until calibrated.",
            [
                Query(
                    f"dpace:step_cost:ratio5m{{{TARGET}}}",
                    "{{job}} {{model}} {{num_draft_tokens}}",
                )
            ],
            Look(decimals=2, low=0),
        ),
        lines(
            "Estimated speed-up over no speculation",
            "Present load. Below 1 the server would be faster without. Empty until calibrated.",
            [Query(f"dpace:speedup_estimate:rate5m{{{TARGET}}}", "{{job}} {{model}}")],
            Look(decimals=2, low=0, warn_below=1),
        ),
    ]


def _latency() -> list:
    def quantile(share: float, metric: str) -> str:
        buckets = per_second(f"{metric}_bucket", REPLICA, "instance", "le")
        return f"histogram_quantile({share}, {buckets})"

    def both(metric: str) -> list[Query]:
        return [
            Query(quantile(share, metric), f"{BY_REPLICA} {name}")
            for share, name in ((0.5, "p50"), (0.95, "p95"))
        ]

    return [
        lines(
            "Time to the first token",
            "From arrival, queue included. Speculation does not change it; a full batch does.",
            both("vllm:time_to_first_token_seconds"),
            SECONDS,
        ),
        lines(
            "Time per output token",
            "Of a whole request: decoding time over tokens. This is what speculation shortens. "
            "(vLLM's inter-token latency has one sample per step, not per token: it is not "
            "shown.)",
            both("vllm:request_time_per_output_token_seconds"),
            SECONDS,
        ),
    ]
