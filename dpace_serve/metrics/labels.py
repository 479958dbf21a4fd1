"""The closed sets of label values that belong to the metrics alone."""

from typing import Literal, get_args

SplitArm = Literal["champion", "challenger"]
SPLIT_ARMS: tuple[SplitArm, ...] = get_args(SplitArm)
"""Who can be drawn to serve a request."""

UnsettledKind = Literal["drafted", "accepted"]
UNSETTLED_KINDS: tuple[UnsettledKind, ...] = get_args(UnsettledKind)

ExportStage = Literal["record", "observe", "shadow", "verdict", "log", "capture", "step", "trace"]
EXPORT_STAGES: tuple[ExportStage, ...] = get_args(ExportStage)
"""Where a record can be lost: when it is built from the engine's output, when it is counted, when a
challenger's drafts are compared, when it is counted for a verdict, when it is written to the
acceptance log, when its tokens are captured as training data, or when it is put on the request's
trace; and where a step's time can."""

ShadowOutcome = Literal["settled", "answer_ended", "excluded", "lost"]
SHADOW_OUTCOMES: tuple[ShadowOutcome, ...] = get_args(ShadowOutcome)
"""What became of a challenger's drafts in the shadow of one request."""

DrafterOperation = Literal["swap", "challenge", "promote", "drop"]
DRAFTER_OPERATIONS: tuple[DrafterOperation, ...] = get_args(DrafterOperation)
"""What an administrator can ask for while the server runs."""

OperationResult = Literal["ok", "refused", "busy", "failed", "unauthorized"]
OPERATION_RESULTS: tuple[OperationResult, ...] = get_args(OperationResult)
"""How an operation ended."""

RefusalReason = Literal["host", "route", "key", "request", "body", "busy", "draining", "deadline"]
REFUSAL_REASONS: tuple[RefusalReason, ...] = get_args(RefusalReason)
"""host: asked by a name that is not allowed; route: none, or not open; key: none, or a wrong one;
request: asks for what it may not, or more of it; body: too large, too slow, or no JSON; busy: too
many at a time; draining: the server is stopping; deadline: took too long."""
