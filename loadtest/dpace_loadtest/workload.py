"""WorkloadConfig: where the prompts of one kind come from, and how often they are asked."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpace_serve.config import Config


class WorkloadConfig(Config):
    """One kind of prompts."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,40}$")]
    """Tag of its requests (`vllm_xargs.dpace_workload`); the server must know it, or counts them
    as `other`. For bundled prompts it chooses which: json, csv, sql, dates, units, arithmetic,
    letters or code."""
    share: Annotated[float, Field(gt=0)] = 1.0
    """How often it is drawn, relative to the others."""
    source: Literal["bundled", "file", "synthetic"] = "bundled"
    """The bundled held-out prompts, a JSONL file, or seeded words."""
    file: Path | None = None
    """JSONL file, relative to where the command runs. A line has `messages` (OpenAI),
    `conversations` (ShareGPT), `question` (GSM8K) or `prompt` (HumanEval, or any text)."""
    as_chat: bool = False
    """Whether a `prompt` is asked through the chat template rather than continued."""
    sessions: bool = False
    """Whether the turns of a conversation are asked one after the other, with the server's own
    answers as history; otherwise only its last one is, with the history that the file has."""
    think_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Time between an answer and the next turn of its conversation."""
    min_words: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Shortest synthetic prompt, in words."""
    max_words: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Longest synthetic prompt, in words; lengths between are alike often."""
    num_prompts: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """How many synthetic prompts there are."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer in tokens; none is that of the scenario."""

    @model_validator(mode="after")
    def _consistent(self) -> "WorkloadConfig":
        if (self.source == "file") != (self.file is not None):
            raise ValueError("file and source: file belong together; set both or neither")
        if self.min_words > self.max_words:
            raise ValueError("min_words must not exceed max_words")
        if self.sessions and self.source != "file":
            raise ValueError("sessions need conversations, which only source: file has")
        return self
