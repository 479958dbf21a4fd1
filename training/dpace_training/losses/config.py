"""What is minimised: position weights, token loss, joint term, labels and the reduction."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from dpace_serve.config import Config
from dpace_training.losses.part import Part
from dpace_training.losses.tables import (
    PART_SETTINGS,
    joint_terms,
    list_names,
    require_known,
    table,
    users_in_tables,
)

logger = logging.getLogger(__name__)

WeightingName = Annotated[
    str,
    AfterValidator(partial(require_known, "weighting")),
    Field(json_schema_extra=partial(list_names, "weighting")),
]
DpaceVariant = Literal["full", "cumulative_only", "continuation_only"]
ConfidenceName = Literal["label", "overlap"]
SupportName = Literal["all", "until_first_error"]
TokenLossName = Annotated[
    str,
    AfterValidator(partial(require_known, "token_loss")),
    Field(json_schema_extra=partial(list_names, "token_loss")),
]
JointName = Annotated[
    str,
    AfterValidator(partial(require_known, "joint")),
    Field(json_schema_extra=partial(list_names, "joint")),
]
LabelSource = Literal["data", "target_argmax", "soft"]
ReductionName = Literal["anchor_seq", "batch", "weight_sum", "token", "block"]
RecipeName = Literal[
    "uniform",
    "dflash",
    "dpace",
    "dpace_cumulative",
    "dpace_continuation",
    "positional",
    "first_error",
    "chain",
    "left_to_right",
    "auf",
    "lk",
    "expected_tau",
]

GAMMA_BY_BLOCK_SIZE = {8: 4.0, 10: 5.0, 16: 7.0}
NO_JOINT_TERM = "none"

# What a published objective sets; everything else keeps its default. Sources: training/README.md.
RECIPES: dict[RecipeName, dict[str, Any]] = {
    "uniform": {"weighting": "uniform"},
    "dflash": {"weighting": "exp_decay"},
    "dpace": {"weighting": "dpace"},
    "dpace_cumulative": {"weighting": "dpace", "variant": "cumulative_only"},
    "dpace_continuation": {"weighting": "dpace", "variant": "continuation_only"},
    "positional": {"weighting": "exp_decay", "gamma": 10.0},
    "first_error": {"weighting": "uniform", "first_error_bonus": 0.3},
    "chain": {"weighting": "uniform", "joint": "chain"},
    "left_to_right": {
        "weighting": "exp_decay",
        "gamma": 10.0,
        "first_error_bonus": 0.3,
        "joint": "chain",
    },
    "auf": {"weighting": "uniform", "support": "until_first_error"},
    "lk": {"weighting": "uniform", "token_loss": "lk_hybrid", "labels": "soft"},
    "expected_tau": {"weighting": "exp_decay", "joint": "expected_tau", "labels": "soft"},
}

# These act on every objective; the others act through the parts that look at them.
_ALWAYS_USED = frozenset(
    {
        "recipe",
        "weighting",
        "first_error_bonus",
        "support",
        "token_loss",
        "joint",
        "labels",
        "reduction",
        "blocks_per_chunk",
    }
)


class LossConfig(Config):
    """The objective: position weights times token loss plus a joint term, reduced over blocks."""

    brought_along: ClassVar[Mapping[str, frozenset[str]]] = {
        "recipe": frozenset(name for values in RECIPES.values() for name in values)
    }

    recipe: RecipeName | None = None
    """A published objective by its name; what is set beside it replaces parts of it."""
    weighting: WeightingName = "dpace"
    """How much each draft position counts: `uniform`, `exp_decay` (DFlash), `dpace`, or `reach`."""
    gamma: Annotated[float, Field(gt=0)] | None = None
    """Decay length of `exp_decay` in positions; follows the block size when not given."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Smoothing of `dpace`: 0 is the raw confidence product, 1 a fixed ladder."""
    variant: DpaceVariant = "full"
    """Which factors of the `dpace` weight are kept; the other two are ablations."""
    confidence: ConfidenceName = "label"
    """What `dpace` takes for a position's acceptance: probability of the label, or overlap."""
    first_error_bonus: Annotated[float, Field(ge=0)] = 0.0
    """Added to the weight of the position that ended the run of right drafts."""
    support: SupportName = "all"
    """Train on all positions, or on none after the first wrong draft."""
    token_loss: TokenLossName = "ce"  # noqa: S105  (no password)
    """What a position costs before it is weighted."""
    lk_eta: Annotated[float, Field(ge=0)] = 3.0
    """How fast `lk_hybrid` goes from KL to TV as drafts get accepted."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature of drafter and target in all losses on soft labels."""
    joint: JointName = "none"
    """Term on whole blocks: `chain` of label probabilities or `expected_tau` of overlaps."""
    joint_scale: Annotated[float, Field(gt=0)] | None = None
    """Factor of the joint term; 40 for `chain`, 1 for `expected_tau` and others if not given."""
    labels: LabelSource = "data"
    """The text's own tokens, the target's most likely ones, or its whole distribution."""
    reduction: ReductionName = "anchor_seq"
    """What the summed block losses are divided by."""
    blocks_per_chunk: Annotated[int, Field(ge=1)] = 64
    """Blocks whose logits exist at the same time; only memory and speed depend on it."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_recipe(cls, given: object) -> object:
        recipe = given.get("recipe") if isinstance(given, dict) else None
        if isinstance(given, dict) and isinstance(recipe, str) and recipe in RECIPES:
            return {**RECIPES[recipe], **given}
        return given  # what is no name of one is left for the field's own check

    @model_validator(mode="after")
    def _sets_nothing_in_vain(self) -> "LossConfig":
        from_recipe = RECIPES[self.recipe] if self.recipe is not None else {}
        kept = {name for name, value in from_recipe.items() if getattr(self, name) == value}
        unused = self._unused
        for name in unused:
            field = type(self).model_fields[name]
            # What is written down of a run names every setting, so its default is no mistake; nor
            # is a recipe's own value, for whoever replaces the part that used it.
            if getattr(self, name) != field.default and name not in kept:
                shown = "" if field.default is None else f" (default {field.default})"
                users = _users(name)
                only = " or ".join(f"{key} = {' or '.join(users[key])}" for key in users)
                chosen = " and ".join(f"{key} is {getattr(self, key)}" for key in users)
                raise ValueError(
                    f"{name} = {getattr(self, name)} has no effect: only {only} uses it, and "
                    f"{chosen}. Leave it out{shown}, or change {' or '.join(users)}"
                )
        if self.recipe is not None and kept <= set(unused):
            raise ValueError(
                f"recipe = {self.recipe} has no effect: {', '.join(from_recipe)} is all that it "
                "sets, and stands beside it with another value. Leave out one of them"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> "LossConfig":
        if self.needs_target and self.labels != "soft":
            raise ValueError(
                f"{' and '.join(self._on_soft_labels)} compare the drafter with the target's "
                f'distribution and need labels = "soft", got "{self.labels}"'
            )
        if self.labels == "soft" and not self.needs_target:
            raise ValueError(
                'labels = "soft" changes nothing here: weights and loss look at single tokens '
                'only. Set labels = "target_argmax", which is the same and costs less'
            )
        return self

    @model_validator(mode="after")
    def _warn_of_legal_but_poor_values(self) -> "LossConfig":
        if self.weighting == "dpace" and self.alpha == 0:
            logger.warning(
                "loss.alpha = 0 hardly trains late positions while confidence is low; "
                "0.3 to 0.7 is stable."
            )
        if self.weighting == "exp_decay" and self.gamma is not None and not 2 <= self.gamma <= 20:
            logger.warning("loss.gamma is usually between 2 and 20, got %s.", self.gamma)
        return self

    @property
    def name(self) -> str:
        """The recipe, or the weighting, and what differs from it, such as `dpace alpha=0.3`."""
        base: dict[str, Any] = {"weighting": self.weighting}
        if self.recipe is not None:
            base = {"recipe": self.recipe, **RECIPES[self.recipe]}
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        plain = {**defaults, **base, "blocks_per_chunk": self.blocks_per_chunk}
        changed = [
            f"{name}={value}" for name, value in self.model_dump().items() if value != plain[name]
        ]
        return " ".join([self.recipe or self.weighting, *changed])

    @property
    def needs_target(self) -> bool:
        """Whether the target's distribution is compared with the drafter's."""
        return bool(self._on_soft_labels)

    @property
    def ends_at_first_error(self) -> bool:
        """Whether nothing behind the first wrong draft of a block matters, not even to weights."""
        looks_ahead = any(part.looks_ahead for part in self._parts.values())
        return self.support == "until_first_error" and not looks_ahead

    @property
    def needs_overlap(self) -> bool:
        """Whether the overlap of the two distributions is worked out."""
        compares_overlap = any(part.compares == "overlap" for part in self._parts.values())
        return compares_overlap or self._takes_overlap_for_confidence

    @property
    def has_joint_term(self) -> bool:
        """Whether blocks cost more than their positions."""
        return self.joint != NO_JOINT_TERM

    @property
    def _parts(self) -> dict[str, Part[Any]]:
        """The chosen entries by the setting that names them."""
        return {key: table(key)[getattr(self, key)] for key in PART_SETTINGS}

    @property
    def _unused(self) -> list[str]:
        """Settings that change nothing, whatever their value."""
        return [
            name
            for name in type(self).model_fields
            if name not in _ALWAYS_USED
            and not any(getattr(self, key) in names for key, names in _users(name).items())
        ]

    @property
    def _takes_overlap_for_confidence(self) -> bool:
        return self.confidence == "overlap" and "confidence" not in self._unused

    @property
    def _on_soft_labels(self) -> list[str]:
        found = [
            f"{key} = {getattr(self, key)}"
            for key, part in self._parts.items()
            if part.compares != "nothing"
        ]
        return [*found, "confidence = overlap"] if self._takes_overlap_for_confidence else found

    @property
    def resolved_joint_scale(self) -> float:
        """Factor of the joint term: the given one, or the published one.

        Source:
            Chain: arXiv 2606.11552. Expected tau has no published default.
        """
        if self.joint_scale is not None:
            return self.joint_scale
        return joint_terms()[self.joint].default_scale

    def resolved_gamma(self, num_draft_tokens: int) -> float:
        """The decay length in positions: the given one, or the one that fits the block size.

        Published drafters use 4 at block size 8, 5 at 10 and 7 at 16. Between these sizes gamma
        lies on the straight line; below and above them it is proportional to the block size.

        Source:
            DFlash, arXiv 2602.06036.
        """
        if self.gamma is not None:
            return self.gamma
        return _gamma_for(num_draft_tokens + 1)


def _users(setting: str) -> dict[str, list[str]]:
    """Choices that a setting is for, by the key that makes them; with others it changes nothing."""
    if setting == "temperature":
        return {"labels": ["soft"]}
    if setting == "joint_scale":
        return {"joint": [name for name in joint_terms() if name != NO_JOINT_TERM]}
    return users_in_tables(setting)


def _gamma_for(block_size: int) -> float:
    sizes = sorted(GAMMA_BY_BLOCK_SIZE)
    low = max((size for size in sizes if size <= block_size), default=sizes[0])
    high = min((size for size in sizes if size >= block_size), default=sizes[-1])
    if low >= high:
        return GAMMA_BY_BLOCK_SIZE[low] * block_size / low
    share = (block_size - low) / (high - low)
    return (1 - share) * GAMMA_BY_BLOCK_SIZE[low] + share * GAMMA_BY_BLOCK_SIZE[high]
