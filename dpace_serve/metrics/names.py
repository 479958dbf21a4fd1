"""Every metric once: its name, type, help text and labels.

Only events are counted, ratios are left to the query: so everything adds over replicas and time.
Label values come from closed sets, never from a client's text. Draft positions count from 1.
"""

from dataclasses import dataclass
from typing import Literal

DRAFTER_LABELS = ("drafter", "revision", "arm", "workload")
"""Labels of everything that is counted for a drafter's requests."""

OTHER_WORKLOAD = "other"
"""Workload label of a request whose tag is outside the configured set."""

UnsettledKind = Literal["drafted", "accepted"]
UNSETTLED_KINDS: tuple[UnsettledKind, ...] = ("drafted", "accepted")

ExclusionReason = Literal["aborted", "several_outputs", "stop_string", "no_record", "no_step"]
EXCLUSION_REASONS: tuple[ExclusionReason, ...] = (
    "aborted",
    "several_outputs",
    "stop_string",
    "no_record",
    "no_step",
)
"""Why a finished request is not in the statistics."""

ExportStage = Literal["record", "observe"]
EXPORT_STAGES: tuple[ExportStage, ...] = ("record", "observe")
"""Where a record can be lost: when it is built from the engine's output, or when it is counted."""


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
    "less one for each answer that ended inside its last step's accepted tokens.",
    DRAFTER_LABELS,
)
UNSETTLED_TOKENS = MetricSpec(
    "dpace_unsettled_tokens_total",
    "counter",
    "Positions past the end of an answer, in no other counter. kind=drafted: all that the engine "
    "drafted there; kind=accepted: those of them that the engine had accepted.",
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
    "Finished requests left out of the acceptance statistics: aborted, several_outputs (n > 1), "
    "stop_string (found after the engine had counted further), no_record (the engine gave none), "
    "no_step (nothing was drafted).",
    ("reason",),
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
    "Always 1: which drafter is loaded in which role, with its method and block size.",
    ("drafter", "revision", "arm", "method", "block_size"),
)
EXPORT_ERRORS = MetricSpec(
    "dpace_export_errors_total",
    "counter",
    "Records of finished requests lost in this package's own code. stage=record: not built from "
    "the engine's output; stage=observe: built, but refused by the exporter.",
    ("stage",),
)

METRICS = (
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
    REQUEST_TAU,
    REQUESTS_EXCLUDED,
    WORKLOAD_UNKNOWN,
    DRAFTER_INFO,
    EXPORT_ERRORS,
)
"""All metrics, in the order of the documentation."""
