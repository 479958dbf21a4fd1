"""Answers of a target that runs in vLLM beside this process; token ids come from the engine."""

from collections.abc import Generator, Sequence, Set
from typing import Any

from dpace_serve.errors import ConfigError
from dpace_serve.vllm_engine.offline import OfflineEngine
from dpace_serve.vllm_engine.offline_calls import EngineSettings, GenerationRequest
from dpace_training.config import OfflineEngineConfig, RegenerateConfig
from dpace_training.data.answers import take_answer
from dpace_training.data.conversations import Document
from dpace_training.data.dialogue import Dialogue
from dpace_training.data.target_model import Target

# The engine fills its batch anew as answers end; only at the end of a group does it run dry. It
# hands answers on as they end, so the size of a group holds none of them back.
BATCHES_PER_GROUP = 16


class EngineWriter:
    """Answers by vLLM; the engine runs while answers are missing."""

    def __init__(
        self, target: Target, config: RegenerateConfig, engine: OfflineEngineConfig
    ) -> None:
        self._target = target
        self._config = config
        self._engine = engine
        limit = target.max_positions
        self._max_model_len = engine.max_model_len or limit
        if self._max_model_len > limit:
            raise ConfigError(
                f"data.vllm.max_model_len must be at most the target's {limit} positions, got "
                f"{self._max_model_len}. Lower it."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on: not on batches, since every answer has its own seed."""
        names = {"backend", "temperature", "max_new_tokens", "seed"}
        longest = {"max_model_len": self._max_model_len}
        return self._config.model_dump(mode="json", include=names) | longest

    @property
    def max_length(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self._max_model_len

    def write(
        self, documents: Sequence[Document], known: Set[int]
    ) -> Generator[list[Document], None, None]:
        """Answer groups of documents; each is yielded when its last answer is there."""
        missing = [document for document in documents if document.document_id not in known]
        if not missing:
            return
        with OfflineEngine(self._settings()) as engine:
            size = self._config.batch_size * BATCHES_PER_GROUP
            for start in range(0, len(missing), size):
                group = missing[start : start + size]
                yield from self._finished(engine, [Dialogue(document) for document in group])

    def _settings(self) -> EngineSettings:
        return EngineSettings(
            target=self._target.folder,
            dtype=str(self._target.model.dtype).removeprefix("torch."),
            max_model_len=self._max_model_len,
            max_num_seqs=self._config.batch_size,
            tensor_parallel_size=self._engine.tensor_parallel_size,
            gpu_memory_utilization=self._engine.gpu_memory_utilization,
            eager=self._engine.eager,
            export=None,
        )

    def _finished(
        self, engine: OfflineEngine, dialogues: Sequence[Dialogue]
    ) -> Generator[list[Document], None, None]:
        active = list(dialogues)
        while asked := [(one, ask) for one in active if (ask := self._request(one)) is not None]:
            if without_room := [one.document for one in active if not one.is_open]:
                yield without_room
            active = [dialogue for dialogue, _ in asked]
            requests = [request for _, request in asked]
            for answers in engine.generate(
                requests, temperature=self._config.temperature, end_ids=self._target.end_ids
            ):
                for answer in answers:
                    take_answer(self._target, active[answer.place], answer.token_ids)
                ended = [active[answer.place] for answer in answers]
                if finished := [one.document for one in ended if not one.is_open]:
                    yield finished
            active = [dialogue for dialogue in active if dialogue.is_open]
        if active:
            yield [dialogue.document for dialogue in active]

    def _request(self, dialogue: Dialogue) -> GenerationRequest | None:
        """What to ask next; None where the dialogue is finished or has no room left."""
        if not dialogue.is_open:
            return None
        prompt = dialogue.prompt_ids(self._target)
        room = self._max_model_len - len(prompt)
        if room < 1:
            dialogue.close()
            return None
        return GenerationRequest(
            prompt_ids=tuple(prompt),
            max_tokens=min(self._config.max_new_tokens, room),
            seed=dialogue.seed(self._config.seed),
        )
