"""Checks of conventions that drafter and target must share, as far as their files tell them.

What a file cannot prove is a note, never a failure: `dpace doctor --replay` measures it.
"""

import json
from pathlib import Path

from dpace_serve.drafter.config import DrafterConfig
from dpace_serve.drafter.finding import Finding
from dpace_serve.drafter.layout import default_target_layer_ids
from dpace_serve.drafter.rotation import describe_rope, rope_differences
from dpace_serve.drafter.safetensors_header import read_header
from dpace_serve.drafter.target import TargetFacts
from dpace_serve.drafter.tokenizer_files import (
    added_token,
    chat_template,
    declared_mask_token_id,
    ordinary_token,
)
from dpace_serve.drafter.weight_files import INDEX_FILE, read_entries, read_json
from dpace_serve.errors import CheckpointError, ConfigError
from dpace_serve.outside_text import MAX_TABLE_BYTES

THINKING_SWITCH = "enable_thinking"
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_MASK_CURE = "Write the mask token the drafter was trained with into dflash_config."


def check_layer_convention(config: DrafterConfig) -> Finding:
    """Layer ids against the usual ones: all one too high or too low is another way to count."""
    check, ids = "layer convention", config.target_layer_ids
    try:
        usual = default_target_layer_ids(config.num_target_layers, len(ids))
    except ConfigError:
        usual = ids
    for offset, habit in ((1, "counts from the embedding"), (-1, "leaves out the first layer")):
        if ids == tuple(layer_id + offset for layer_id in usual):
            message = (
                f"target_layer_ids are {list(ids)}, the usual {list(usual)} {offset:+d}, as by a"
                f" tool that {habit}."
            )
            cure = f"If they come from such a tool, write {list(usual)}; --replay measures it."
            return Finding(check, ok=True, message=message, cure=cure)
    return Finding(check, ok=True, message=f"target_layer_ids are {list(ids)}.")


def check_mask_token(config: DrafterConfig, target: TargetFacts, folder: Path) -> Finding:
    """The mask token: an id that no text of the target holds, and its own mask token if any."""
    check, mask = "mask token", config.mask_token_id
    try:
        problem = _mask_problem(mask, target, folder)
    except CheckpointError as error:
        return Finding(check, ok=False, message=str(error))
    if problem is not None:
        return Finding(check, ok=False, message=problem, cure=_MASK_CURE)
    if not (folder / "tokenizer.json").exists():
        message = f"mask_token_id {mask} could not be compared: the target has no tokenizer.json."
        return Finding(check, ok=True, message=message, cure="Make sure that no text produces it.")
    declared = declared_mask_token_id(folder)
    if declared not in (None, mask):
        message = f"mask_token_id is {mask}, the tokenizer's own mask token is {declared}."
        cure = "Good if the drafter was trained so; --replay measures it."
        return Finding(check, ok=True, message=message, cure=cure)
    return Finding(check, ok=True, message=f"mask_token_id {mask} is unused or special.")


def check_rotation(config: DrafterConfig, target: TargetFacts) -> Finding:
    """Base, share of a head and every parameter of the scaling against the target's."""
    check, own = "rotation", describe_rope(config.rope)
    if target.rope is None:
        message = f"{own}, not compared with the target's: {target.rope_problem}"
        cure = "If the drafter was trained so, it is good; --replay measures it."
        return Finding(check, ok=True, message=message, cure=cure)
    differences = rope_differences(config.rope, target.rope)
    if not differences:
        return Finding(check, ok=True, message=f"{own}, as the target.")
    written = json.dumps(target.rope.to_dict())
    cure = (
        f"Good if the drafter was trained so; else write rope_theta {target.rope.theta:g} and"
        f" rope_parameters {written} into its config.json. --replay measures it."
    )
    return Finding(check, ok=True, message="; ".join(differences) + ".", cure=cure)


