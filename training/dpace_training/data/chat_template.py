"""Where the assistant speaks in a rendered chat: behind its prompt, and between markers."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from dpace_serve.errors import ConfigError
from dpace_training.data.conversations import Message, message_record

_GENERATION_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A tokenizer's chat template with what it is told about thinking.

    `enable_thinking` is passed on as it is; None passes nothing, and the template's default holds.
    `place` names the chat in error messages. Where the tokenizer has no template, or the template
    refuses the chat, everything here raises a ConfigError.
    """

    tokenizer: PreTrainedTokenizerBase
    enable_thinking: bool | None
    place: str

    @property
    def source(self) -> str:
        """Text of the template."""
        if self.tokenizer.chat_template is None:
            raise ConfigError(
                f"{self.place}: is a chat, but the target's tokenizer has no chat template. Take "
                "the target's chat version, or give prompts and completions."
            )
        with self._refusals():
            text: str = self.tokenizer.get_chat_template()
        return text

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat up to where the assistant's next answer starts."""
        return self.encode(self.render(messages, add_generation_prompt=True))

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Text of a chat."""
        with self._refusals():
            text: str = self.tokenizer.apply_chat_template(
                [message_record(message) for message in messages],
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self._options,
            )
        return text

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text; the template has written the special tokens itself."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def marked_spans(self, messages: Sequence[Message]) -> list[tuple[int, int]] | None:
        """Characters of the rendered chat between generation markers; None without markers.

        A region is what stands between `{% generation %}` and `{% endgeneration %}`; regions that
        touch are one.
        """
        if not _GENERATION_MARKER.search(self.source):
            return None
        # apply_chat_template gives whole tokens only; its own renderer knows the characters.
        with self._refusals():
            _, spans = render_jinja_template(
                conversations=[[message_record(message) for message in messages]],
                chat_template=self.source,
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
                **self._options,
            )
        return _touching_joined(spans[0])

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """A template is a program: it raises errors of its own, and stumbles over odd values."""
        try:
            yield
        except (TemplateError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ConfigError(
                f"{self.place}: the chat template refuses the chat ({reason}). Correct or remove "
                "it, or leave such documents out with input.invalid=skip."
            ) from None

    @property
    def _options(self) -> dict[str, Any]:
        return {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}


@dataclass(frozen=True, slots=True)
class RenderedAnswer:
    """Tokens of a chat through one answer's end token; the answer begins at `start`."""

    token_ids: list[int]
    start: int


def rendered_answer(
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    end_ids: frozenset[int],
    place: str,
) -> RenderedAnswer:
    """Find the tokens of the last message, an assistant's, as the target would have written it.

    The answer is what follows the generation prompt, up to and including the first end token. A
    template with generation markers says so too; where both can tell, they must agree.

    Args:
        template: Chat template of the target.
        messages: Chat that ends with an answer.
        end_ids: Tokens that end an answer.
        place: Name of document and message in error messages.

    Raises:
        ConfigError: If neither way finds the answer, the two differ, or no end token follows.
    """
    text = template.render(messages, add_generation_prompt=False)
    prompt = template.render(messages[:-1], add_generation_prompt=True)
    marked = _marked_answer(template, messages, place)
    if text.startswith(prompt):
        start = len(prompt)
    elif marked is not None:
        start = marked[0]
    else:
        raise ConfigError(
            f"{place}: the chat template's generation prompt is not how it starts this answer. "
            "Use a template whose two renderings agree, or one with generation markers."
        )
    answer = _answer_tokens(template, text, start, end_ids=end_ids, place=place)
    if marked is not None:
        end = _end_of_answer(template, text, start, end_ids)
        # Behind its end token the target generates nothing, whatever the template marks there.
        if marked[0] != start or marked[1] < end:
            raise ConfigError(
                f"{place}: the chat template's generation markers hold "
                f"{_short(text[slice(*marked)])}, but behind its prompt the target writes "
                f"{_short(text[start:end])}. Correct the markers, or remove them."
            )
    return answer


def _touching_joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _marked_answer(
    template: ChatTemplate, messages: Sequence[Message], place: str
) -> tuple[int, int] | None:
    spans = template.marked_spans(messages)
    if spans is None:
        return None
    num_answers = sum(message.role == "assistant" for message in messages)
    if len(spans) != num_answers:
        raise ConfigError(
            f"{place}: the chat template's generation markers hold {len(spans)} regions for "
            f"{num_answers} answers. Correct the markers, or remove them."
        )
    return spans[-1]


def _answer_tokens(
    template: ChatTemplate, text: str, start: int, *, end_ids: frozenset[int], place: str
) -> RenderedAnswer:
    token_ids, prompt = template.encode(text), template.encode(text[:start])
    if token_ids[: len(prompt)] != prompt:
        # A token lies across the seam. The target reads the prompt before it writes, so it never
        # sees that token; but encoding in two parts must not change the text itself.
        apart = prompt + template.encode(text[start:])
        if template.tokenizer.decode(apart) != template.tokenizer.decode(token_ids):
            raise ConfigError(
                f"{place}: the tokenizer joins the end of the prompt and the start of this answer "
                "into one token. Leave the document out."
            )
        token_ids = apart
    for index in range(len(prompt), len(token_ids)):
        if token_ids[index] in end_ids:
            return RenderedAnswer(token_ids[: index + 1], start=len(prompt))
    raise ConfigError(
        f"{place} does not end with one of the end tokens {sorted(end_ids)}. "
        "Set eos_token_id in the target's generation_config.json."
    )


def _end_of_answer(template: ChatTemplate, text: str, start: int, end_ids: frozenset[int]) -> int:
    ends = (template.tokenizer.decode([end_id]) for end_id in end_ids)
    return min(text.find(end, start) + len(end) for end in ends if end in text[start:])


def _short(text: str) -> str:
    quoted = repr(text)
    return quoted if len(quoted) <= 80 else f"{quoted[:38]}...{quoted[-38:]}"
