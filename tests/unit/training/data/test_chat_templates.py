"""Which tokens are trained on, under small templates that behave as the known families do."""

import copy
import dataclasses
import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dpace_serve.config import build_config
from dpace_serve.drafter import checkpoint
from dpace_serve.errors import ConfigError
from dpace_training.config import RegenerateConfig, TrainConfig
from dpace_training.data.answers import answer_documents
from dpace_training.data.conversations import Completion, Conversation, Message
from dpace_training.data.prepare import prepare
from dpace_training.data.regenerate import regenerate_file
from dpace_training.data.target_model import load_target
from dpace_training.data.tokenize import chat_prompt_ids, tokenize_document, tokenize_pieces
from dpace_training.drafter.model import BlockDrafter
from dpace_training.evaluation.compare import compare_drafters
from dpace_training.evaluation.config import ComparisonConfig

from .chat_templates import (  # noqa: TID252 - tests have no package
    CHATML,
    CHATML_PROMPT,
    CHATML_TURN,
    LLAMA_LIKE,
    QWEN3_LIKE,
)

END = 257
FIRST = (Message("user", "hi"), Message("assistant", "yo"))
SECOND = (Message("user", "and?"), Message("assistant", "no"))
THOUGHT = (
    Message("user", "hi"),
    Message("assistant", "<think>\nhm\n</think>\n\nyo"),
    Message("user", "and?"),
    Message("assistant", "<think>\nha\n</think>\n\nno"),
)


def with_template(tokenizer, template):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def marked_chatml(answer):
    """ChatML that writes an assistant's message as `answer`, which holds the markers.

    Newlines stand in quotes: Jinja drops those that follow a tag.
    """
    return (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
        + answer
        + "{% else %}"
        + CHATML_TURN
        + "{% endif %}{% endfor %}"
        + CHATML_PROMPT
    )


def pieces_of(tokenizer, messages, enable_thinking=None, max_tokens=999, **fields):
    return tokenize_pieces(
        tokenizer,
        Conversation(7, "json", messages, None, **fields),
        end_ids=frozenset({END}),
        max_tokens=max_tokens,
        enable_thinking=enable_thinking,
    )


def shown(tokenizer, piece):
    """The text of a piece, trained parts in brackets: [ opens one and ] closes it."""
    text, inside = "", False
    for token, is_trained in zip(piece.token_ids, piece.loss_mask, strict=True):
        if is_trained != inside:
            text += "[" if is_trained else "]"
        inside = is_trained
        text += tokenizer.decode([token])
    return text + ("]" if inside else "")


def test_chatml_is_one_piece_with_every_answer_marked(tokenizer):
    (piece,) = pieces_of(with_template(tokenizer, CHATML), FIRST + SECOND)
    assert shown(tokenizer, piece) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[yo<|im_end|>]\n"
        "<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n[no<|im_end|>]"
    )
    assert piece.document_id == 7


def test_a_template_that_begins_with_a_token_and_trims_is_one_piece(tokenizer):
    messages = (Message("system", " be brief "), *FIRST, Message("user", "and? "), SECOND[1])
    (piece,) = pieces_of(with_template(tokenizer, LLAMA_LIKE), messages)
    assert shown(tokenizer, piece) == (
        "<|mask|><|im_start|>system:\n\nbe brief<|im_end|><|im_start|>user:\n\nhi<|im_end|>"
        "<|im_start|>assistant:\n\n[yo<|im_end|>]<|im_start|>user:\n\nand?<|im_end|>"
        "<|im_start|>assistant:\n\n[no<|im_end|>]"
    )


def test_a_template_that_drops_earlier_thinking_gives_one_piece_an_answer(tokenizer):
    first, last = pieces_of(with_template(tokenizer, QWEN3_LIKE), THOUGHT)
    assert shown(tokenizer, first) == (
        "<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n[<think>\nhm\n</think>\n\nyo<|im_end|>]"
    )
    assert shown(tokenizer, last) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
        "<|im_start|>user\nand?<|im_end|>\n"
        "<|im_start|>assistant\n[<think>\nha\n</think>\n\nno<|im_end|>]"
    )
    assert [first.document_id, last.document_id] == ["7.0", 7]
    assert first.workload == last.workload == "json"


def test_with_thinking_off_the_empty_thought_is_prompt_and_not_trained_on(tokenizer):
    first, last = pieces_of(with_template(tokenizer, QWEN3_LIKE), FIRST + SECOND, False)
    assert shown(tokenizer, first).endswith("assistant\n<think>\n\n</think>\n\n[yo<|im_end|>]")
    assert shown(tokenizer, last) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
        "<|im_start|>user\nand?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n[no<|im_end|>]"
    )


