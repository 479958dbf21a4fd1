"""Answers through our own server's HTTP interface, with the token ids that the engine wrote.

The name keeps this file behind test_server_answers.py, which needs a server nobody asked before.
"""

import pytest

from dpace_serve.demo import bundle
from dpace_serve.demo.prompts import read_prompts

pytestmark = [pytest.mark.engine, pytest.mark.slow]

API_KEY = "a-key-for-tests"  # of the server in conftest
NUM_DOCUMENTS = 12


@pytest.fixture(scope="module")
def target():
    import torch

    from dpace_training.data.target_model import load_target

    return load_target(bundle.target_folder(), dtype=torch.float32)


def test_greedy_answers_of_a_server_are_those_of_the_target_in_this_process(
    served, target, tmp_path, caplog
):
    from dpace_training.config import EndpointConfig, RegenerateConfig
    from dpace_training.data.answers import answer_documents
    from dpace_training.data.conversations import Completion, Conversation, Message
    from dpace_training.data.endpoint_answers import EndpointWriter
    from dpace_training.data.regenerate import regenerate_file

    given = read_prompts(bundle.prompts_file())
    documents = []
    for index, prompt in enumerate(given[:: len(given) // NUM_DOCUMENTS]):
        if prompt.is_chat:
            turns = (Message("user", prompt.text), Message("assistant", "?")) * 2
            documents.append(Conversation(index, "other", turns, None))
        else:
            documents.append(Completion(index, "code", prompt.text, "", None))
    key = tmp_path / "key"
    key.write_text(API_KEY)
    endpoint = EndpointConfig(
        base_url=str(served.client.base_url).rstrip("/") + "/v1",
        model="tiny",
        api_key_file=key,
        max_concurrency=4,
    )
    config = RegenerateConfig(backend="openai", openai=endpoint, max_new_tokens=32)
    writer = EndpointWriter(target, config)
    written = regenerate_file(target, documents, tmp_path / "answers.jsonl", config, writer=writer)
    assert written == answer_documents(target, documents, config, description="answers")
    assert all(document.answer_ids is not None for document in written)
    assert caplog.records == []
