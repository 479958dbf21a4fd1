"""What a demo run serves: its models, its arms, and the command that serves one of them."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from dpace_serve.demo import bundle
from dpace_serve.demo.server_process import HOST
from dpace_serve.demo.settings import DemoSettings
from dpace_serve.errors import CheckpointError
from dpace_serve.serve_config import ServeConfig

TARGET_NAME = "dpace-demo"
NO_DRAFTER = "none"
BUNDLED_DRAFTERS = ("dflash", "dpace")


@dataclass(frozen=True, slots=True)
class DemoModels:
    """Folders and files of the run.

    Attributes:
        target: Folder of the target.
        drafters: Folder of each drafter, by the name of its arm, in the order of the run.
        prompts: JSONL file of held-out prompts.
    """

    target: Path
    drafters: dict[str, Path]
    prompts: Path


def bundled_models() -> DemoModels:
    """The models that come with the package.

    Raises:
        CheckpointError: If one of them is missing.
    """
    models = DemoModels(
        target=bundle.target_folder(),
        drafters={name: bundle.drafter_folder(name) for name in BUNDLED_DRAFTERS},
        prompts=bundle.prompts_file(),
    )
    for path in (models.target, *models.drafters.values(), models.prompts):
        if not path.exists():
            raise CheckpointError(
                f"{path}: the demo's models must be there, this one is missing. "
                "Install the package again, or make them with `make models`."
            )
    return models


def serve_configs(models: DemoModels, settings: DemoSettings) -> dict[str, ServeConfig]:
    """How each arm is served, the one without speculation first; ports are still the default."""
    arms: dict[str, Path | None] = {NO_DRAFTER: None, **models.drafters}
    return {
        name: ServeConfig(
            target=str(models.target),
            drafter=drafter,
            drafter_name=name if drafter is not None else None,
            served_model_name=TARGET_NAME,
            host=HOST,
            dtype=settings.dtype,
            eager=True,
            spare_drafter_slots=0,
            engine_args=(
                f"--max-model-len={settings.max_model_len}",
                f"--max-num-seqs={settings.max_num_seqs}",
            ),
        )
        for name, drafter in arms.items()
    }


def serve_command(config: ServeConfig) -> list[str]:
    """The command line that serves a configuration with this interpreter."""
    values = config.model_dump(mode="json", exclude_defaults=True, exclude={"target"})
    engine_args = values.pop("engine_args", [])
    # YAML cannot read the escapes that JSON writes for characters past the first 65536.
    settings = [
        part
        for key, value in values.items()
        for part in ("--set", f"{key}={json.dumps(value, ensure_ascii=False)}")
    ]
    serve = [sys.executable, "-m", "dpace_serve.cli", "serve", config.target]
    return [*serve, *settings, "--", *engine_args]
