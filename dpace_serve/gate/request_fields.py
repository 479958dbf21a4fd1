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
    prompt="prompt suffix input_ids text",
    messages="messages",
    embeds="prompt_embeds input_embeds positional_embed_overrides",
    choices="n best_of beam_width",
    length=(
        "max_tokens max_completion_tokens max_output_tokens min_tokens thinking_token_budget "
        "max_new_tokens min_new_tokens max_thinking_tokens"
    ),
    stops="stop stop_token_ids bad_words stop_strs",
    logprobs="logprobs top_logprobs prompt_logprobs top_logprobs_num",
    tokens="logit_bias allowed_token_ids logprob_token_ids token_ids_logprob",
    schema=(
        "response_format structured_outputs tools regex ebnf json_schema structural_tag "
        "ebnf_full_assistant"
    ),
    template="chat_template chat_template_kwargs documents",
    media=(
        "mm_payload media_io_kwargs mm_processor_kwargs return_mm_kwargs images_config "
        "video_config use_audio_in_video max_dynamic_patch min_dynamic_patch image_data video_data "
        "audio_data mm_hashes mm_content_hashes image_max_dynamic_patch video_max_dynamic_patch"
    ),
    id="request_id session_id",
    internal=(
        "kv_transfer_params ec_transfer_params bootstrap_host bootstrap_port bootstrap_room "
        "data_parallel_rank routed_dp_rank disagg_prefill_dp_rank custom_logit_processor "
        "session_params return_hidden_states return_routed_experts routed_experts_start_len "
        "routed_experts_prompt_start lora_path priority custom_labels rid stop_regex "
        "return_sampling_mask sampling_logprobs_mode stop_regex_strs stop_str_max_len "
        "stop_regex_max_len is_normalized lora_id bootstrap_pair_key decode_tp_size routing_key "
        "conversation_id http_worker_ipc external_trace_header received_time "
        "need_wait_for_mm_inputs num_items_assigned encoder_urls multi_item_delimiter_indices "
        "token_indices_to_pool kv_hints return_indexer_topk no_logs log_metrics"
    ),
    harmless=(
        "add_generation_prompt add_special_tokens background cache_salt continue_final_message "
        "custom_params echo extra_key frequency_penalty ignore_eos include_reasoning "
        "include_stop_str_in_output length_penalty logprob_start_len min_p modalities model "
        "no_stop_trim parallel_tool_calls presence_penalty reasoning reasoning_effort "
        "repetition_detection repetition_penalty require_reasoning return_bytes "
        "return_cached_tokens_details return_entropy return_flat_raw_output_top_logprobs "
        "return_flat_raw_top_logprobs return_flat_raw_top_logprobs_b64 return_input_ids_in_sglext "
        "return_logprob return_meta_info return_output_ids_in_sglext return_prompt_text "
        "return_prompt_token_ids return_spec_tokens_details return_text_in_logprobs "
        "return_token_ids return_token_offsets return_tokens_as_token_ids sampling_seed seed "
        "separate_reasoning skip_special_tokens spaces_between_special_tokens stream "
        "stream_interval stream_options stream_reasoning task temperature thinking tool_choice "
        "top_k top_p truncate_prompt_tokens truncation_side use_beam_search user vllm_xargs "
        "watermark watermarking"
    ),
)
"""Kind of each field; one that is not here no engine knows."""
