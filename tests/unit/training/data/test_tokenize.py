import copy

import pytest

from dpace_serve.errors import ConfigError
from dpace_training.data.conversations import Completion, Conversation, Message
from dpace_training.data.tokenize import (
    TokenizedConversation,
    require_verification_steps,
    tokenize_document,
)

END = 257
USER, ASSISTANT = Message("user", "hi"), Message("assistant", "yo")


def tokenized(tokenizer, document, max_tokens=999):
    return tokenize_document(tokenizer, document, end_ids=frozenset({END}), max_tokens=max_tokens)


def marked(tokenizer, document):
    return tokenizer.decode(
        [
            token
            for token, is_trained in zip(document.token_ids, document.loss_mask, strict=True)
            if is_trained
        ]
    )


def test_only_the_answer_and_its_end_token_are_trained_on(tokenizer):
    document = tokenized(tokenizer, Conversation(3, "json", (USER, ASSISTANT), None))
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>"
    assert tokenizer.decode(list(document.token_ids)) == text
    assert marked(tokenizer, document) == "yo<|im_end|>"
    assert (document.workload, document.document_id) == ("json", 3)


def test_every_assistant_turn_is_trained_on(tokenizer):
    messages = (USER, ASSISTANT, Message("user", "and?"), Message("assistant", "no"))
    document = tokenized(tokenizer, Conversation(0, "other", messages, None))
    assert marked(tokenizer, document) == "yo<|im_end|>no<|im_end|>"


def test_a_chat_without_answer_has_nothing_to_train_on(tokenizer):
    document = tokenized(tokenizer, Conversation(0, "other", (USER,), None))
    assert tokenizer.decode(list(document.token_ids)).endswith("<|im_start|>assistant\n")
    assert not any(document.loss_mask)


def test_an_answer_given_as_tokens_is_taken_as_it_is(tokenizer):
    # No end token: the answer was cut by the token limit.
    document = tokenized(tokenizer, Conversation(0, "other", (USER, ASSISTANT), (10, 11, 12)))
    assert document.token_ids[-3:] == (10, 11, 12)
    assert sum(document.loss_mask) == 3


def test_a_completion_is_trained_on_behind_its_prompt(tokenizer):
    document = tokenized(tokenizer, Completion(0, "code", "ab", "cd", None))
    assert tokenizer.decode(list(document.token_ids)) == "abcd"
    assert document.loss_mask == (False, False, True, True)


def test_a_long_document_is_cut(tokenizer):
    document = tokenized(tokenizer, Completion(0, "code", "ab", "cdef", None), max_tokens=3)
    assert document.loss_mask == (False, False, True)


def with_template(tokenizer, template):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def test_a_template_that_starts_answers_otherwise_than_it_prompts_for_them_is_refused(tokenizer):
    template = (
        "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: <think>{% endif %}"
    )
    with pytest.raises(ConfigError, match="generation prompt is not how it starts"):
        tokenized(
            with_template(tokenizer, template), Conversation(0, "other", (USER, ASSISTANT), None)
        )


def test_a_template_without_end_token_is_refused(tokenizer):
    template = (
        "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    with pytest.raises(ConfigError, match=r"does not end with one of the end tokens \[257\]"):
        tokenized(
            with_template(tokenizer, template), Conversation(0, "other", (USER, ASSISTANT), None)
        )


def test_a_template_that_rewrites_earlier_answers_trains_on_the_last_alone(tokenizer):
    template = (
        "{% for m in messages %}{{ m['role'] }}:"
        "{% if m['role'] == 'user' or loop.last %}{{ m['content'] }}{% endif %}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    messages = (USER, ASSISTANT, USER, ASSISTANT)
    document = tokenized(
        with_template(tokenizer, template), Conversation(0, "other", messages, None)
    )
    assert tokenizer.decode(list(document.token_ids)) == (
        "user:hi<|im_end|>assistant:<|im_end|>user:hi<|im_end|>assistant:yo<|im_end|>"
    )
    assert marked(tokenizer, document) == "yo<|im_end|>"


def answered(*masks):
    return [TokenizedConversation(tuple(range(len(mask))), mask, "other", 0) for mask in masks]


def test_answers_of_one_token_leave_nothing_to_measure():
    single, cut = (False, True, True, False, True), (False, False)
    with pytest.raises(ConfigError, match=r"held.jsonl: no answer of the target has a second"):
        require_verification_steps(answered(single, cut), source="held.jsonl")
    require_verification_steps(answered(single, (False, True, True)), source="held.jsonl")
