"""Asks a target behind an OpenAI-compatible server for one answer."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from dpace_serve.errors import ConfigError, EngineError
from dpace_serve.outside_text import MAX_KEY_BYTES, read_text
from dpace_serve.redaction import without_credentials
from dpace_training.config import EndpointConfig, RegenerateConfig
from dpace_training.data.conversations import Completion, Conversation
from dpace_training.data.dialogue import Dialogue
from dpace_training.data.target_model import Target

# Sent where no key file is given. The client would take a key of yours from its environment, and
# hand it to whatever server the address names.
NO_KEY = "none"
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; token ids are None where the server gives only text."""

    text: str
    ids: tuple[int, ...] | None
    finish_reason: str


def connect(config: EndpointConfig) -> openai.OpenAI:
    """A client that tries again, with growing pauses, after lost connections and busy servers.

    Raises:
        ConfigError: If the key file cannot be read or is empty.
    """
    key = NO_KEY if config.api_key_file is None else _read_key(config.api_key_file)
    with _without_settings_for_openai():
        return openai.OpenAI(
            base_url=config.base_url,
            api_key=key,
            max_retries=config.max_retries,
            timeout=config.timeout_seconds,
        )


@contextmanager
def _without_settings_for_openai() -> Iterator[None]:
    """Hide what the environment says for another server: keys, organisation, headers."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith("OPENAI_")}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


class Endpoint:
    """The server, asked by several threads at the same time."""

    def __init__(self, client: openai.OpenAI, target: Target, config: RegenerateConfig) -> None:
        if config.openai is None:
            raise TypeError("no endpoint in the configuration")
        self._client = client
        self._target = target
        self._config = config
        self._endpoint = config.openai
        self._takes_extensions = True

    def ask(self, dialogue: Dialogue) -> Reply:
        """The target's next answer in a dialogue.

        Raises:
            ConfigError: If the server refuses the request, or reads other prompt tokens than the
                target's own tokenizer and chat template make.
            EngineError: If the server cannot be reached or keeps failing.
        """
        place = f"document {dialogue.source.document_id}"
        try:
            response = self._response(dialogue)
        except openai.APIStatusError as error:
            raise self._refused(place, error) from None
        except openai.APIConnectionError as error:
            raise EngineError(
                f"{place}: {self._endpoint.base_url} does not answer "
                f"({error.message.rstrip('.')}), tried {self._endpoint.max_retries + 1} times. "
                "Start the server, or correct its base_url; finished answers are kept."
            ) from None
        return _reply(response, dialogue, self._target, place)

    def _response(self, dialogue: Dialogue) -> Any:  # noqa: ANN401 - two types of one shape
        # A server that knows no extensions may refuse them; then it is asked without, from now on.
        if self._takes_extensions:
            try:
                return self._request(dialogue, self._extensions())
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                response = self._request(dialogue, self._template_settings())
                self._takes_extensions = False
                return response
        return self._request(dialogue, self._template_settings())

    def _request(self, dialogue: Dialogue, extensions: dict[str, Any]) -> Any:  # noqa: ANN401 - as above
        source, seed = dialogue.source, dialogue.seed(self._config.seed)
        if not isinstance(source, Conversation):
            prompt = source.prompt if isinstance(source, Completion) else source.prompt_ids
            return self._client.completions.create(
                model=self._endpoint.model,
                prompt=prompt,
                temperature=self._config.temperature,
                top_p=1.0,
                max_tokens=self._config.max_new_tokens,
                seed=seed,
                extra_body=extensions,
            )
        messages: Any = [{"role": one.role, "content": one.content} for one in dialogue.messages]
        return self._client.chat.completions.create(
            model=self._endpoint.model,
            messages=messages,
            temperature=self._config.temperature,
            top_p=1.0,
            max_tokens=self._config.max_new_tokens,
            seed=seed,
            extra_body=extensions,
        )

    def _template_settings(self) -> dict[str, Any]:
        """Never left out: without them a server would answer another prompt than was asked."""
        thinking = self._target.enable_thinking
        if thinking is None:
            return {}
        return {"chat_template_kwargs": {"enable_thinking": thinking}}

    def _extensions(self) -> dict[str, Any]:
        """What vLLM takes beyond the protocol: ids, and the whole distribution."""
        return {
            **self._template_settings(),
            "return_token_ids": True,
            "stop_token_ids": sorted(self._target.end_ids),
            # Otherwise the server's defaults, often the target's own, would cut the distribution.
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }

    def _refused(self, place: str, error: openai.APIStatusError) -> ConfigError | EngineError:
        url, status = self._endpoint.base_url, error.status_code
        if status in (401, 403):
            # Not the server's own words: they may quote the key.
            source = self._endpoint.api_key_file or "regenerate.openai.api_key_file (not set)"
            return ConfigError(f"{url} refuses the API key (status {status}). Correct {source}.")
        # A server may quote the key whatever its status.
        told = without_credentials(error.message.replace(self._client.api_key, "***"))
        reason = " ".join(told.split())[:_LONGEST_REASON].rstrip(".")
        if status < 500 and status != 429:
            return ConfigError(
                f"{place}: {url} refuses the request ({reason}). Correct regenerate.openai, or "
                "shorten or remove the document; finished answers are kept."
            )
        return EngineError(
            f"{place}: {url} failed {self._endpoint.max_retries + 1} times ({reason}). "
            "Run the command again later; finished answers are kept."
        )


def _reply(response: Any, dialogue: Dialogue, target: Target, place: str) -> Reply:  # noqa: ANN401 - two types of one shape
    choice = response.choices[0]
    is_chat = isinstance(dialogue.source, Conversation)
    text = choice.message.content if is_chat else choice.text
    # vLLM puts the prompt's ids of a chat beside the choices, of a completion inside them.
    prompt_ids = getattr(response if is_chat else choice, "prompt_token_ids", None)
    ids = getattr(choice, "token_ids", None)
    if prompt_ids is not None:
        _require_same_prompt(prompt_ids, dialogue, target, place)
    if choice.finish_reason not in ("stop", "length") or (text is None and not ids):
        raise ConfigError(
            f"{place}: the server gave no answer (finish_reason {choice.finish_reason}). "
            "Remove the document; finished answers are kept."
        )
    if not ids and is_chat and _has_reasoning(choice.message):
        raise ConfigError(
            f"{place}: the server takes the reasoning out of an answer and returns no token ids, "
            "so what it wrote is not known. Start it without a reasoning parser, or use vLLM."
        )
    if ids and choice.finish_reason == "stop" and ids[-1] not in target.end_ids:
        raise ConfigError(
            f"{place}: the server ends an answer with token {ids[-1]}, the end tokens in "
            f"{target.folder} are {sorted(target.end_ids)}. Serve exactly that target."
        )
    return Reply(text or "", tuple(ids) if ids else None, choice.finish_reason)


def _has_reasoning(message: Any) -> bool:  # noqa: ANN401 - holds what the protocol does not name
    # vLLM calls it reasoning, other servers reasoning_content.
    return any(getattr(message, name, None) for name in ("reasoning", "reasoning_content"))


def _require_same_prompt(
    served: Sequence[int], dialogue: Dialogue, target: Target, place: str
) -> None:
    ours = dialogue.prompt_ids(target)
    if list(served) != ours:
        raise ConfigError(
            f"{place}: the server made {len(served)} prompt tokens, the target's folder makes "
            f"{len(ours)} others of it. Serve it with the same tokenizer, chat template and "
            "thinking mode."
        )


def _read_key(path: Path) -> str:
    try:
        key = read_text(path, max_bytes=MAX_KEY_BYTES).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        # Not the path: somebody may have put the key itself there.
        raise ConfigError(
            f"regenerate.openai.api_key_file cannot be read ({reason}). Give the path of a file "
            "that holds the API key."
        ) from None
    if not key:
        raise ConfigError(f"{path}: holds no API key. Write it there, alone.")
    return key
