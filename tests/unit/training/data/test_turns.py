"""Conversations of several turns: trained on is what a server would have written and seen."""

import copy
import dataclasses

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dpace_training.config import RegenerateConfig
from dpace_training.data import answers
from dpace_training.data.conversations import Conversation, Message, parse_record, to_record
from dpace_training.data.dialogue import Dialogue
from dpace_training.data.tokenize import tokenize_pieces

from .chat_templates import (  # noqa: TID252 - tests have no package
    CHATML,
    LLAMA_LIKE,
    QWEN3_LIKE,
)

END = 257
QUESTIONS = (Message("user", "hi"), Message("assistant", "?"), Message("user", "and?"))


def with_tokenizer(target, template, tokenizer=None):
    changed = copy.deepcopy(tokenizer or target.tokenizer)
    changed.chat_template = template
    return dataclasses.replace(target, tokenizer=changed)


def answered(target, *written):
    """A conversation whose answers are these tokens, and the prompts that the target was given."""
    dialogue, prompts = Dialogue(Conversation(7, "other", QUESTIONS, None)), []
    for ids in written:
        prompts.append(dialogue.prompt_ids(target))
        text = target.tokenizer.decode(ids[:-1])
        dialogue.answer(text, tuple(ids), is_complete=True)
    return dialogue.document, prompts


def pieces_of(target, document):
    return tokenize_pieces(
        target.tokenizer, document, end_ids=target.end_ids, max_tokens=999,
        enable_thinking=target.enable_thinking,
    )  # fmt: skip


def trained_spans(piece):
    """Each trained answer of a piece with everything before it."""
    mask = (False, *piece.loss_mask, False)
    starts = [i for i in range(len(mask) - 1) if mask[i + 1] and not mask[i]]
    ends = [i for i in range(len(mask) - 1) if mask[i] and not mask[i + 1]]
    ids = list(piece.token_ids)
    return [(ids[:start], ids[start:end]) for start, end in zip(starts, ends, strict=True)]


def texts_of(target, pieces):
    spans = [span for piece in pieces for span in trained_spans(piece)]
    return [[target.tokenizer.decode(ids) for ids in span] for span in spans]


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE, QWEN3_LIKE])
def test_every_turn_trains_on_what_was_written_behind_what_was_asked(target, template, monkeypatch):
    log, real = [], answers.generate

    def generate(target, prompts, config):
        found = real(target, prompts, config)
        log.extend(zip(map(list, prompts), map(list, found), strict=True))
        return found

    # Random weights write bytes that are no text: nothing of it encodes back to what it was.
    ending = dataclasses.replace(
        with_tokenizer(target, template), end_ids=frozenset(range(100, 130))
    )
    source = Conversation(7, "other", (*QUESTIONS, *QUESTIONS), None)
    sampled = RegenerateConfig(max_new_tokens=200, temperature=3.0)
    with monkeypatch.context() as patch:
        patch.setattr(answers, "generate", generate)
        (document,) = answers.answer_documents(ending, [source], sampled, description="answers")
    found = [span for piece in pieces_of(ending, document) for span in trained_spans(piece)]
    assert len(log) == 3
    assert found == log


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE])
def test_answers_that_stay_as_they_are_share_a_piece(target, template):
    target = with_tokenizer(target, template)
    encode = target.tokenizer.encode
    document, prompts = answered(target, [*encode("yo"), END], [*encode("no"), END])
    (piece,) = pieces_of(target, document)
    assert trained_spans(piece) == [
        (prompts[0], [*encode("yo"), END]),
        (prompts[1], [*encode("no"), END]),
    ]


@pytest.mark.parametrize(
    ("enable_thinking", "first"),
    [
        (None, "<think>\nhm\n</think>\n\nyo"),
        (None, "<think>\n\n\nhm</think>yo"),  # the template would write other newlines
        (None, "yo"),  # the template would write an empty thought
        (False, "yo"),
    ],
)
def test_a_thought_is_trained_on_as_written_and_dropped_from_later_prompts(
    target, enable_thinking, first
):
    target = dataclasses.replace(
        with_tokenizer(target, QWEN3_LIKE), enable_thinking=enable_thinking
    )
    encode = target.tokenizer.encode
    last = "<think>ha</think>no"
    document, prompts = answered(target, [*encode(first), END], [*encode(last), END])
    pieces = pieces_of(target, document)
    opening = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    off = "<think>\n\n</think>\n\n" if enable_thinking is False else ""
    assert texts_of(target, pieces) == [
        [opening + off, f"{first}<|im_end|>"],
        [
            f"{opening}yo<|im_end|>\n<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n{off}",
            f"{last}<|im_end|>",
        ],
    ]
    assert [before for piece in pieces for before, _ in trained_spans(piece)] == prompts


def test_an_answer_in_other_tokens_than_its_text_encodes_to_is_kept_as_written(target):
    joining = joining_tokenizer(target.tokenizer)
    target = with_tokenizer(target, CHATML, joining)
    end, (newline,), (both,) = joining.eos_token_id, joining.encode("\n"), joining.encode("\n\n")
    target = dataclasses.replace(target, end_ids=frozenset({end}))
    document, prompts = answered(target, [newline, newline, end], [newline, end])
    first, last = pieces_of(target, document)
    assert trained_spans(first) == [(prompts[0], [newline, newline, end])]
    assert trained_spans(last) == [(prompts[1], [newline, end])]
    # A server reads the first answer back as text.
    assert both in prompts[1]
    again = parse_record(to_record(document), document_id=7, place="line 1")
    assert pieces_of(target, again) == [first, last]


def joining_tokenizer(tokenizer):
    """The toy tokenizer with one merge: two newlines are one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate([*alphabet, "ĊĊ"])}
    joining = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    joining.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    joining.decoder = decoders.ByteLevel()
    joining.add_special_tokens([tokenizer.eos_token, "<|im_start|>"])
    return PreTrainedTokenizerFast(tokenizer_object=joining, eos_token=tokenizer.eos_token)
