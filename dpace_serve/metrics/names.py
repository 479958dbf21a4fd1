"""Every metric once: its name, type, help text and labels.

Only events are counted, ratios are left to the query: so everything adds over replicas and time.
Label values come from closed sets, never from a client's text. Draft positions count from 1.

What is counted for one drafter's requests carries its name and revision. The rest belongs to no
drafter: steps of the whole engine, shares by arm, losses in our own code, and operations, where an
administrator may ask for a drafter that does not exist; `dpace_drafter_info` says who serves.
"""

from dataclasses import dataclass
from typing import Literal

IDENTITY_LABELS = ("drafter", "revision")
"""Labels that name a drafter and the content of its checkpoint."""

DRAFTER_LABELS = (*IDENTITY_LABELS, "arm", "workload")
"""Labels of everything that is counted for a drafter's requests."""

POSITION_LABELS = (*IDENTITY_LABELS, "arm", "position")
"""Of sums over all workloads, so that their number stays bounded by drafters and positions."""

RIVAL_LABELS = ("champion", "champion_revision", "challenger", "revision")
"""Labels of a comparison; `revision` is the challenger's."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What a metric is called and what it means.

    Attributes:
        name: Full name as scraped; a histogram's parts add `_bucket`, `_sum` and `_count`.
        type: Prometheus type.
        help: Help text on the metrics page and in the documentation.
        labels: Label names.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]


DRAFTED_TOKENS = MetricSpec(
    "dpace_drafted_tokens_total",
    "counter",
    "Verification steps that drafted this position. Positions count from 1. "
    "The denominator of the acceptance rate at the same position.",
    (*DRAFTER_LABELS, "position"),
)
ACCEPTED_TOKENS = MetricSpec(
    "dpace_accepted_tokens_total",
    "counter",
    "Verification steps that accepted this position and all before it. Positions count from 1. "
    "Divide by dpace_drafted_tokens_total at the same position, never by the number of steps.",
    (*DRAFTER_LABELS, "position"),
)
VERIFICATION_STEPS = MetricSpec(
    "dpace_verification_steps_total",
    "counter",
    "Verification steps with at least one drafted token.",
    DRAFTER_LABELS,
)
EMITTED_TOKENS = MetricSpec(
    "dpace_emitted_tokens_total",
    "counter",
    "Tokens that verification steps put into answers: accepted ones plus one bonus token per step, "
    "less one for each answer that ended inside its last step's accepted tokens. arm=shadow: 0.",
    DRAFTER_LABELS,
)
UNSETTLED_TOKENS = MetricSpec(
    "dpace_unsettled_tokens_total",
    "counter",
    "Positions past the end of an answer, in no other counter. kind=drafted: all that the engine "
    "drafted there; kind=accepted: those of them that the engine had accepted. arm=shadow: drafted "
    "positions that were still open when the answer ended.",
    (*DRAFTER_LABELS, "kind"),
)
ACCEPTANCE_REQUESTS = MetricSpec(
    "dpace_acceptance_requests_total",
    "counter",
    "Finished requests in the acceptance statistics (n).",
    DRAFTER_LABELS,
)
ACCEPTANCE_ACCEPTED = MetricSpec(
    "dpace_acceptance_accepted_total",
    "counter",
    "Accepted draft tokens of those requests (sum of y). Divided by dpace_acceptance_steps_total, "
    "plus 1, it is tau.",
    DRAFTER_LABELS,
)
ACCEPTANCE_STEPS = MetricSpec(
    "dpace_acceptance_steps_total",
    "counter",
    "Verification steps of those requests (sum of m).",
    DRAFTER_LABELS,
)
ACCEPTANCE_ACCEPTED_SQUARED = MetricSpec(
    "dpace_acceptance_accepted_squared_total",
    "counter",
    "Sum over requests of y * y, for the interval of tau with the request as unit.",
    DRAFTER_LABELS,
)
ACCEPTANCE_STEPS_SQUARED = MetricSpec(
    "dpace_acceptance_steps_squared_total",
    "counter",
    "Sum over requests of m * m, for the interval of tau with the request as unit.",
    DRAFTER_LABELS,
)
ACCEPTANCE_ACCEPTED_STEPS = MetricSpec(
    "dpace_acceptance_accepted_steps_total",
    "counter",
    "Sum over requests of y * m, for the interval of tau with the request as unit.",
    DRAFTER_LABELS,
)
POSITION_REQUESTS = MetricSpec(
    "dpace_position_requests_total",
    "counter",
    "Finished requests that drafted this position (n), of all workloads. Positions count from 1.",
    POSITION_LABELS,
)
POSITION_ACCEPTED_SQUARED = MetricSpec(
    "dpace_position_accepted_squared_total",
    "counter",
    "Sum over those requests of a * a, with a steps that accepted the position, for the interval "
    "of its acceptance with the request as unit. Positions count from 1.",
    POSITION_LABELS,
)
POSITION_DRAFTED_SQUARED = MetricSpec(
    "dpace_position_drafted_squared_total",
    "counter",
    "Sum over those requests of d * d, with d steps that drafted the position. Positions count "
    "from 1.",
    POSITION_LABELS,
)
POSITION_ACCEPTED_DRAFTED = MetricSpec(
    "dpace_position_accepted_drafted_total",
    "counter",
    "Sum over those requests of a * d. Positions count from 1.",
    POSITION_LABELS,
)
REQUEST_TAU = MetricSpec(
    "dpace_request_tau",
    "histogram",
    "Tau of each finished request: tokens per verification step, bonus token included. "
    "Buckets run from 1 to the number of draft tokens + 1.",
    DRAFTER_LABELS,
)
REQUESTS_EXCLUDED = MetricSpec(
    "dpace_requests_excluded_total",
    "counter",
    "Requests that ended and are left out of the acceptance statistics: aborted, several_outputs "
    "(n > 1), stop_string (found after the engine had counted further), no_record (the engine gave "
    "none, or one that contradicts itself), no_step (nothing was drafted or compared), no_shadow "
    "(drafts of a challenger were lost). arm=shadow: once more for each challenger that shadowed "
    "the request.",
    (*IDENTITY_LABELS, "arm", "reason"),
)
SHADOW_REQUESTS = MetricSpec(
    "dpace_shadow_requests_total",
    "counter",
    "Requests that a challenger shadowed, once each. outcome=settled: every drafted position was "
    "compared; answer_ended: the answer ended while some were open, and those are in "
    "dpace_unsettled_tokens_total, never rejected; excluded: left out of the statistics; lost: the "
    "drafts were lost.",
    (*IDENTITY_LABELS, "outcome"),
)
WORKLOAD_UNKNOWN = MetricSpec(
    "dpace_workload_unknown_total",
    "counter",
    "Counted requests whose workload tag is outside the configured set, counted as other.",
    (),
)
DRAFTER_INFO = MetricSpec(
    "dpace_drafter_info",
    "gauge",
    "Always 1: which drafters get requests now, and in which arm, with method and block size. "
    "The series of a drafter that leaves its arm is removed.",
    (*IDENTITY_LABELS, "arm", "method", "block_size"),
)
SPLIT_SHARE = MetricSpec(
    "dpace_split_share",
    "gauge",
    "Configured share of served requests, all challengers together. The share counted in "
    "dpace_split_requests_total should agree.",
    ("arm",),
)
SPLIT_REQUESTS = MetricSpec(
    "dpace_split_requests_total",
    "counter",
    "Split mode: requests that ended, counted or left out of the statistics, by the arm that was "
    "drawn for them. Not those whose client chose the drafter: they are no random draw.",
    ("arm",),
)
DRAFTER_SWAPS = MetricSpec(
    "dpace_drafter_swaps_total",
    "counter",
    "Operations on drafters while the server ran. operation=swap: another champion; challenge: "
    "a new challenger; promote: the challenger becomes champion; drop: a challenger leaves. "
    "result=ok: done; refused: not allowed or not servable; busy: another operation or too many "
    "running requests; failed: the engine could not load it; unauthorized: asked without the "
    "admin key. Only ok changes who serves.",
    ("operation", "result"),
)
VERDICT_LIFT = MetricSpec(
    "dpace_verdict_lift",
    "gauge",
    "Lift of the challenger over the champion as a share (0.05 is 5 % more), in tokens per second, "
    "or in tau where step times are not known, with the bounds of its confidence sequence. No "
    "series while there is too little data or the split is not as configured.",
    (*RIVAL_LABELS, "bound"),
)
VERDICT_DECISION = MetricSpec(
    "dpace_verdict_decision",
    "gauge",
    "1 for what the verdict on a challenger says now, 0 for the other decisions.",
    (*RIVAL_LABELS, "decision"),
)
EXPORT_ERRORS = MetricSpec(
    "dpace_export_errors_total",
    "counter",
    "Records of requests lost in this package's own code. stage=record: not built from the "
    "engine's output, so excluded as no_record; observe: in the acceptance log, but refused by the "
    "exporter; shadow: drafts of a challenger that could not be compared, so excluded as "
    "no_shadow; verdict: counted, but not for the verdict; log: counted, but not written to the "
    "acceptance log; capture: not kept as training data; trace: not on its request's trace. step: "
    "a step that was not timed.",
    ("stage",),
)

DECODE_STEPS = MetricSpec(
    "dpace_decode_steps_total",
    "counter",
    "Engine steps that only decoded, directly after another step, so that their time is known. "
    "Those of all drafters and engines; 0 where the engine keeps no statistics.",
    (),
)
DECODE_SECONDS = MetricSpec(
    "dpace_decode_seconds_total",
    "counter",
    "Wall time of those steps. Divided by dpace_decode_steps_total it is the mean step time.",
    (),
)
DECODE_TOKENS = MetricSpec(
    "dpace_decode_tokens_total",
    "counter",
    "Tokens that those steps put out, the ones behind a stop string among them.",
    (),
)
DECODE_REQUESTS = MetricSpec(
    "dpace_decode_requests_total",
    "counter",
    "Sum of their batch sizes: requests that got tokens. Divided by dpace_decode_steps_total it is "
    "the mean batch size.",
    (),
)
CALIBRATED_DECODE_STEPS = MetricSpec(
    "dpace_calibrated_decode_steps_total",
    "counter",
    "Those of these steps whose batch size lies within the calibrated ones. Only with calibrated "
    "step times, as the next three.",
    (),
)
CALIBRATED_DECODE_SECONDS = MetricSpec(
    "dpace_calibrated_decode_seconds_total",
    "counter",
    "Wall time of those calibrated steps. The denominator of the speed-up.",
    (),
)
PLAIN_DECODE_SECONDS = MetricSpec(
    "dpace_plain_decode_seconds_total",
    "counter",
    "Estimated time of the tokens of those steps without speculation: tokens / batch size x the "
    "calibrated time of a step without drafts. Divided by dpace_calibrated_decode_seconds_total it "
    "is the speed-up.",
    (),
)
CALIBRATED_STEP_SECONDS = MetricSpec(
    "dpace_calibrated_step_seconds_total",
    "counter",
    "Sum over those steps of the calibrated time of a step with this many draft tokens at their "
    "batch size; 0 is speculation off. At the served length it should agree with "
    "dpace_calibrated_decode_seconds_total.",
    ("num_draft_tokens",),
)

REQUESTS_REFUSED = MetricSpec(
    "dpace_requests_refused_total",
    "counter",
    "Requests that did not reach the engine, or whose answer was ended early. reason=host: asked "
    "by a name that is not allowed; route: none, or not open; key: none, or a wrong one; request: "
    "asks for what it may not, or more of it; body: too large, too slow, or no JSON; busy: too "
    "many at a time (429); draining: the server is stopping; deadline: took too long. Wrong admin "
    "keys are in dpace_drafter_swaps_total.",
    ("reason",),
)

CALIBRATED_METRICS = (
    CALIBRATED_DECODE_STEPS,
    CALIBRATED_DECODE_SECONDS,
    PLAIN_DECODE_SECONDS,
    CALIBRATED_STEP_SECONDS,
)
"""Metrics that exist only where step times were calibrated."""

EVENT_METRICS = (
    DRAFTED_TOKENS,
    ACCEPTED_TOKENS,
    VERIFICATION_STEPS,
    EMITTED_TOKENS,
    UNSETTLED_TOKENS,
    ACCEPTANCE_REQUESTS,
    ACCEPTANCE_ACCEPTED,
    ACCEPTANCE_STEPS,
    ACCEPTANCE_ACCEPTED_SQUARED,
    ACCEPTANCE_STEPS_SQUARED,
    ACCEPTANCE_ACCEPTED_STEPS,
    POSITION_REQUESTS,
    POSITION_ACCEPTED_SQUARED,
    POSITION_DRAFTED_SQUARED,
    POSITION_ACCEPTED_DRAFTED,
    REQUEST_TAU,
    REQUESTS_EXCLUDED,
    SHADOW_REQUESTS,
    WORKLOAD_UNKNOWN,
    DRAFTER_INFO,
    SPLIT_SHARE,
    SPLIT_REQUESTS,
    DRAFTER_SWAPS,
    EXPORT_ERRORS,
    DECODE_STEPS,
    DECODE_SECONDS,
    DECODE_TOKENS,
    DECODE_REQUESTS,
    *CALIBRATED_METRICS,
)
"""What is counted or set as it happens."""

VERDICT_METRICS = (VERDICT_LIFT, VERDICT_DECISION)
"""What is worked out when it is scraped."""

GATE_METRICS = (REQUESTS_REFUSED,)
"""What is counted before the engine, drafter or none."""

METRICS = (*EVENT_METRICS, *VERDICT_METRICS, *GATE_METRICS)
"""All metrics, in the order of the documentation."""
