"""Requests as they arrive: who drafts for them, and which workload they belong to."""

from typing import TYPE_CHECKING

from dpace_serve.acceptance.request_id import recorded_id
from dpace_serve.live.fleet import Fleet
from dpace_serve.serve_config import OTHER_WORKLOAD
from dpace_serve.vllm_engine.bound_request import (
    BoundRequest,
    can_be_shadowed,
    is_beam,
    is_plain,
)
from dpace_serve.web.workload_header import workload_of_header

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams

WORKLOAD_TAG = "dpace_workload"
DRAFTER_TAG = "dpace_drafter"


class Arrivals:
    """Reads what requests say of themselves, which never becomes a label as it is.

    Attributes:
        fleet: Who drafts for whom.
    """

    def __init__(self, fleet: Fleet, *, workloads: tuple[str, ...], allows_choice: bool) -> None:
        """Start without a request.

        Args:
            fleet: Who drafts for whom.
            workloads: Workload labels that requests may carry.
            allows_choice: Whether a request may name the drafter that serves it.
        """
        self.fleet = fleet
        self._workloads = frozenset(workloads)
        self._allows_choice = allows_choice
        self._running: dict[str, list[BoundRequest]] = {}

    def bind(
        self, prompt: object, sampling_params: "SamplingParams", request_id: str
    ) -> BoundRequest:
        """Bind a request to its drafters, until it leaves.

        Raises:
            ValueError: If it names a drafter that it may not have, or asks for what ends a
                speculating engine; the engine's server answers 400.
        """
        _require_possible(sampling_params)
        wanted = (sampling_params.extra_args or {}).get(DRAFTER_TAG)
        if wanted is not None and not self._allows_choice:
            raise ValueError(
                f"{DRAFTER_TAG} must be left out: this server does not let requests choose their "
                "drafter. Its operator can allow it with allow_drafter_choice."
            )
        is_known, workload = self._workload_of(sampling_params)
        kept_id = recorded_id(request_id)
        assignment = self.fleet.assign(
            kept_id,
            wanted=None if wanted is None else str(wanted),
            may_shadow=can_be_shadowed(prompt, sampling_params),
        )
        request = BoundRequest(
            kept_id,
            assignment,
            workload,
            has_unknown_workload=not is_known,
            has_plain_prompt=is_plain(prompt),
            is_beam=is_beam(request_id),
        )
        self._running.setdefault(kept_id, []).append(request)
        return request

    def leave(self, request: BoundRequest) -> None:
        """Forget a request that has ended."""
        others = [one for one in self._running.pop(request.request_id) if one is not request]
        if others:
            self._running[request.request_id] = others

    def find(self, request_id: str) -> BoundRequest | None:
        """The running request of this name; none where a client gave several the same one."""
        named = self._running.get(recorded_id(request_id), [])
        return named[0] if len(named) == 1 else None

    def _workload_of(self, sampling_params: "SamplingParams") -> tuple[bool, str]:
        """Whether its tag, if any, is one of the configured, and the label to count it under."""
        tag = (sampling_params.extra_args or {}).get(WORKLOAD_TAG, workload_of_header())
        if isinstance(tag, str) and tag in self._workloads:
            return True, tag
        return tag in (None, OTHER_WORKLOAD), OTHER_WORKLOAD


def _require_possible(sampling_params: "SamplingParams") -> None:
    # vLLM's rejection sampler takes the scores of these tokens for those of the whole vocabulary:
    # one such request would end the engine core. Scoring routes ask for it in the client's place.
    if sampling_params.logprob_token_ids is not None:
        raise ValueError(
            "logprob_token_ids must be left out: it does not work with speculative decoding, and "
            "nor does scoring of labels. Ask for logprobs, or ask a server without a drafter."
        )
