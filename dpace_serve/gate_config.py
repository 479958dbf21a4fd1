"""What `dpace serve` lets clients do: where it listens, for whom, and how much of anything."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from dpace_serve.config import Config


class ObservationConfig(Config):
    """A listener of its own for metrics, live page and drafters, which the main one has no more."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8001
    """Port to listen on."""


class TlsConfig(Config):
    """Encrypted connections, on every port of the server."""

    certificate_file: Path
    """Certificate chain in PEM."""
    key_file: Path
    """Private key of the certificate in PEM, not encrypted; others must not be able to read it."""
    client_ca_file: Path | None = None
    """Authorities in PEM: only clients with a certificate of theirs are let in; none asks for
    none."""


class LimitsConfig(Config):
    """Most that one request may ask for, and most requests at a time."""

    max_body_kilobytes: Annotated[int, Field(ge=1)] = 4096
    """Size of a body in 10^3 bytes, counted while it comes."""
    body_timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    """How long a body may take to come."""
    max_prompt_characters: Annotated[int, Field(ge=1)] = 1_000_000
    """Characters of all prompts or messages of a request; a token id counts as one. What is longer
    is refused before it is cut into tokens."""
    max_prompts: Annotated[int, Field(ge=1)] = 16
    """Prompts of one request."""
    max_output_tokens: Annotated[int, Field(ge=1)] = 32_768
    """Tokens of one answer that a request may ask for; without its asking the engine gives as many
    as its context has room for."""
    max_choices: Annotated[int, Field(ge=1)] = 8
    """Answers to one prompt (`n`). Acceptance is counted where it is 1."""
    max_stops: Annotated[int, Field(ge=0)] = 16
    """Stop strings of a request; the same for its stop tokens and for its bad words."""
    max_stop_characters: Annotated[int, Field(ge=1)] = 256
    """Length of a stop string or bad word."""
    max_listed_tokens: Annotated[int, Field(ge=0)] = 1024
    """Tokens that a request may name: in its logit bias, as allowed ones, for log-probabilities."""
    max_logprobs: Annotated[int, Field(ge=0)] = 20
    """Log-probabilities for each token."""
    max_schema_kilobytes: Annotated[int, Field(ge=1)] = 64
    """Size of all grammars and schemas of a request, tools included, in 10^3 bytes."""
    allow_templates: bool = False
    """Let a request bring its own chat template, which is code, or arguments for the server's."""
    allow_media: bool = False
    """Let a request name images, audio or video, which the server would fetch and decode."""
    allow_prompt_embeds: bool = False
    """Let a request bring tensors in place of a prompt."""
    max_concurrent_answers: Annotated[int, Field(ge=1)] = 256
    """Answers that are being written or wait for it; a request with several prompts or choices
    counts as many. A further request is answered 429."""
    request_deadline_seconds: Annotated[float, Field(gt=0)] = 600.0
    """How long a request may take, from its headers to the end of its answer: then it is ended with
    an error, and the engine is free."""
