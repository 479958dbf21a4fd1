"""What vLLM writes for the trainer is what the target in this process writes, in float32."""

import pytest

from dpace_serve.demo import bundle
from dpace_serve.demo.prompts import read_prompts

pytestmark = [pytest.mark.engine, pytest.mark.slow]

LAYER_IDS = (20, 3, 11)  # not sorted: the engine would sort them
MAX_TOKENS = 96
NUM_DOCUMENTS = 24
# Half a unit in the last place of bfloat16 on either side, relative to the value.
BF16_ROUNDING = 2**-7
NEAR_TIE = 1e-3


@pytest.fixture(scope="module")
def target():
    import torch

    from dpace_training.data.target_model import load_target

    return load_target(bundle.target_folder(), dtype=torch.float32)


@pytest.fixture(scope="module")
def ends():
    import torch

    from dpace_training.data.target_model import load_target_ends

    return load_target_ends(bundle.target_folder(), dtype=torch.float32)


@pytest.fixture(scope="module")
def sources():
    """Held-out prompts of all workloads, and a chat of two turns."""
    from dpace_training.data.conversations import Completion, Conversation, Message

    given = read_prompts(bundle.prompts_file())
    chosen = given[:: max(1, len(given) // NUM_DOCUMENTS)][:NUM_DOCUMENTS]
    documents = []
    for index, prompt in enumerate(chosen):
        if prompt.is_chat:
            messages = (Message("user", prompt.text),)
            documents.append(Conversation(index, "other", messages, None))
        else:
            documents.append(Completion(index, "code", prompt.text, "", None))
    first, second = [prompt.text for prompt in chosen if prompt.is_chat][:2]
    turns = (Message("user", first), Message("assistant", "?"), Message("user", second))
    return [*documents, Conversation(len(chosen), "other", turns, None)]


@pytest.fixture(scope="module")
def settings():
    from dpace_training.config import RegenerateConfig

    return RegenerateConfig(backend="vllm", max_new_tokens=48, batch_size=8)


@pytest.fixture(scope="module")
def engine_config():
    from dpace_training.config import OfflineEngineConfig

    return OfflineEngineConfig(eager=True, max_model_len=512)


@pytest.fixture(scope="module")
def documents(target, sources, settings):
    """The sources with the target's own answers, some cut, the longest exactly at the limit."""
    from dpace_training.data.answers import answer_documents
    from dpace_training.data.tokenize import tokenize_document

    answered = answer_documents(target, sources, settings, description="answers")
    tokenized = [
        tokenize_document(target.tokenizer, document, end_ids=target.end_ids, max_tokens=MAX_TOKENS)
        for document in answered
    ]
    assert max(len(document.token_ids) for document in tokenized) == MAX_TOKENS
    return tokenized


def test_greedy_answers_of_the_engine_are_those_of_the_target_in_this_process(
    target, ends, sources, settings, engine_config, tmp_path
):
    from dpace_training.data.answers import answer_documents
    from dpace_training.data.engine_answers import EngineWriter
    from dpace_training.data.regenerate import regenerate_file

    writer = EngineWriter(ends, settings, engine_config)
    written = regenerate_file(ends, sources, tmp_path / "answers.jsonl", settings, writer=writer)
    assert written == answer_documents(target, sources, settings, description="answers")


@pytest.mark.long
def test_a_sampled_answer_depends_on_its_document_alone(ends, sources, settings, engine_config):
    from dpace_training.data.engine_answers import EngineWriter

    hot = settings.model_copy(update={"temperature": 1.0, "max_new_tokens": 16})
    writer = EngineWriter(ends, hot, engine_config)
    everything = {one.document_id: one for (group) in writer.write(sources, set()) for one in group}
    known = {one.document_id for one in sources[:5]}
    rest = {one.document_id: one for group in writer.write(sources[::-1], known) for one in group}
    assert rest.keys() == everything.keys() - known
    assert all(everything[name] == document for name, document in rest.items())
    colder = settings.model_copy(update={"max_new_tokens": 16})
    greedy = EngineWriter(ends, colder, engine_config).write(sources, set())
    assert everything != {one.document_id: one for group in greedy for one in group}


def test_the_engines_cache_is_the_cache_of_the_target_in_this_process(
    target, ends, documents, engine_config, tmp_path, monkeypatch
):
    import torch

    from dpace_training.data import feature_cache
    from dpace_training.data.engine_hidden_states import EngineReader
    from dpace_training.data.feature_cache import cache_features
    from dpace_training.data.hidden_states import RecomputedFeatures

    shard_bytes = 8 * MAX_TOKENS * (len(LAYER_IDS) + 1) * 192 * 2
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", shard_bytes)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with EngineReader(
        ends, LAYER_IDS, engine_config, max_tokens=MAX_TOKENS, batch_size=8, scratch=scratch
    ) as reader:
        cached = cache_features(
            ends, documents, LAYER_IDS, tmp_path, batch_size=8, with_final=True, reader=reader
        )
    assert list(scratch.iterdir()) == []
    fresh = RecomputedFeatures(target, documents, LAYER_IDS, with_final=True)
    head = target.model.get_output_embeddings()
    num_asked = num_ties = 0
    for index, document in enumerate(documents):
        (found,), (expected,) = cached.of([index]), fresh.of([index])
        assert found.taps.dtype == found.final.dtype == torch.bfloat16
        for states, reference in ((found.taps, expected.taps), (found.final, expected.final)):
            torch.testing.assert_close(
                states.float(), reference, rtol=BF16_ROUNDING, atol=2e-3, msg=f"document {index}"
            )
        assert torch.equal(found.next_token < 0, expected.next_token < 0)
        num_asked += int((expected.next_token >= 0).sum())
        for place in (found.next_token != expected.next_token).nonzero().flatten().tolist():
            best, second = head(expected.final[place]).topk(2).values
            assert best - second < NEAR_TIE, (document.document_id, place)
            num_ties += 1
    assert num_asked > 500
    assert num_ties <= num_asked // 100


def test_a_complete_cache_starts_no_engine(ends, documents, engine_config, tmp_path, monkeypatch):
    from dpace_training.data import engine_hidden_states
    from dpace_training.data.engine_hidden_states import EngineReader
    from dpace_training.data.feature_cache import cache_features

    def cache():
        with EngineReader(
            ends, LAYER_IDS, engine_config, max_tokens=MAX_TOKENS, batch_size=8, scratch=tmp_path
        ) as reader:
            cache_features(ends, documents[:2], LAYER_IDS, tmp_path, batch_size=8, reader=reader)

    cache()
    first = (tmp_path / "shard-00000000.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(engine_hidden_states, "OfflineEngine", None)
    cache()
    assert (tmp_path / "shard-00000000.safetensors").stat().st_mtime_ns == first


def test_a_target_that_the_engine_cannot_load_is_one_clear_line(ends, settings, tmp_path):
    from dpace_serve.errors import EngineError
    from dpace_serve.vllm_engine.offline import OfflineEngine
    from dpace_serve.vllm_engine.offline_calls import EngineSettings

    broken = EngineSettings(
        target=tmp_path,
        dtype="float32",
        max_model_len=64,
        max_num_seqs=2,
        tensor_parallel_size=1,
        gpu_memory_utilization=0.9,
        eager=True,
        export=None,
    )
    with pytest.raises(EngineError, match=r"^vLLM stopped: [^\n]+$"), OfflineEngine(broken):
        pass