def test_answers_that_keep_their_thinking_share_a_piece(tokenizer):
    # Both answers stand behind the same question, so the template keeps the first one's thought.
    messages = (*THOUGHT[:2], Message("tool", "42"), THOUGHT[3], *SECOND)
    first, last = pieces_of(with_template(tokenizer, QWEN3_LIKE), messages)
    assert shown(tokenizer, first) == (
        "<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n[<think>\nhm\n</think>\n\nyo<|im_end|>]\n"
        "<|im_start|>tool\n42<|im_end|>\n"
        "<|im_start|>assistant\n[<think>\nha\n</think>\n\nno<|im_end|>]"
    )
    assert shown(tokenizer, last).count("[") == 1


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE, QWEN3_LIKE])
@pytest.mark.parametrize("messages", [THOUGHT, FIRST + SECOND + THOUGHT])
def test_every_answer_is_trained_on_once_behind_the_prompt_it_answers(
    tokenizer, template, messages
):
    tokenizer = with_template(tokenizer, template)
    found = []
    for piece in pieces_of(tokenizer, messages):
        starts = [i for i, now in enumerate(piece.loss_mask) if now and not piece.loss_mask[i - 1]]
        found += [list(piece.token_ids[:start]) for start in starts]
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    assert found == [chat_prompt_ids(tokenizer, messages[:turn]) for turn in turns]


def test_the_last_piece_is_the_one_to_evaluate_on(tokenizer):
    tokenizer = with_template(tokenizer, QWEN3_LIKE)
    document = Conversation(7, "json", THOUGHT, None)
    last = tokenize_document(tokenizer, document, end_ids=frozenset({END}), max_tokens=999)
    assert last == pieces_of(tokenizer, THOUGHT)[-1]


@pytest.mark.parametrize(
    "answer",
    [
        "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{{ '\n' }}",
        # What is marked behind the end token is never generated.
        "{% generation %}{{ m['content'] }}<|im_end|>\n{% endgeneration %}",
        "{%- generation -%}{{ m['content'] }}{%- endgeneration -%}"
        "{% generation %}<|im_end|>{% endgeneration %}{{ '\n' }}",
    ],
)
def test_markers_that_agree_with_the_prompt_change_nothing(tokenizer, answer):
    marked = pieces_of(with_template(tokenizer, marked_chatml(answer)), FIRST + SECOND)
    plain = pieces_of(with_template(tokenizer, CHATML), FIRST + SECOND)
    assert [shown(tokenizer, piece) for piece in marked] == [
        shown(tokenizer, piece) for piece in plain
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            "{% generation %}{{ m['content'] }}{% endgeneration %}<|im_end|>\n",
            "markers hold 'yo', but behind its prompt the target writes 'yo<|im_end|>'",
        ),
        (
            "{{ m['content'][0] }}{% generation %}{{ m['content'][1:] }}<|im_end|>"
            "{% endgeneration %}{{ '\n' }}",
            "markers hold 'o<|im_end|>', but behind its prompt the target writes 'yo<|im_end|>'",
        ),
        (
            "{% if loop.last %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
            "{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n",
            "markers hold 1 regions for 2 answers",
        ),
    ],
)
def test_markers_that_differ_from_the_prompt_are_refused_by_name(tokenizer, answer, said):
    with pytest.raises(ConfigError) as caught:
        pieces_of(with_template(tokenizer, marked_chatml(answer)), FIRST + SECOND)
    assert str(caught.value).startswith("document 7, assistant message ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_markers_find_the_answer_where_the_prompt_is_not_how_it_starts(tokenizer):
    answer = "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{{ '\n' }}"
    template = marked_chatml(answer).replace(
        "assistant\n{% endif %}", "assistant\n<think>{% endif %}"
    )
    (piece,) = pieces_of(with_template(tokenizer, template), FIRST + SECOND)
    assert shown(tokenizer, piece) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[yo<|im_end|>]\n"
        "<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n[no<|im_end|>]"
    )


def test_markers_are_read_in_the_rendering_that_is_trained_on(tokenizer):
    answer = "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{{ '\n' }}"
    template = "{% if enable_thinking %}think! {% endif %}" + marked_chatml(answer)
    (piece,) = pieces_of(with_template(tokenizer, template), FIRST, True)
    assert shown(tokenizer, piece) == (
        "think! <|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[yo<|im_end|>]"
    )


