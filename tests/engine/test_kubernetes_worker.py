"""Leader and workers of several nodes: vLLM makes the same engine of their arguments."""

from argparse import Namespace
from dataclasses import fields
from itertools import pairwise

import pytest

from dpace_serve.config import load_config
from dpace_serve.demo import bundle
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine import model_runner, server
from tests.unit.deploy.kubernetes.manifests import Pod, of_kind, pods, rendered

pytestmark = [pytest.mark.engine, pytest.mark.slow]

OF_THE_SERVER = {
    "dpace_config", "headless", "host", "model_tag", "node_rank", "port",
}  # fmt: skip
"""What differs: who is who, and what only the one with the server has."""
GROUP = {"$(LWS_GROUP_SIZE)": "2", "$(LWS_LEADER_ADDRESS)": "127.0.0.1", "$(LWS_WORKER_INDEX)": "1"}


@pytest.fixture(scope="module")
def group() -> dict[str, Pod]:
    found = pods(rendered("multi-node"))
    return {pod.where.rpartition(" ")[2]: pod for pod in found}


@pytest.fixture
def leader(group, engine_environment, tmp_path) -> Namespace:
    """The arguments that `dpace serve` makes for the engine of the leader."""
    (settings,) = (
        one["data"]["serve.yaml"]
        for one in of_kind(rendered("multi-node"), "ConfigMap")
        if "serve.yaml" in one["data"]
    )
    key = tmp_path / "admin-key"
    key.write_text("k" * 32)
    key.chmod(0o600)
    file = tmp_path / "serve.yaml"
    file.write_text(with_bundled_models(settings), encoding="utf-8")
    arguments = arguments_of(group["leader"])
    overrides = [after for flag, after in pairwise(arguments) if flag == "--set"]
    config = load_config(ServeConfig, file, [*overrides, f"admin_key_file={key}"])
    return server._engine_arguments(config, config.num_draft_tokens)


@pytest.fixture
def worker(group) -> Namespace:
    """The arguments that `vllm serve` parses on a worker."""
    command, *arguments = arguments_of(group["worker"])
    assert (group["worker"].containers[0]["command"], command) == (["vllm"], "serve")
    return parsed(arguments)


def parsed(arguments: list[str]) -> Namespace:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    args.model = args.model_tag  # as vLLM's own command does
    validate_parsed_serve_args(args)
    return args


def arguments_of(pod: Pod) -> list[str]:
    (container,) = pod.containers
    return [with_bundled_models(one) for one in container["args"]]


def with_bundled_models(text: str) -> str:
    for variable, value in GROUP.items():
        text = text.replace(variable, value)
    text = text.replace("/models/target", str(bundle.target_folder()))
    return text.replace("/models/drafters/current", str(bundle.drafter_folder("dpace")))


def test_both_ask_the_engine_for_the_same(leader, worker):
    names = (set(vars(leader)) | set(vars(worker))) - OF_THE_SERVER
    different = {
        name: (getattr(leader, name, None), getattr(worker, name, None))
        for name in names
        if getattr(leader, name, None) != getattr(worker, name, None)
    }
    assert different == {}
    # The comparison is of something: 15 draft tokens, one spare slot, two nodes.
    assert worker.speculative_config["num_speculative_tokens"] == 15
    assert len(worker.additional_config["dpace"]["drafters"]) == 1
    assert (leader.node_rank, worker.node_rank, leader.nnodes) == (0, 1, 2)
    assert (leader.headless, worker.headless) == (False, True)


@pytest.mark.parametrize(
    "changed",
    [
        ("--dtype=auto", "--dtype=float16"),
        ('"num_speculative_tokens":15', '"num_speculative_tokens":7'),
        ("--tensor-parallel-size=8", "--tensor-parallel-size=4"),
    ],
)
def test_a_worker_that_asks_for_something_else_is_found(leader, group, changed):
    arguments = [one.replace(*changed) for one in arguments_of(group["worker"])[1:]]
    assert arguments != arguments_of(group["worker"])[1:]
    other = parsed(arguments)
    assert any(
        getattr(leader, name) != getattr(other, name)
        for name in vars(other)
        if name in vars(leader) and name not in OF_THE_SERVER
    )


def test_the_engine_knows_every_argument_of_several_nodes():
    from vllm.config import ParallelConfig

    known = {field.name for field in fields(ParallelConfig)}
    assert {"nnodes", "node_rank", "master_addr", "master_port"} <= known


def test_both_load_our_plugin_into_the_same_model_runner(group, monkeypatch):
    said = []
    for pod in group.values():
        environment = {one["name"]: one.get("value") for one in pod.containers[0]["env"]}
        listed = environment["VLLM_PLUGINS"]
        # What `dpace serve` would add to it is there already, so the worker's is the same.
        assert server._plugin_names(listed) == listed.split(",")
        model_runner.select_v1_runner(environment)
        said.append((listed, environment["VLLM_USE_V2_MODEL_RUNNER"]))
    assert said == [("dpace,dpace_http", "0")] * 2
