"""Requests that leave a drafter room for a block, and what is done for all others of a step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vllm.v1.attention.backends.utils import PAD_SLOT_ID

from dpace_serve.vllm_engine.row_batch import DraftInputs

if TYPE_CHECKING:
    from vllm.config import SpeculativeConfig
    from vllm.v1.spec_decode.dflash import DFlashProposer


def rows_with_room(
    lengths: Sequence[int], speculation: "SpeculativeConfig", max_model_len: int
) -> list[int]:
    """Rows of the requests that can be drafted for.

    Args:
        lengths: Tokens of each sequence after the step, its drafts taken as accepted.
        speculation: The engine's configuration of speculation.
        max_model_len: The longest sequence of the target, where the drafter names none.
    """
    limit = speculation.draft_model_config.max_model_len or max_model_len
    # The drafter reads the bonus token beside the positions that it drafts.
    num_block_tokens = 1 + speculation.num_speculative_tokens
    rows = [row for row, length in enumerate(lengths) if length + num_block_tokens <= limit]
    # Sampled drafts are verified by their probabilities, which vLLM keeps for whole batches only.
    is_whole_batch = speculation.draft_sample_method == "probabilistic"
    return [] if is_whole_batch and len(rows) < len(lengths) else rows


def read_context(proposer: "DFlashProposer", inputs: DraftInputs) -> None:
    """Store a drafter's keys and values of a step's tokens, without a draft.

    Later blocks of these requests attend to them, and so do those of others through the prefix
    cache.

    Args:
        proposer: The drafter's proposer.
        inputs: The requests to read.
    """
    positions, limit = inputs.text_positions, proposer.draft_model_config.max_model_len
    # Beyond the drafter's own limit its rotation has no angles; nothing attends to these places.
    slots = inputs.attention.slot_mapping[: positions.shape[0]]
    slots = slots.masked_fill(positions >= limit, PAD_SLOT_ID)
    states = proposer.model.combine_hidden_states(inputs.hidden_states)
    proposer.model.precompute_and_store_context_kv(states, positions.clamp(max=limit - 1), slots)
