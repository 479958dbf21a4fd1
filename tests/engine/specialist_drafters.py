"""Drafters with position specialists that are no copies of each other, made from a bundled one."""

from dataclasses import replace

from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.specialists import Specialists

KINDS = {
    f"{kind}-{group_size}": Specialists(kind, group_size, rank)
    for kind, rank in (("low_rank", 16), ("last_layer", 0))
    for group_size in (1, 2, 3)
}


def make(folder, specialists, *, source="dpace", seed=0):
    """Write one: the bundled drafter, with specialists that each draft in a way of their own."""
    import torch

    from dpace_training.drafter.model import BlockDrafter

    config = replace(checkpoint.read_config(bundle.drafter_folder(source)), specialists=specialists)
    plain = checkpoint.read_tensors(bundle.drafter_folder(source))
    drafter = BlockDrafter(config)
    random = torch.Generator().manual_seed(seed)

    def noise(weight):
        return torch.randn(weight.shape, generator=random)

    tensors = {}
    for name, weight in drafter.state_dict().items():
        if name.endswith("adapter_in.weight"):
            tensors[name] = noise(weight) / weight.shape[2] ** 0.5
        elif name.endswith("adapter_out.weight"):
            tensors[name] = 0.3 * noise(weight)
        elif name.startswith("specialists."):
            last = name.replace("specialists", f"layers.{config.num_hidden_layers - 1}", 1)
            tensors[name] = plain[last].float().expand(weight.shape) * (1 + 0.3 * noise(weight))
        else:
            tensors[name] = plain[name].float()
    checkpoint.write(folder, config, tensors)
    return folder


def shortened(drafter, num_draft_tokens):
    """The training model of a drafter whose blocks end early; no later group is left."""
    from dpace_training.drafter.model import BlockDrafter

    specialists = drafter.config.specialists
    size = min(specialists.group_size, num_draft_tokens)
    config = replace(
        drafter.config,
        block_size=num_draft_tokens + 1,
        specialists=replace(specialists, group_size=size),
    )
    short = BlockDrafter(config)
    kept = {name: weight.shape for name, weight in short.state_dict().items()}
    short.load_state_dict(
        {name: weight[: kept[name][0]] for name, weight in drafter.state_dict().items()}
    )
    return short.requires_grad_(False).eval()
