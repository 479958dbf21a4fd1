"""Answers of a target behind an OpenAI-compatible server, many documents at the same time."""

import logging
from collections.abc import Generator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from dpace_serve.errors import ConfigError, EngineError
from dpace_training.config import RegenerateConfig
from dpace_training.data.answers import take_answer
from dpace_training.data.conversations import Conversation, Document
from dpace_training.data.dialogue import Dialogue
from dpace_training.data.endpoint import Endpoint, Reply, connect
from dpace_training.data.target_model import Target

logger = logging.getLogger(__name__)

Answered = tuple[Document, bool]
"""A document and whether the server told the token ids of all its answers."""


class EndpointWriter:
    """Answers by a server; conversations go turn by turn."""

    def __init__(self, target: Target, config: RegenerateConfig) -> None:
        if config.openai is None:
            raise TypeError("no endpoint in the configuration")
        self._target = target
        self._config = config
        self._endpoint = config.openai

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on; the same model may be served at another address."""
        names = {"backend", "temperature", "max_new_tokens", "seed"}
        model = {"model": self._endpoint.model}
        return self._config.model_dump(mode="json", include=names) | model

    @property
    def max_length(self) -> int:
        """The target's own limit; the server may have a lower one, and says so."""
        return self._target.max_positions

    def write(
        self, documents: Sequence[Document], known: Set[int]
    ) -> Generator[list[Document], None, None]:
        """Answer documents; each is yielded when its last answer is there.

        What is under way when one fails is finished and yielded first.
        """
        missing = [document for document in documents if document.document_id not in known]
        if not missing:
            return
        pool = ThreadPoolExecutor(self._endpoint.max_concurrency)
        try:
            with connect(self._endpoint) as client:
                endpoint = Endpoint(client, self._target, self._config)
                futures = [pool.submit(self._answered, endpoint, one) for one in missing]
                yield from self._finished(futures)
        finally:
            pool.shutdown(cancel_futures=True)

    def _finished(
        self, futures: Sequence[Future[Answered]]
    ) -> Generator[list[Document], None, None]:
        failure: ConfigError | EngineError | None = None
        is_told = True
        for future in as_completed(futures):
            if future.cancelled():
                continue
            try:
                document, has_ids = future.result()
            except (ConfigError, EngineError) as error:
                failure = failure or error
                for other in futures:
                    other.cancel()
                continue
            if is_told and not has_ids:
                is_told = False
                logger.warning(
                    "%s returns no token ids: answers are encoded again from their text, which may "
                    "give other ids than the target wrote. A vLLM server returns them.",
                    self._endpoint.base_url,
                )
            yield [document]
        if failure is not None:
            raise failure

    def _answered(self, endpoint: Endpoint, document: Document) -> Answered:
        dialogue, has_ids = Dialogue(document), True
        while dialogue.is_open:
            reply = endpoint.ask(dialogue)
            if reply.ids is not None:
                take_answer(self._target, dialogue, reply.ids)
            else:
                has_ids = False
                is_complete = reply.finish_reason == "stop"
                dialogue.answer(reply.text, self._encoded(document, reply), is_complete=is_complete)
        return dialogue.document, has_ids

    def _encoded(self, document: Document, reply: Reply) -> tuple[int, ...] | None:
        """Token ids of a text; None where the chat template makes them, as for any given text."""
        tokenizer = self._target.tokenizer
        is_complete = reply.finish_reason == "stop"
        if is_complete and isinstance(document, Conversation):
            return None
        ids: list[int] = tokenizer.encode(reply.text, add_special_tokens=False)
        if is_complete and tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        return tuple(ids) or None
