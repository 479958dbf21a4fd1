import dataclasses

import torch

from dpace_training.config import RegenerateConfig
from dpace_training.data.answers import answer_documents, batches_by_length, generate
from dpace_training.data.conversations import Completion, Conversation, Message
from dpace_training.data.tokenize import chat_prompt_ids

GREEDY = RegenerateConfig(max_new_tokens=12, batch_size=3)


def greedy_by_hand(target, prompt, count):
    """The slow obvious reference: one forward pass over everything for every token."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(target.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in target.end_ids:
            break
    return tuple(ids[len(prompt) :])


def question(index):
    message = Message("user", "say " + "x" * index)
    return Conversation(index, "other", (message, Message("assistant", "?" * index)), None)


def test_batched_answers_equal_those_of_single_prompts(target):
    prompts = [[72, 73], [80, 81, 82, 83, 84], [99]]
    expected = [greedy_by_hand(target, prompt, 12) for prompt in prompts]
    assert generate(target, prompts, GREEDY) == expected


def test_an_answer_ends_with_its_end_token(target):
    (long,) = generate(target, [[72, 73]], GREEDY)
    ending = dataclasses.replace(target, end_ids=frozenset({long[4]}))
    (short,) = generate(ending, [[72, 73]], GREEDY)
    assert short == long[: long.index(long[4]) + 1]


def test_documents_come_back_in_their_order_with_the_tokens_of_their_answer(target):
    documents = [question(3), Completion(9, "code", "def", "longer than all the others", None)]
    chat, completion = answer_documents(target, documents, GREEDY, description="answers")
    prompt = chat_prompt_ids(target.tokenizer, chat.messages[:1])
    assert chat.answer_ids == greedy_by_hand(target, prompt, 12)
    assert chat.messages[1].content == target.tokenizer.decode(list(chat.answer_ids))
    assert completion.document_id == 9
    assert completion.answer_ids == greedy_by_hand(target, target.tokenizer.encode("def"), 12)


def test_every_turn_is_answered_on_top_of_the_answers_before_it(target):
    # With this end token the first answer ends by itself, so the conversation goes on.
    first = question(3)
    prompt = chat_prompt_ids(target.tokenizer, first.messages[:1])
    end = greedy_by_hand(target, prompt, 12)[3]
    ending = dataclasses.replace(target, end_ids=frozenset({end}))
    two_turns = dataclasses.replace(first, messages=(*first.messages, *question(5).messages))
    (answered,) = answer_documents(ending, [two_turns], GREEDY, description="answers")
    assert [message.role for message in answered.messages] == ["user", "assistant"] * 2
    second_prompt = chat_prompt_ids(target.tokenizer, answered.messages[:3])
    assert answered.answer_ids == greedy_by_hand(ending, second_prompt, 12)


def test_an_answer_that_reaches_the_limit_ends_its_conversation(target):
    first = question(3)
    two_turns = dataclasses.replace(first, messages=(*first.messages, *question(5).messages))
    (answered,) = answer_documents(target, [two_turns], GREEDY, description="answers")
    assert len(answered.messages) == 2
    assert len(answered.answer_ids) == 12


def test_sampled_answers_follow_the_seed(target):
    hot = RegenerateConfig(temperature=3.0, max_new_tokens=12, seed=1)
    once = answer_documents(target, [question(2)], hot, description="answers")
    state = torch.get_rng_state()
    again = answer_documents(target, [question(2)], hot, description="answers")
    other = answer_documents(
        target, [question(2)], hot.model_copy(update={"seed": 2}), description="answers"
    )
    assert once == again
    assert once != other
    assert torch.equal(state, torch.get_rng_state())


def test_batches_hold_answers_of_similar_length():
    documents = [question(index) for index in (5, 1, 4, 2, 3)]
    batches = batches_by_length(documents, 2)
    assert [[document.document_id for document in batch] for batch in batches] == [
        [1, 2],
        [3, 4],
        [5],
    ]


def test_no_prompt_has_no_answer(target):
    assert generate(target, [], GREEDY) == []
