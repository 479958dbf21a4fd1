"""How conversations are read, where their file or dataset does not say it itself."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpace_serve.config import Config

FormatName = Literal["messages", "completion", "sharegpt", "traffic", "capture", "text"]


class InputConfig(Config):
    """How conversations are read, where their file or dataset does not say it itself."""

    format: FormatName | None = None
    """Format of every record; found from the keys of each when not given."""
    columns: dict[str, str] | None = None
    """What the records call the format's keys (`prompt: question`); no others are read then."""
    split: str | None = None
    """Split of a Hugging Face dataset; given, a path that is no file names a dataset of the hub."""
    subset: str | None = None
    """Configuration of a dataset of the hub that has several."""
    revision: str | None = None
    """Commit, tag or branch of a dataset of the hub; its newest when not given."""
    model: str | None = None
    """Name under which the target was served, for captured answers; those of others are left out.
    Not given, all must be of one model."""
    invalid: Literal["refuse", "skip"] = "refuse"
    """Stop at the first record that cannot be read, or count such records and leave them out."""
    text_lines: Annotated[int, Field(ge=1)] | None = None
    """Cut a plain text into documents of this many lines; a text is one when not given."""
    prompt_lines: Annotated[int, Field(ge=0)] = 0
    """First lines of such a document that are its prompt; regeneration needs at least one."""

    @model_validator(mode="after")
    def _leaves_lines_to_learn(self) -> "InputConfig":
        if self.text_lines is not None and self.prompt_lines >= self.text_lines:
            raise ValueError(
                f"prompt_lines must be below text_lines = {self.text_lines}, "
                f"got {self.prompt_lines}"
            )
        return self
