"""Arguments of the engine's server: the user's pass, ours win, contradictions are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpace_serve.demo import bundle
from dpace_serve.errors import ConfigError
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine import server
from dpace_serve.vllm_engine.drafter_worker import WORKER_EXTENSION
from tests.engine.specialist_drafters import KINDS, make

pytestmark = [pytest.mark.engine, pytest.mark.slow]

DRAFTER = bundle.drafter_folder("dpace")


@pytest.fixture
def arguments(engine_environment, tmp_path):
    """Arguments for a target with a drafter of 8 positions and these engine arguments."""

    def make(*engine_args, num_draft_tokens=7, **settings):
        config = ServeConfig(
            target=str(tmp_path), drafter=DRAFTER, engine_args=engine_args, **settings
        )
        return server._engine_arguments(config, num_draft_tokens)

    return make


def test_the_users_arguments_pass(arguments):
    args = arguments("--max-model-len", "256", "--api-key", "k", "--enforce-eager")
    assert (args.max_model_len, args.api_key, args.enforce_eager) == (256, ["k"], True)


def test_the_drafter_is_set_up_as_the_engine_wants_it(arguments):
    args = arguments()
    assert args.speculative_config == {
        "method": "dflash",
        "model": str(DRAFTER),
        "num_speculative_tokens": 7,
        "draft_sample_method": "greedy",
    }
    assert args.per_request_spec_decode_metrics == "detailed"
    assert args.shutdown_timeout == 30


def test_without_a_drafter_nothing_is_drafted(arguments):
    args = arguments(num_draft_tokens=None)
    assert args.speculative_config is None
    assert args.per_request_spec_decode_metrics == "none"


def test_clients_call_a_local_target_by_its_folders_name(arguments, tmp_path):
    assert arguments().served_model_name == [tmp_path.name]
    assert arguments(served_model_name="mine").served_model_name == ["mine"]


@pytest.mark.parametrize(
    ("given", "binding", "expected"),
    [
        ((), "nobind", server.UNIPROC_EXECUTOR),
        ((), "0-7", None),
        ((), None, None),
        (("--tensor-parallel-size", "2"), "nobind", None),
        (("--distributed-executor-backend", "mp"), "nobind", "mp"),
    ],
    ids=["alone", "bound", "engine's binding", "two workers", "the user's"],
)
def test_a_lone_unbound_cpu_worker_shares_the_cores_process(
    arguments, monkeypatch, given, binding, expected
):
    monkeypatch.delenv(server.THREAD_BINDING_VARIABLE, raising=False)
    if binding is not None:
        monkeypatch.setenv(server.THREAD_BINDING_VARIABLE, binding)
    assert arguments(*given).distributed_executor_backend == expected


def test_the_endpoint_plugin_finds_the_configuration(arguments):
    assert arguments(workloads=("mine",)).dpace_config.workloads == ("mine",)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("--speculative-config", "{}"), "speculative_config"),
        (("--speculative_config={}",), "speculative_config"),
        (("--speculative-config.method", "ngram"), "speculative_config"),
        (("--spec-tokens", "3"), "spec_tokens"),
        (("--port", "1"), "port"),
        (("--model", "other"), "model"),
        (("--shutdown-timeout", "0"), "shutdown_timeout"),
        (("--dtype", "auto"), "dtype"),  # its default, but said
        (("--api-server-count", "2"), "api_server_count"),
        (("stray",), "stray"),
        (("--no-such-argument",), "--no-such-argument"),
        (("--max-model-len", "many"), "max-model-len"),
        (("--config", "none.yaml"), "none.yaml"),
        (("--disable-log-stats",), "disable-log-stats"),
    ],
)
def test_a_contradiction_or_mistake_is_one_line_that_names_it(arguments, given, named):
    with pytest.raises(ConfigError, match=named) as refused:
        arguments(*given)
    assert "\n" not in str(refused.value)


def hosted(args):
    return args.additional_config["dpace"]["drafters"]


def test_challengers_and_then_spare_slots_are_hosted_beside_what_the_user_adds(arguments):
    args = arguments(
        "--additional-config", '{"theirs": 1}', challengers=(Path("b"),), spare_drafter_slots=2
    )
    assert hosted(args) == ["b", str(DRAFTER), str(DRAFTER)]
    assert args.additional_config["theirs"] == 1
    assert args.worker_extension_cls == WORKER_EXTENSION


def test_a_spare_slot_is_hosted_only_where_drafters_can_be_loaded(arguments, tmp_path, monkeypatch):
    monkeypatch.delenv("DPACE_ADMIN_KEY", raising=False)
    assert hosted(arguments(drafter_root=tmp_path)) == []
    monkeypatch.setenv("DPACE_ADMIN_KEY", "k")
    assert hosted(arguments()) == []
    args = arguments(drafter_root=tmp_path)
    assert hosted(args) == [str(DRAFTER)]
    assert args.dpace_config.spare_drafter_slots == 1


def test_several_engines_have_no_challengers_and_no_spare_slots(arguments, caplog):
    args = arguments("--data-parallel-size", "2", spare_drafter_slots=1)
    assert hosted(args) == []
    assert args.dpace_config.spare_drafter_slots == 0
    assert "cannot be changed while serving" in caplog.text
    with pytest.raises(ConfigError, match="challengers need one engine"):
        arguments("--data-parallel-size", "2", challengers=(Path("b"),))


def test_a_pipeline_has_one_drafter_because_only_its_last_stage_drafts(arguments):
    stages = ("--pipeline-parallel-size", "2")
    assert hosted(arguments(*stages)) == []
    for several in ({"challengers": (Path("b"),)}, {"spare_drafter_slots": 1}):
        with pytest.raises(ConfigError, match="need pipeline_parallel_size 1") as refused:
            arguments(*stages, **several)
        assert "\n" not in str(refused.value)


def test_position_specialists_are_served_on_one_device(engine_environment, tmp_path):
    specialists = make(tmp_path / "specialists", KINDS["low_rank-2"])
    plain, other = bundle.drafter_folder("dpace"), bundle.drafter_folder("dflash")

    def arguments(num_ranks, drafter, *challengers):
        config = ServeConfig(
            target=str(bundle.target_folder()),
            drafter=drafter,
            challengers=challengers,
            engine_args=("--tensor-parallel-size", str(num_ranks)),
        )
        return server._engine_arguments(config, 7)

    for drafters in ((specialists,), (plain, specialists)):
        assert arguments(1, *drafters).tensor_parallel_size == 1
        with pytest.raises(ConfigError, match="need tensor_parallel_size 1") as refused:
            arguments(2, *drafters)
        assert str(specialists) in str(refused.value)
    assert arguments(2, plain, other).tensor_parallel_size == 2


# In a process of its own: once it has an engine, vLLM reads no variable again.
MODEL_RUNNER = """
import sys
from vllm.config import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
vllm.HAS_TRITON = True  # pretended: there the engine may choose
args = AsyncEngineArgs(model=sys.argv[1], dtype="float32", max_model_len=512)
print(args.create_engine_config().use_v2_model_runner)
"""


@pytest.mark.parametrize(
    ("ours", "is_v2"), [({"VLLM_USE_V2_MODEL_RUNNER": "0"}, False), ({}, True)]
)
def test_the_engine_would_choose_the_other_model_runner_if_we_did_not(
    engine_environment, ours, is_v2
):
    environment = {
        name: value for name, value in os.environ.items() if not name.endswith("_RUNNER")
    }
    said = subprocess.run(
        [sys.executable, "-c", MODEL_RUNNER, str(bundle.target_folder())],
        env=environment | ours,
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.split()[-1] == str(is_v2)
