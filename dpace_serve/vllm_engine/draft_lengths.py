"""How many tokens a running engine drafts, set and seen from inside its process.

vLLM reads its table of lengths once and has no call to change it. This is the one place that
reaches into its scheduler for that; `tests/contract` says what of vLLM 0.32 it relies on.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

from dpace_serve.acceptance.cost import LengthRange

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.engine.llm_engine import LLMEngine


class DraftLengths:
    """The lengths of an engine whose core is in this process, started with any such table."""

    def __init__(self, engine: "LLMEngine") -> None:
        """Take hold of the engine's scheduler.

        Args:
            engine: Without the table at its start vLLM would set it up for steps of one length.
        """
        self._scheduler = engine.engine_core.engine_core.scheduler
        if self._scheduler.dynamic_sd_lookup is None:
            raise ValueError(f"{type(self).__name__} needs an engine that has a table of lengths.")
        self._schedule = self._scheduler.schedule
        self._scheduler.schedule = self._watched
        self._last: Mapping[str, int] = {}
        self._last_has_new = False

    def set(self, ranges: Sequence[LengthRange]) -> None:
        """Draft by this table from the next step on; as a server does that starts with it."""
        self._scheduler.dynamic_sd_lookup = build_dynamic_sd_schedule_lookup(
            [list(one) for one in ranges],
            vllm_max_batch_size=self._scheduler.scheduler_config.max_num_seqs,
            vllm_num_speculative_tokens=self._scheduler.num_spec_tokens,
        )

    def was_full(self, batch_size: int, num_draft_tokens: int) -> bool:
        """Whether the last scheduled step held this many requests, each verifying that many drafts.

        A step with a prompt in it is never full.
        """
        return (
            not self._last_has_new
            and len(self._last) == batch_size
            and set(self._last.values()) == {1 + num_draft_tokens}
        )

    def _watched(self, *arguments: object) -> "SchedulerOutput":
        output = self._schedule(*arguments)
        self._last = output.num_scheduled_tokens
        self._last_has_new = bool(output.scheduled_new_reqs)
        return output
