"""What one demo run decides: how many prompts, how long the answers, how patient."""

from typing import Annotated

from pydantic import Field

from dpace_serve.config import Config


class DemoSettings(Config):
    """Everything about a demo run except its models."""

    prompts_per_workload: Annotated[int, Field(ge=1)] = 6
    """Held-out prompts sent for each workload."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest answer in tokens."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of the servers, one after the other; a free one when not given."""
    keep_serving: bool = False
    """Leave the last server running until Ctrl-C."""
    dtype: str = "float32"
    """Number format the engine computes in; greedy answers are compared token by token in it."""
    max_model_len: Annotated[int, Field(ge=1)] = 512
    """Longest prompt plus answer in tokens."""
    max_num_seqs: Annotated[int, Field(ge=1)] = 8
    """Requests that the engine may run at the same time."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Coverage of every interval."""
    start_timeout_seconds: Annotated[float, Field(gt=0)] = 300.0
    """How long a server may take until it answers."""
    stop_timeout_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long a server may take to stop before it is killed."""
    request_timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    """How long one answer may take."""
    records_timeout_seconds: Annotated[float, Field(ge=0)] = 5.0
    """How long to wait for the server's record of the last answer."""
