"""`dpace prepare` with the engine makes what it makes without, and never loads the whole target."""

import json

import pytest

from dpace_serve.demo import bundle
from dpace_serve.demo.prompts import read_prompts

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.long]

NUM_DOCUMENTS = 8


def test_prepared_data_do_not_depend_on_who_runs_the_target(tmp_path):
    import torch

    from dpace_serve.config import build_config
    from dpace_training.config import TrainConfig
    from dpace_training.data.prepare import prepare

    given = read_prompts(bundle.prompts_file())[:NUM_DOCUMENTS]
    prompts = tmp_path / "prompts.jsonl"
    records = [
        {"messages": [{"role": "user", "content": prompt.text}]}
        if prompt.is_chat
        else {"prompt": prompt.text}
        for prompt in given
    ]
    prompts.write_text("".join(json.dumps(record) + "\n" for record in records))

    def prepared(backend):
        values = {
            "target": str(bundle.target_folder()),
            "output": str(tmp_path / backend / "drafter"),
            "data": {
                "conversations": str(prompts),
                "work": str(tmp_path / backend / "work"),
                "max_tokens": 128,
                "regenerate": {"backend": backend, "max_new_tokens": 24},
                "hidden_states_backend": backend,
                "vllm": {"eager": True, "max_model_len": 512},
            },
            "drafter": {
                "num_hidden_layers": 1,
                "block_size": 4,
                "num_taps": 3,
                "mask_token_id": 3,
            },
            "loss": {"recipe": "lk"},
            "evaluation": {"conversations": str(prompts), "max_new_tokens": 16},
        }
        return prepare(build_config(TrainConfig, values, source="test"))

    with_engine, without = prepared("vllm"), prepared("transformers")
    layers = with_engine.target.model.base_model.layers
    assert all(parameter.is_meta for parameter in layers.parameters())
    assert with_engine.documents == without.documents
    assert with_engine.held_out == without.held_out
    assert with_engine.agreement == pytest.approx(without.agreement, abs=0.01)
    for place in range(NUM_DOCUMENTS):
        (found,), (expected,) = with_engine.features.of([place]), without.features.of([place])
        torch.testing.assert_close(found.taps, expected.taps, rtol=2**-6, atol=1e-2)
        torch.testing.assert_close(found.final, expected.final, rtol=2**-6, atol=1e-2)
        (found,) = with_engine.held_out_features.of([place])
        (expected,) = without.held_out_features.of([place])
        torch.testing.assert_close(found.taps.float(), expected.taps, rtol=2**-7, atol=1e-2)
