"""What each field of the engines' requests may do to a server.

A contract test for each engine compares this with the fields of its own classes, so that a version
with a new field is looked at before it is served.
"""

from collections.abc import Mapping
from typing import Literal

FieldKind = Literal[
    "harmless", "prompt", "messages", "embeds", "choices", "length", "stops", "logprobs", "tokens",
    "schema", "template", "media", "id", "internal",
]  # fmt: skip
"""harmless: bounded by the size of the body; prompt, messages: text, of bounded length; embeds:
tensors; choices: number of answers; length: number of tokens; stops: strings or tokens looked for
at every step; logprobs: number for each token; tokens: a list of tokens; schema: compiled to a
grammar; template: code that is run, and what is given to it; media: fetched and decoded; id: a name
in logs; internal: between engines, read by nobody but their operators, or a way to harm the others.

SGLang ends every request whose `rid` begins with that of one whose client has left, searches for a
`stop_regex` between the steps, where a pattern that backtracks stops them all, and has thousands of
numbers for each token in a sampling mask.
"""


def _kinds(**names: str) -> dict[str, FieldKind]:
    kinds: dict[str, FieldKind] = {}
    for kind, fields in names.items():
        kinds.update(dict.fromkeys(fields.split(), kind))  # type: ignore[arg-type]  # its literals
    return kinds


FIELD_KINDS: Mapping[str, FieldKind] = _kinds(
    prompt="prompt suffix input_ids",
    messages="messages",
    embeds="prompt_embeds",
    choices="n best_of",
    length="max_tokens max_completion_tokens max_output_tokens min_tokens thinking_token_budget",
    stops="stop stop_token_ids bad_words",
    logprobs="logprobs top_logprobs prompt_logprobs",
    tokens="logit_bias allowed_token_ids logprob_token_ids",
    schema="response_format structured_outputs tools regex ebnf json_schema",
    template="chat_template chat_template_kwargs documents",
    media=(
        "mm_payload media_io_kwargs mm_processor_kwargs return_mm_kwargs images_config "
        "video_config use_audio_in_video max_dynamic_patch min_dynamic_patch"
    ),
    id="request_id session_id",
    internal=(
        "kv_transfer_params ec_transfer_params bootstrap_host bootstrap_port bootstrap_room "
        "data_parallel_rank routed_dp_rank disagg_prefill_dp_rank custom_logit_processor "
        "session_params return_hidden_states return_routed_experts routed_experts_start_len "
        "routed_experts_prompt_start lora_path priority custom_labels rid stop_regex "
        "return_sampling_mask sampling_logprobs_mode"
    ),
    harmless=(
        "add_generation_prompt add_special_tokens cache_salt continue_final_message custom_params "
        "echo extra_key frequency_penalty ignore_eos include_reasoning include_stop_str_in_output "
        "length_penalty min_p model no_stop_trim parallel_tool_calls presence_penalty reasoning "
        "reasoning_effort repetition_detection repetition_penalty return_cached_tokens_details "
        "return_flat_raw_output_top_logprobs return_flat_raw_top_logprobs_b64 "
        "return_input_ids_in_sglext return_meta_info return_output_ids_in_sglext "
        "return_prompt_text return_prompt_token_ids return_spec_tokens_details return_token_ids "
        "return_token_offsets return_tokens_as_token_ids seed separate_reasoning "
        "skip_special_tokens spaces_between_special_tokens stream stream_interval stream_options "
        "stream_reasoning task temperature thinking tool_choice top_k top_p "
        "truncate_prompt_tokens truncation_side use_beam_search user vllm_xargs watermark "
        "watermarking"
    ),
)
"""Kind of each field; one that is not here no engine knows."""
