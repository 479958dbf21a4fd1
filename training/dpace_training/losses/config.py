"""What is minimised: position weights, token loss, joint term, labels and the reduction."""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dpace_serve.config import Config

logger = logging.getLogger(__name__)

WeightingName = Literal["uniform", "exp_decay", "dpace", "reach"]
DpaceVariant = Literal["full", "cumulative_only", "continuation_only"]
ConfidenceName = Literal["label", "overlap"]
SupportName = Literal["all", "until_first_error"]
TokenLossName = Literal["ce", "kl", "tv", "neg_log_acceptance", "lk_hybrid"]
JointName = Literal["none", "chain", "expected_tau"]
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
DEFAULT_JOINT_SCALE: dict[JointName, float] = {"chain": 40.0, "expected_tau": 1.0}

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

# What a setting is for; with another choice it changes nothing.
_USED_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "gamma": ("weighting", ("exp_decay",)),
    "alpha": ("weighting", ("dpace",)),
    "variant": ("weighting", ("dpace",)),
    "confidence": ("weighting", ("dpace",)),
    "lk_eta": ("token_loss", ("lk_hybrid",)),
    "temperature": ("labels", ("soft",)),
    "joint_scale": ("joint", ("chain", "expected_tau")),
}


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
    """Factor of the joint term; 40 for `chain` and 1 for `expected_tau` when not given."""
    labels: LabelSource = "data"
    """The text's own tokens, the target's most likely ones, or its whole distribution."""
    reduction: ReductionName = "anchor_seq"
    """What the summed block losses are divided by."""
    blocks_per_chunk: Annotated[int, Field(ge=1)] = 64
    """Blocks whose logits exist at the same time; only memory and speed depend on it."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_recipe(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("recipe") in RECIPES:
            return {**RECIPES[given["recipe"]], **given}
        return given  # a wrong name is left for the field's own check

    @model_validator(mode="after")
    def _sets_nothing_in_vain(self) -> "LossConfig":
        from_recipe = RECIPES[self.recipe] if self.recipe is not None else {}
        kept = {name for name, value in from_recipe.items() if getattr(self, name) == value}
        for name in self._unused:
            key, choices = _USED_BY[name]
            default = type(self).model_fields[name].default
            # What is written down of a run names every setting, so its default is no mistake; nor
            # is a recipe's own value, for whoever replaces the part that used it.
            if getattr(self, name) != default and name not in kept:
                shown = "" if default is None else f" (default {default})"
                raise ValueError(
                    f"{name} = {getattr(self, name)} has no effect: only {key} = "
                    f"{' or '.join(choices)} uses it, and {key} is {getattr(self, key)}. "
                    f"Leave it out{shown}, or change {key}"
                )
        if self.recipe is not None and kept <= self._unused:
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
        if self.joint != "none" and self.reduction == "weight_sum":
            raise ValueError(
                f'reduction = "weight_sum" divides by the weights, and joint = "{self.joint}" has '
                'none. Choose "anchor_seq" or another reduction'
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
        looks_ahead = self.weighting == "dpace" or self.joint != "none"
        return self.support == "until_first_error" and not looks_ahead

    @property
    def needs_overlap(self) -> bool:
        """Whether the overlap of the two distributions is worked out."""
        return (
            self.token_loss in ("tv", "neg_log_acceptance", "lk_hybrid")
            or self.joint == "expected_tau"
            or (self.weighting == "dpace" and self.confidence == "overlap")
        )

    @property
    def _unused(self) -> set[str]:
        """Settings that change nothing, whatever their value."""
        return {
            name for name, (key, choices) in _USED_BY.items() if getattr(self, key) not in choices
        }

    @property
    def _on_soft_labels(self) -> list[str]:
        conditions = {
            f"token_loss = {self.token_loss}": self.token_loss != "ce",  # noqa: S105
            f"joint = {self.joint}": self.joint == "expected_tau",
            "weighting = reach": self.weighting == "reach",
            "confidence = overlap": self.weighting == "dpace" and self.confidence == "overlap",
        }
        return [name for name, holds in conditions.items() if holds]

    @property
    def resolved_joint_scale(self) -> float:
        """Factor of the joint term: the given one, or the published one.

        Source:
            Chain: arXiv 2606.11552. Expected tau has no published default.
        """
        if self.joint_scale is not None:
            return self.joint_scale
        return DEFAULT_JOINT_SCALE.get(self.joint, 0.0)

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


def _gamma_for(block_size: int) -> float:
    sizes = sorted(GAMMA_BY_BLOCK_SIZE)
    low = max((size for size in sizes if size <= block_size), default=sizes[0])
    high = min((size for size in sizes if size >= block_size), default=sizes[-1])
    if low >= high:
        return GAMMA_BY_BLOCK_SIZE[low] * block_size / low
    share = (block_size - low) / (high - low)
    return (1 - share) * GAMMA_BY_BLOCK_SIZE[low] + share * GAMMA_BY_BLOCK_SIZE[high]
