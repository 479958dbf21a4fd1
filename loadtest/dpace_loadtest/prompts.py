"""The conversations of each workload of a scenario, from wherever they come."""

import hashlib
import json
import random
from collections.abc import Callable, Sequence

from dpace_loadtest.conversation import Conversation, Message
from dpace_loadtest.prompt_records import RecordedPrompt, read_records
from dpace_loadtest.scenario import ScenarioConfig
from dpace_loadtest.workload import WorkloadConfig
from dpace_serve.demo import bundle
from dpace_serve.demo.prompts import read_prompts
from dpace_serve.errors import ConfigError

# Common words of about one token each, so that a number of words says about how many tokens.
_WORDS = (
    "air all art back bird blue boat book box bread bridge bright call car chair city clean clock "
    "cloud cold corn day deep door dry east eye fair farm fast field fire fish five floor foot "
    "four free game gold good grass green hand head high hill home horse house ice iron key king "
    "lake land late leaf light line long milk moon north old open page part path plan play rain "
    "read red rest ring river road rock room round salt sand sea ship sky snow song south stone "
    "street sun table ten time tree two voice wall warm water west white wind wood word year"
)


def scenario_workloads(scenario: ScenarioConfig) -> tuple[WorkloadConfig, ...]:
    """Its workloads; all bundled ones, alike, where it names none."""
    if scenario.workloads:
        return scenario.workloads
    names = dict.fromkeys(prompt.workload for prompt in read_prompts(bundle.prompts_file()))
    return tuple(WorkloadConfig(name=name) for name in names)


def load_conversations(scenario: ScenarioConfig) -> dict[str, list[Conversation]]:
    """The conversations of each workload, by its name, in a fixed order.

    Raises:
        ConfigError: If a file cannot be read, or the bundled prompts have no such workload.
    """
    return {
        workload.name: SOURCES[workload.source](workload, scenario)
        for workload in scenario_workloads(scenario)
    }


def content_hash(conversations: dict[str, list[Conversation]]) -> str:
    """SHA-256 of all that is asked, so that a report names its prompts."""
    content = [
        (one.workload, one.key, one.is_chat, one.max_tokens, _content(one))
        for group in conversations.values()
        for one in group
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _bundled(workload: WorkloadConfig, scenario: ScenarioConfig) -> list[Conversation]:
    prompts = read_prompts(bundle.prompts_file())
    chosen = [prompt for prompt in prompts if prompt.workload == workload.name]
    if not chosen:
        known = ", ".join(dict.fromkeys(prompt.workload for prompt in prompts))
        raise ConfigError(
            f"workloads: the bundled prompts have {known}, not {workload.name}. "
            "Take one of these, or another source."
        )
    return [
        _conversation(workload, scenario, (), (prompt.text,), is_chat=prompt.is_chat)
        for prompt in chosen
    ]


def _of_file(workload: WorkloadConfig, scenario: ScenarioConfig) -> list[Conversation]:
    assert workload.file is not None  # checked by the configuration  # noqa: S101
    records = read_records(workload.file)
    if workload.as_chat:
        records = [record.as_chat() for record in records]
    return [_recorded(record, workload, scenario) for record in records]


def _recorded(
    record: RecordedPrompt, workload: WorkloadConfig, scenario: ScenarioConfig
) -> Conversation:
    if not record.messages:
        return _conversation(workload, scenario, (), (record.text,), is_chat=False)
    if workload.sessions:
        history = tuple(message for message in record.messages if message.role == "system")
        turns = tuple(message.content for message in record.messages if message.role == "user")
    else:
        history = record.messages[:-1]
        turns = (record.messages[-1].content,)
    return _conversation(workload, scenario, history, turns, is_chat=True)


def _synthetic(workload: WorkloadConfig, scenario: ScenarioConfig) -> list[Conversation]:
    generator = random.Random(f"{scenario.seed}/words/{workload.name}")
    texts = [
        " ".join(
            generator.choices(
                _WORDS.split(), k=generator.randint(workload.min_words, workload.max_words)
            )
        )
        for _ in range(workload.num_prompts)
    ]
    return [
        _conversation(workload, scenario, (), (text,), is_chat=workload.as_chat) for text in texts
    ]


def _conversation(
    workload: WorkloadConfig,
    scenario: ScenarioConfig,
    history: tuple[Message, ...],
    turns: tuple[str, ...],
    *,
    is_chat: bool,
) -> Conversation:
    unnamed = Conversation(
        workload=workload.name,
        key="",
        is_chat=is_chat,
        history=history,
        turns=turns,
        max_tokens=workload.max_tokens or scenario.max_tokens,
        think_seconds=workload.think_seconds,
    )
    digest = hashlib.sha256(json.dumps(_content(unnamed)).encode()).hexdigest()
    return Conversation(
        workload=unnamed.workload,
        key=f"{workload.name}-{digest[:12]}",
        is_chat=is_chat,
        history=history,
        turns=turns,
        max_tokens=unnamed.max_tokens,
        think_seconds=unnamed.think_seconds,
    )


def _content(conversation: Conversation) -> tuple[Sequence[dict[str, str]], Sequence[str]]:
    return [message.to_dict() for message in conversation.history], conversation.turns


SOURCES: dict[str, Callable[[WorkloadConfig, ScenarioConfig], list[Conversation]]] = {
    "bundled": _bundled,
    "file": _of_file,
    "synthetic": _synthetic,
}
