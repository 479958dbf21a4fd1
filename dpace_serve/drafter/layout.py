"""The z-lab layout: names and shapes of a drafter's tensors, and its choice of target layers."""

from collections.abc import Mapping

from dpace_serve.drafter.config import DrafterConfig
from dpace_serve.drafter.safetensors_header import TensorEntry
from dpace_serve.drafter.specialists import SECTION, specialist_shapes
from dpace_serve.errors import CheckpointError, ConfigError

WEIGHT_DTYPES = ("F32", "BF16", "F16")
# What other layouts may carry beside a drafter's own tensors.
TARGET_TENSORS = ("embed_tokens.weight", "lm_head.weight")
DRAFT_VOCABULARY = ("d2t", "t2d")
_NUM_NAMED = 3


def default_target_layer_ids(num_target_layers: int, num_taps: int) -> tuple[int, ...]:
    """Spread the taps from the target's second layer to its third-last.

    Ids count decoder layers from 0; rounding is half to even.

    Raises:
        ConfigError: If the target is too shallow for that many different taps.

    Source:
        DFlash, arXiv 2602.06036, and the checkpoints published with it.
    """
    # Several taps need a layer each between the second and the third-last.
    shallowest = 1 if num_taps == 1 else num_taps + 3
    if num_taps < 1 or num_target_layers < shallowest:
        raise ConfigError(
            f"num_taps must be at least 1 and at most the target's layers - 3 (the target has"
            f" {num_target_layers}), got {num_taps}. Take fewer taps or name the layers yourself."
        )
    if num_taps == 1:
        return (num_target_layers // 2,)
    span = num_target_layers - 4
    return tuple(round(1 + tap * span / (num_taps - 1)) for tap in range(num_taps))


def tensor_shapes(config: DrafterConfig) -> dict[str, tuple[int, ...]]:
    """The exact set of tensors of a drafter, each with its shape; linear weights are [out, in]."""
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (hidden, len(config.target_layer_ids) * config.target_hidden_size),
        "hidden_norm.weight": (hidden,),
        "norm.weight": (hidden,),
    }
    layer_shapes = _layer_shapes(config)
    for layer in range(config.num_hidden_layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in layer_shapes.items()}
    if config.specialists is None:
        return shapes
    own = specialist_shapes(
        config.specialists,
        num_draft_tokens=config.num_draft_tokens,
        hidden_size=hidden,
        layer_shapes=layer_shapes,
    )
    # What each group has of its own is not there a second time.
    last = f"layers.{config.num_hidden_layers - 1}."
    replaced = {name.replace(f"{SECTION}.", last, 1) for name in own}
    return {name: shape for name, shape in shapes.items() if name not in replaced} | own


def check_layout(config: DrafterConfig, entries: Mapping[str, TensorEntry]) -> None:
    """Compare tensors with the exact set that the configuration asks for.

    Raises:
        CheckpointError: On an unknown or missing tensor, a wrong shape or a wrong number format;
            the text names the first offenders.
    """
    expected = tensor_shapes(config)
    unknown = sorted(entries.keys() - expected.keys())
    if unknown:
        raise CheckpointError(
            f"a drafter holds only its own layers, found unknown {_first(unknown)}."
            f" {_cure_unknown(unknown)}"
        )
    missing = sorted(expected.keys() - entries.keys())
    if missing:
        raise CheckpointError(
            f"every tensor of the layout must be there, missing {_first(missing)}."
            " Export the drafter again, or correct the sizes in config.json."
        )
    wrong_shape = [
        f"{name} {list(entries[name].shape)} instead of {list(shape)}"
        for name, shape in sorted(expected.items())
        if entries[name].shape != shape
    ]
    if wrong_shape:
        raise CheckpointError(
            f"shapes must follow config.json, found {_first(wrong_shape)}."
            " Put the config.json of this drafter beside its weights."
        )
    _check_dtypes(entries)


def _layer_shapes(config: DrafterConfig) -> dict[str, tuple[int, ...]]:
    hidden, head_dim = config.hidden_size, config.head_dim
    query, key = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    outputs = {"q_proj": query, "k_proj": key, "v_proj": key, "o_proj": hidden}
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_norm.weight": (head_dim,),
        "self_attn.k_norm.weight": (head_dim,),
        "mlp.gate_proj.weight": (config.intermediate_size, hidden),
        "mlp.up_proj.weight": (config.intermediate_size, hidden),
        "mlp.down_proj.weight": (hidden, config.intermediate_size),
    }
    for name, width in outputs.items():
        shapes[f"self_attn.{name}.weight"] = (width, query if name == "o_proj" else hidden)
        if config.attention_bias:
            shapes[f"self_attn.{name}.bias"] = (width,)
    return shapes


def _check_dtypes(entries: Mapping[str, TensorEntry]) -> None:
    formats = sorted(f"{name} {entry.dtype}" for name, entry in entries.items())
    wrong = [
        f"{name} {entry.dtype}"
        for name, entry in sorted(entries.items())
        if entry.dtype not in WEIGHT_DTYPES
    ]
    if wrong:
        raise CheckpointError(
            f"weights must be one of {', '.join(WEIGHT_DTYPES)}, found {_first(wrong)}."
            " Convert them and export again."
        )
    present = sorted({entry.dtype for entry in entries.values()})
    if len(present) > 1:
        examples = [next(line for line in formats if line.endswith(f" {d}")) for d in present]
        raise CheckpointError(
            f"all weights must have one number format, found {_first(examples)}."
            " Convert them and export again."
        )


def _cure_unknown(unknown: list[str]) -> str:
    if all(name.startswith("model.") for name in unknown):
        return "Export with plain names: without the prefix `model.`."
    if any(name in DRAFT_VOCABULARY for name in unknown):
        return "A reduced vocabulary is not supported: give a drafter with the full one."
    if any(name in TARGET_TENSORS for name in unknown):
        return "Remove them: embedding and head are the target's. `dpace export` does."
    return "Remove them, or correct the sizes in config.json."


def _first(names: list[str]) -> str:
    rest = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