def joining_tokenizer(tokenizer):
    """The toy tokenizer with one merge: two newlines are one token, 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate([*alphabet, "ĊĊ"])}
    joining = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    joining.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    joining.decoder = decoders.ByteLevel()
    joining.add_special_tokens([tokenizer.eos_token, "<|im_start|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=joining, eos_token=tokenizer.eos_token, chat_template=CHATML
    )


def test_no_token_lies_across_the_end_of_the_prompt(tokenizer):
    joining = joining_tokenizer(tokenizer)
    newline, both = joining.encode("\n")[0], joining.encode("\n\n")
    assert both == [256]
    assert joining.encode("assistant\n\nyo").count(256) == 1
    messages = (Message("user", "hi"), Message("assistant", "\nyo\n\n"))
    (piece,) = pieces_of(joining, messages)
    start = piece.loss_mask.index(True)
    # The prompt ends with its own newline, the answer begins with one, and inside it they join.
    assert piece.token_ids[start - 1 : start + 1] == (newline, newline)
    assert piece.token_ids[-2:] == (256, END)
    assert list(piece.token_ids[:start]) == chat_prompt_ids(joining, messages[:1])


def test_an_answer_cut_by_a_limit_has_no_end_token(tokenizer):
    (piece,) = pieces_of(tokenizer, FIRST + SECOND, answer_is_cut=True)
    assert shown(tokenizer, piece).endswith("[no]")
    assert "[yo<|im_end|>]" in shown(tokenizer, piece)


def test_reasoning_reaches_a_template_that_writes_it(tokenizer):
    messages = (FIRST[0], Message("assistant", "yo", reasoning_content="hm"))
    (piece,) = pieces_of(with_template(tokenizer, QWEN3_LIKE), messages)
    assert shown(tokenizer, piece).endswith("[<think>\nhm\n</think>\n\nyo<|im_end|>]")
    with pytest.raises(ConfigError, match="document 7: has reasoning_content"):
        pieces_of(with_template(tokenizer, CHATML), messages)


def test_a_long_text_is_cut_into_pieces_that_hold_all_of_it(tokenizer):
    pieces = tokenize_pieces(
        tokenizer,
        Completion(3, "other", "", "abcdefghij", None),
        end_ids=frozenset({END}),
        max_tokens=4,
    )
    assert [shown(tokenizer, piece) for piece in pieces] == ["[abcd]", "[efgh]", "[ij]"]
    assert [piece.document_id for piece in pieces] == ["3.0", "3.1", 3]


# --- thinking, from the settings to the drafter's checkpoint ---


# The toy target answers it differently with an empty thought in the prompt.
QUESTION = Conversation(0, "other", (Message("user", "2+2?"),), None)


@pytest.fixture
def thinking_folder(target_folder, tokenizer, tmp_path):
    folder = tmp_path / "thinking-target"
    shutil.copytree(target_folder, folder)
    with_template(tokenizer, QWEN3_LIKE).save_pretrained(folder)
    return folder


def test_thinking_is_refused_for_a_template_that_does_not_know_it(target_folder):
    with pytest.raises(ConfigError, match="chat template does not know enable_thinking"):
        load_target(target_folder, dtype=torch.float32, enable_thinking=True)


def test_the_target_answers_the_prompt_that_is_then_trained_on(thinking_folder):
    target = load_target(thinking_folder, dtype=torch.float32, enable_thinking=False)
    greedy = RegenerateConfig(max_new_tokens=6)
    (answered,) = answer_documents(target, [QUESTION], greedy, description="answers")
    prompt = target.tokenizer.encode(
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    ids = list(prompt)
    for _ in answered.answer_ids:
        ids.append(int(target.model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert tuple(ids[len(prompt) :]) == answered.answer_ids
    trained = tokenize_document(
        target.tokenizer,
        answered,
        end_ids=target.end_ids,
        max_tokens=999,
        enable_thinking=target.enable_thinking,
    )
    assert trained.token_ids == tuple(ids)
    assert trained.loss_mask.index(True) == len(prompt)
    told_nothing = dataclasses.replace(target, enable_thinking=None)
    (other,) = answer_documents(told_nothing, [QUESTION], greedy, description="answers")
    assert other.answer_ids != answered.answer_ids


def test_answers_made_with_other_thinking_are_refused(thinking_folder, tmp_path):
    target = load_target(thinking_folder, dtype=torch.float32, enable_thinking=False)
    greedy = RegenerateConfig(max_new_tokens=2)
    regenerate_file(target, [QUESTION], tmp_path / "answers.jsonl", greedy)
    for other in (None, True):
        with pytest.raises(ConfigError, match="made with another enable_thinking"):
            regenerate_file(
                dataclasses.replace(target, enable_thinking=other),
                [QUESTION],
                tmp_path / "answers.jsonl",
                greedy,
            )


def prepared(thinking_folder, write_jsonl, tmp_path, **data):
    chats = [{"messages": [as_json(message) for message in FIRST + SECOND]}]
    values = {
        "target": str(thinking_folder),
        "output": str(tmp_path / "drafter"),
        "data": {
            "conversations": str(write_jsonl("chats.jsonl", chats)),
            "work": str(tmp_path / "work"),
            "regenerate": {"enabled": False},
            "hidden_states": "recompute",
            "min_agreement": 0,
            **data,
        },
        "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
    }
    return prepare(build_config(TrainConfig, values, source="the test"))


def as_json(message):
    return {"role": message.role, "content": message.content}


@pytest.mark.parametrize("enable_thinking", [None, False, True])
def test_the_drafter_remembers_what_the_template_was_told(
    thinking_folder, write_jsonl, tmp_path, enable_thinking
):
    data = prepared(thinking_folder, write_jsonl, tmp_path, enable_thinking=enable_thinking)
    assert [document.document_id for document in data.documents] == ["0.0", 0]
    thought = "<think>\n\n</think>\n\n"
    expected = (
        f"{thought}[no<|im_end|>]" if enable_thinking is False else f"[{thought}no<|im_end|>]"
    )
    assert shown(data.target.tokenizer, data.documents[-1]).endswith(expected)
    checkpoint.write(tmp_path / "drafter", data.drafter, BlockDrafter(data.drafter).state_dict())
    assert checkpoint.validate(tmp_path / "drafter").enable_thinking is enable_thinking
    written = json.loads((tmp_path / "drafter" / "config.json").read_text())
    assert written["dpace"].get("enable_thinking") is enable_thinking


def test_split_conversations_are_counted(thinking_folder, write_jsonl, tmp_path, caplog):
    with caplog.at_level("INFO", logger="dpace_training"):
        prepared(thinking_folder, write_jsonl, tmp_path)
    assert "1 of 1 conversations were split into 2 documents" in caplog.text


def test_a_text_that_goes_on_in_the_next_document_was_not_cut(
    thinking_folder, write_jsonl, tmp_path, caplog
):
    text = str(write_jsonl("text.jsonl", [{"text": "abcdefghij"}]))
    with caplog.at_level("INFO", logger="dpace_training"):
        data = prepared(thinking_folder, write_jsonl, tmp_path, conversations=text, max_tokens=4)
    assert [len(document.token_ids) for document in data.documents] == [4, 4, 2]
    assert "1 of 1 texts were split into 3 documents" in caplog.text
    assert "were cut there" not in caplog.text


def test_drafters_trained_with_different_thinking_are_not_compared(
    thinking_folder, write_jsonl, tmp_path
):
    data = prepared(thinking_folder, write_jsonl, tmp_path)
    for name, told in (("on", True), ("off", False)):
        config = dataclasses.replace(data.drafter, enable_thinking=told)
        checkpoint.write(tmp_path / name, config, BlockDrafter(config).state_dict())
    evaluation = ComparisonConfig(conversations=tmp_path / "chats.jsonl")
    with pytest.raises(ConfigError, match="same enable_thinking, got on True, off False"):
        compare_drafters(
            thinking_folder,
            [tmp_path / "on", tmp_path / "off"],
            evaluation,
            device=torch.device("cpu"),
            answers=None,
            store=None,
        )


def test_evaluation_prompts_the_target_as_training_did(thinking_folder, write_jsonl, tmp_path):
    data = prepared(thinking_folder, write_jsonl, tmp_path, enable_thinking=False)
    checkpoint.write(tmp_path / "drafter", data.drafter, BlockDrafter(data.drafter).state_dict())
    answers = tmp_path / "answers.jsonl"
    evaluation = ComparisonConfig(
        conversations=write_jsonl("held.jsonl", [{"messages": [as_json(QUESTION.messages[0])]}]),
        max_new_tokens=6,
    )
    compare_drafters(
        thinking_folder,
        [tmp_path / "drafter"],
        evaluation,
        device=torch.device("cpu"),
        answers=answers,
        store=None,
    )
    told = load_target(thinking_folder, dtype=torch.float32, enable_thinking=False)
    greedy = RegenerateConfig(max_new_tokens=6)
    (expected,) = answer_documents(told, [QUESTION], greedy, description="answers")
    assert tuple(json.loads(answers.read_text())["answer_ids"]) == expected.answer_ids
