"""What the two processes of a tuning engine say to each other."""

from dataclasses import dataclass

from dpace_serve.acceptance.cost import LengthRange


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a chat, in the words of the OpenAI API."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class TuningPrompt:
    """What the target is asked.

    Attributes:
        place: File and line, for error messages.
        asked: A chat, sent through the target's template, or a text, continued as it stands.
    """

    place: str
    asked: tuple[ChatMessage, ...] | str


@dataclass(frozen=True, slots=True)
class PrepareCall:
    """Brings the prompts and the longest answer in tokens."""

    prompts: tuple[TuningPrompt, ...]
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine is, and the most requests that it runs at a time."""

    engine: str
    device: str
    max_num_seqs: int


@dataclass(frozen=True, slots=True)
class TrafficCall:
    """Asks for answers to the prompts at these places, `batch_size` at a time.

    Each prompt follows as soon as an answer has ended, so that the batch stays full until the last
    ones. `ranges` says how many tokens are drafted; at `temperature` 0 the answers are greedy.
    """

    ranges: tuple[LengthRange, ...]
    batch_size: int
    places: tuple[int, ...]
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class TunedAnswer:
    """One answer: accepted draft tokens and steps, those without drafts among them."""

    place: int
    accepted: int
    steps: int


@dataclass(frozen=True, slots=True)
class TrafficRun:
    """What the answers took.

    Attributes:
        answers: One for each prompt, as they ended.
        num_tokens: Tokens of all answers.
        seconds: From the first prompt to the end of the last answer.
        full_step_seconds: Times of the steps that had all requests, equally long drafts and no
            prompt; none where the lengths depend on the batch size.
    """

    answers: tuple[TunedAnswer, ...]
    num_tokens: int
    seconds: float
    full_step_seconds: tuple[float, ...]
