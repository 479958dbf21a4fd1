"""CVE-2026-44223: a penalty ends an engine that extracts hidden states, so none must reach it."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest

from dpace_serve.demo import bundle

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NEUTRAL = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}


class Asked:
    """An engine that only keeps the parameters it was asked with."""

    def __init__(self):
        self.params = []
        self.llm_engine = SimpleNamespace(has_unfinished_requests=lambda: False)

    def generate(self, prompts, params, use_tqdm):
        self.params.append(params)
        outputs = [{"hidden_states_path": __file__} for _ in prompts]
        return [SimpleNamespace(kv_transfer_params=one) for one in outputs]

    def enqueue(self, prompts, params, use_tqdm):
        self.params += params
        return [f"{index}-x" for index in range(len(prompts))]


def test_no_call_of_an_offline_engine_has_a_penalty():
    from dpace_serve.vllm_engine import offline_process
    from dpace_serve.vllm_engine.offline_calls import ExportCall, GenerateCall, GenerationRequest

    for call in (ExportCall, GenerateCall, GenerationRequest):
        assert not any("penalty" in field.name for field in dataclasses.fields(call))
    engine = Asked()
    list(offline_process._results(engine, ExportCall(((1, 2), (3,)))))
    request = GenerationRequest(prompt_ids=(1,), max_tokens=2, seed=0)
    list(offline_process._results(engine, GenerateCall((request,), 1.0, frozenset())))
    assert len(engine.params) == 2
    for params in engine.params:
        assert {name: getattr(params, name) for name in NEUTRAL} == NEUTRAL


def test_the_training_configuration_has_no_place_for_a_penalty():
    from dpace_training.config import TrainConfig

    assert "penalty" not in json.dumps(TrainConfig.model_json_schema())


def test_penalties_in_the_targets_own_folder_do_not_reach_the_extraction(tmp_path):
    from dpace_serve.vllm_engine.offline import OfflineEngine
    from dpace_serve.vllm_engine.offline_calls import EngineSettings, ExportSettings

    target = shutil.copytree(bundle.target_folder(), tmp_path / "target")
    defaults = {"repetition_penalty": 1.3, "presence_penalty": 1.0, "frequency_penalty": 1.0}
    (target / "generation_config.json").write_text(json.dumps(defaults))
    settings = EngineSettings(
        target=target,
        dtype="float32",
        max_model_len=64,
        max_num_seqs=2,
        tensor_parallel_size=1,
        gpu_memory_utilization=0.5,
        eager=True,
        export=ExportSettings((3, 11), tmp_path / "exported"),
    )
    with OfflineEngine(settings) as engine:
        for _ in range(2):
            files = engine.export_hidden_states([tuple(range(10, 30)), (5, 6, 7)])
            assert [file.exists() for file in files] == [True, True]
