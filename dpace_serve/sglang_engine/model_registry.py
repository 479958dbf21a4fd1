"""Our model among SGLang's, by the architecture that drafters with position specialists name.

SGLang takes models of others from one package that a variable names, which may be another's
already. So the model is written into the registry, in every process that loads the plugin.
"""

from dpace_serve.drafter.config_keys import SPECIALIST_ARCHITECTURE
from dpace_serve.errors import EngineError


def register() -> None:
    """Add the model.

    Raises:
        EngineError: If the architecture is taken already.
    """
    from sglang.srt.models.registry import ModelRegistry

    from dpace_serve.sglang_engine.specialist_model import SpecialistDraftModel

    found = ModelRegistry.models.setdefault(SPECIALIST_ARCHITECTURE, SpecialistDraftModel)
    if found is not SpecialistDraftModel:
        raise EngineError(
            f"the architecture {SPECIALIST_ARCHITECTURE} must be ours, got {found} for it. Leave "
            "that model out of SGLANG_EXTERNAL_MODEL_PACKAGE."
        )


def not_registered() -> list[str]:
    """The architecture, where SGLang would take another model for it in this process."""
    from sglang.srt.models.registry import ModelRegistry

    from dpace_serve.sglang_engine.specialist_model import SpecialistDraftModel

    found, _ = ModelRegistry.resolve_model_cls([SPECIALIST_ARCHITECTURE])
    return [] if found is SpecialistDraftModel else [SPECIALIST_ARCHITECTURE]