def check_head(target: TargetFacts, folder: Path) -> Finding:
    """The head that the drafter borrows: tied to the embedding, or stored by the target."""
    check = "head"
    if target.ties_head:
        return Finding(check, ok=True, message="the target's head is its embedding.")
    try:
        names = _tensor_names(folder)
    except CheckpointError as error:
        return Finding(check, ok=True, message=str(error), cure="The engine may read it.")
    if names and not any(name.endswith("lm_head.weight") for name in names):
        message = "tie_word_embeddings is false, but the target's weights hold no lm_head.weight."
        cure = "Correct the target's config.json, or copy the target again."
        return Finding(check, ok=False, message=message, cure=cure)
    return Finding(check, ok=True, message="the target has a head of its own.")


def check_chat_template(config: DrafterConfig, folder: Path) -> Finding:
    """The chat template: it must be there, and its thinking mode the one of the training."""
    check = "chat template"
    try:
        template = chat_template(folder)
    except CheckpointError as error:
        return Finding(check, ok=False, message=str(error))
    if template is None:
        message = "the target has no chat template, so it answers plain prompts only."
        cure = "If it was trained on chats, copy chat_template.jinja beside its config.json."
        return Finding(check, ok=True, message=message, cure=cure)
    trained = config.enable_thinking
    if THINKING_SWITCH not in template:
        if trained is None:
            return Finding(check, ok=True, message="the chat template has no thinking mode.")
        message = f"the drafter was trained with {THINKING_SWITCH}, which the template lacks."
        return Finding(check, ok=False, message=message, cure="Copy the target's template again.")
    if trained is None:
        message = f"the chat template has a thinking mode ({THINKING_SWITCH})."
        cure = "Serve it as in training: a drafter that never saw thinking drafts it badly."
        return Finding(check, ok=True, message=message, cure=cure)
    switched = "true" if trained else "false"
    told = f"{THINKING_SWITCH} = {switched}"
    cure = f'Serve it so: chat_template_kwargs {{"{THINKING_SWITCH}": {switched}}} in requests.'
    return Finding(check, ok=True, message=f"the drafter was trained with {told}.", cure=cure)


def check_dtype(drafter_dir: Path, target: TargetFacts) -> Finding:
    """Number format of the drafter's weights against the target's."""
    check = "number format"
    stored = {_DTYPES[entry.dtype] for entry in read_entries(drafter_dir).values()}
    found = ", ".join(sorted(stored))
    if target.dtype is None or stored == {target.dtype}:
        return Finding(check, ok=True, message=f"the drafter's weights are {found}.")
    message = f"the drafter's weights are {found}, the target's {target.dtype}."
    cure = f"The engine converts them: export in {target.dtype} to serve what you measured."
    return Finding(check, ok=True, message=message, cure=cure)


def _tensor_names(folder: Path) -> set[str]:
    index = folder / INDEX_FILE
    if index.exists():  # shards may be missing where only a part was downloaded
        weight_map = read_json(index, max_bytes=MAX_TABLE_BYTES).get("weight_map")
        return set(weight_map) if isinstance(weight_map, dict) else set()
    return {name for file in folder.glob("*.safetensors") for name in read_header(file)}


def _mask_problem(mask: int, target: TargetFacts, folder: Path) -> str | None:
    if mask >= target.vocab_size:
        return f"mask_token_id must be below the target's {target.vocab_size}, got {mask}."
    if mask in target.eos_token_ids:
        return f"mask_token_id must not be the target's end of text, got {mask}."
    if not (folder / "tokenizer.json").exists():
        return None
    text = ordinary_token(folder, mask)
    if text is not None:
        return f"mask_token_id must be an unused or special token, {mask} is {text!r}."
    added, template = added_token(folder, mask), chat_template(folder)
    if added is not None and template is not None and added in template:
        return f"mask_token_id must not stand in texts, the chat template writes {mask}, {added!r}."
    return None
