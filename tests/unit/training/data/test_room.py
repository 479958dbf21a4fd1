"""Prompts and answers that near the last position of the target."""

import dataclasses
import logging

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from dpace_serve.errors import ConfigError
from dpace_training.config import RegenerateConfig
from dpace_training.data.answers import answer_documents
from dpace_training.data.conversations import Completion, Conversation, Message
from dpace_training.data.hidden_states import read_features
from dpace_training.data.regenerate import regenerate_file
from dpace_training.data.tokenize import TokenizedConversation

POSITIONS = 64
GREEDY = RegenerateConfig(max_new_tokens=8, batch_size=4)


@pytest.fixture(scope="module")
def learned(target):
    """A target whose positions are learned: behind the last one there is nothing to look up."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=259,
        hidden_size=32,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        word_embed_proj_dim=32,
        eos_token_id=257,
        bos_token_id=257,
        pad_token_id=257,
    )
    # Only byte 0 ends an answer, which this target does not write.
    return dataclasses.replace(target, model=OPTForCausalLM(config).eval(), end_ids=frozenset({0}))


def prompt(index, length):
    return Completion(index, "code", "x" * length, "", None)


def answered(target, documents):
    return answer_documents(target, documents, GREEDY, description="answers")


def test_an_answer_ends_at_the_last_position(learned):
    lengths = (POSITIONS - 1, POSITIONS - 3, 10)
    found = answered(learned, [prompt(i, length) for i, length in enumerate(lengths)])
    assert [len(document.answer_ids) for document in found] == [1, 3, 8]


def test_a_prompt_near_the_end_does_not_shorten_or_change_its_neighbours(learned):
    (alone,) = answered(learned, [prompt(0, 10)])
    (beside, _) = answered(learned, [prompt(0, 10), prompt(1, POSITIONS - 2)])
    assert beside.answer_ids == alone.answer_ids


@pytest.mark.parametrize("keeps_file", [False, True])
def test_a_prompt_without_room_is_left_out_and_counted(learned, tmp_path, caplog, keeps_file):
    documents = [prompt(0, POSITIONS), prompt(1, 10), prompt(2, 3 * POSITIONS)]
    with caplog.at_level(logging.WARNING, logger="dpace_training"):
        if keeps_file:
            found = regenerate_file(learned, documents, tmp_path / "answers.jsonl", GREEDY)
        else:
            found = answered(learned, documents)
    assert [document.document_id for document in found] == [1]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "2 of 3 prompts leave no room for an answer in 64 tokens and are not used; the longest "
        "has 192"
    )


def test_where_no_prompt_has_room_there_is_nothing_to_do(learned):
    with pytest.raises(ConfigError, match=r"no prompt leaves room .* the shortest has 64. Shorten"):
        answered(learned, [prompt(0, POSITIONS), prompt(1, POSITIONS + 1)])


def test_a_turn_without_room_ends_its_conversation_before_it(learned):
    # Every answer comes to its end, so only the positions end the conversation.
    ending = dataclasses.replace(learned, end_ids=frozenset(range(259)))
    turns = [Message("user", "x"), Message("assistant", "?")]
    long = [Message("user", "x" * POSITIONS), Message("assistant", "?")]
    (found,) = answered(ending, [Conversation(0, "other", (*turns, *long), None)])
    assert [message.content for message in found.messages[:1]] == ["x"]
    assert len(found.messages) == 2


def test_a_document_longer_than_the_target_reads_is_one_clear_line(learned):
    def read(length):
        tokens = TokenizedConversation((9,) * length, (True,) * length, "code", 4)
        return read_features(learned, [tokens], (0,))

    (feature,) = read(POSITIONS)
    assert feature.taps.shape == (POSITIONS, 32)
    with pytest.raises(ConfigError, match=r"document 4: has 65 tokens, .* at most 64. Lower data"):
        read(POSITIONS + 1)
