"""A request from its arrival to its end: the drafters it is bound to, and its tokens."""

import re
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dpace_serve.live.assignment import Assignment
from dpace_serve.vllm_engine.row_binding import BINDING, RowBinding

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams

_BEAM = re.compile(r"-beam-[0-9]+$")
_FIRST_LOAD_SALT = "dpace"
"""Stands before a client's salt where only the server's first drafter is concerned."""


@dataclass(slots=True)
class BoundRequest:
    """What is known of a request while it runs.

    Attributes:
        request_id: The engine's name of it, as records have it.
        assignment: Its drafters.
        workload: Workload label.
        has_unknown_workload: Whether it named another one than the configured.
        has_plain_prompt: Whether token ids are all of its prompt, and the target answers as it is.
        is_beam: Whether the engine made it for one beam of a search.
        prompt_token_ids: Token ids of its prompt; none until the engine answers.
        token_ids: Token ids of its answer so far.
    """

    request_id: str
    assignment: Assignment
    workload: str
    has_unknown_workload: bool = False
    has_plain_prompt: bool = False
    is_beam: bool = False
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] = field(default_factory=list)

    def bound(self, sampling_params: "SamplingParams") -> "SamplingParams":
        """A copy of the parameters that tells the worker; a client's own word is overwritten.

        A copy, because several prompts of one HTTP request may share them.
        """
        binding = RowBinding(
            key=self.assignment.key,
            serving=self.assignment.serving.slot,
            shadows=tuple(shadow.slot for shadow in self.assignment.shadows),
        )
        bound = copy(sampling_params)
        bound.extra_args = {**(sampling_params.extra_args or {}), BINDING: binding.to_list()}
        return bound

    def note(self, output: "RequestOutput", sampling_params: "SamplingParams") -> None:
        """Keep the tokens of an output; in a stream each brings new ones only."""
        if self.prompt_token_ids is None and output.prompt_token_ids is not None:
            self.prompt_token_ids = list(output.prompt_token_ids)
        new = output.outputs[0].token_ids
        if sampling_params.output_kind.name == "DELTA":
            self.token_ids.extend(new)
        elif output.finished:
            self.token_ids = list(new)


def salted(prompt: object, cache_salt: str | None) -> object:
    """The prompt with this salt before its own: it meets cached blocks of its drafters only.

    A client's salt never stands alone, where it could be the salt of other drafters; behind a bar,
    which ours have not, no two pairs are the same text. A prompt that streams in is left as it is:
    stale keys would cost acceptance, never an answer.
    """
    if not isinstance(prompt, Mapping):
        return prompt
    own: Any = prompt.get("cache_salt")
    if own is not None:
        return {**prompt, "cache_salt": f"{cache_salt or _FIRST_LOAD_SALT}|{own}"}
    return prompt if cache_salt is None else {**prompt, "cache_salt": cache_salt}


def is_beam(request_id: str) -> bool:
    """Whether the engine made a request, by its whole name, for one beam of a search.

    Such a request is one token of a prompt that is mostly the search's own answer. It carries
    nothing of what its client said, so that a refusal to be kept would be lost.
    """
    return _BEAM.search(request_id) is not None


def is_plain(prompt: object) -> bool:
    """Whether token ids are all of a prompt: no images, no embeddings, nothing that streams in."""
    return isinstance(prompt, Mapping) and prompt.get("type") == "token"


def can_be_shadowed(prompt: object, sampling_params: "SamplingParams") -> bool:
    """Whether the answer will judge a challenger's drafts as verification would.

    Not with several answers. Not with a grammar either: it cuts what the champion drafted before
    that is verified, and a challenger's drafts are never shown to it. And the prompt must be its
    token ids alone, to tell which position of the answer an anchor is: with an image the target may
    count positions otherwise than the sequence.
    """
    return (
        sampling_params.n == 1 and sampling_params.structured_outputs is None and is_plain(prompt)
    )
