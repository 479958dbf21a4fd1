"""Hands finished requests to the capture of training data, where it is on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpace_serve.live.capture import CapturedRequest, CaptureWriter, is_refused
from dpace_serve.vllm_engine.bound_request import BoundRequest

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class TrafficCapture:
    """Keeps finished requests as training data.

    Attributes:
        writer: Where they go.
        model: Name under which the target is served.
    """

    writer: CaptureWriter
    model: str

    def keep(
        self, request: BoundRequest, finish_reason: str, sampling_params: "SamplingParams"
    ) -> None:
        """Keep a finished request if it is wanted."""
        refused = is_refused(sampling_params.extra_args)
        prompt = request.prompt_token_ids
        if prompt is None or sampling_params.n != 1 or not request.has_plain_prompt:
            return
        if request.is_beam:
            return
        if not self.writer.wants(request.workload, refused=refused, finish_reason=finish_reason):
            return
        drafter = request.assignment.serving.drafter
        self.writer.write(
            CapturedRequest(
                prompt_token_ids=prompt,
                output_token_ids=request.token_ids,
                finish_reason=finish_reason,
                workload=request.workload,
                model=self.model,
                drafter=drafter.name,
                revision=drafter.revision,
                temperature=sampling_params.temperature,
            )
        )
