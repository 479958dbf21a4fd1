"""Engines shared by the tests: the bundled models in this process, float32, eager, on CPU."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dpace_serve.demo import bundle
from dpace_serve.demo.prompts import read_prompts

DRAFTER = "dpace"
SERVED_NAME = "tiny"
API_KEY = "a-key-for-tests"
NUM_PROMPTS = 64
MAX_MODEL_LEN = 512
MAX_NUM_SEQS = 8
SHORT_DRAFTER_LEN = 256
START_TIMEOUT_SECONDS = 300
IN_PROCESS_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_PLUGINS": "dpace,dpace_http",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}


@pytest.fixture(scope="session")
def engine_environment() -> Iterator[None]:
    """Variables for an engine that runs in the test's own process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in IN_PROCESS_ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def plain_engine(engine_environment):
    """The target alone."""
    return _engine()


@pytest.fixture(scope="session")
def speculative_engine(engine_environment):
    """The target with its drafter, our plugin loaded through its entry point."""
    return _speculative_engine()


@pytest.fixture(scope="session")
def engine_with(engine_environment):
    """The same with other drafters in further slots: `engine_with(others=["dflash"])`."""

    def make(others):
        from dpace_serve.vllm_engine.drafter_worker import WORKER_EXTENSION
        from dpace_serve.vllm_engine.hosted_checkpoints import additional_config

        return _speculative_engine(
            additional_config=additional_config([bundle.drafter_folder(name) for name in others]),
            worker_extension_cls=WORKER_EXTENSION,
        )

    return make


@pytest.fixture(scope="session")
def short_drafter_engine(engine_environment):
    """The same whose drafter ends long before the target does."""
    return _speculative_engine(drafter_length=SHORT_DRAFTER_LEN)


@pytest.fixture(scope="session")
def prompts(plain_engine) -> list[list[int]]:
    """Token ids of held-out prompts, spread over all workloads."""
    tokenizer = plain_engine.get_tokenizer()
    given = read_prompts(bundle.prompts_file())
    chosen = given[:: max(1, len(given) // NUM_PROMPTS)][:NUM_PROMPTS]
    assert len(chosen) == NUM_PROMPTS
    return [_token_ids(tokenizer, prompt) for prompt in chosen]


@pytest.fixture(scope="session")
def without():
    """Take a CPU fix away for a while: `with without(fix): ...`."""
    return _without


@contextlib.contextmanager
def _without(fix) -> Iterator[None]:
    setattr(fix.owner, fix.attribute, fix.upstream)
    try:
        yield
    finally:
        fix.apply()


@pytest.fixture(scope="session")
def observing():
    """Watch an engine's proposals for a while: `with observing(engine, observer): ...`."""
    return _observing


@dataclass(frozen=True, slots=True)
class Served:
    """A running server and how to ask it."""

    client: httpx2.Client
    process: Any

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        response = self.client.post(path, json={"model": SERVED_NAME, "temperature": 0, **body})
        assert response.status_code == 200, response.text
        return response.json()

    def stream(self, path: str, **body: Any) -> list[dict[str, Any]]:
        chunks = []
        asked = {"model": SERVED_NAME, "temperature": 0, "stream": True, **body}
        with self.client.stream("POST", path, json=asked) as response:
            assert response.status_code == 200
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    chunks.append(json.loads(line.removeprefix("data: ")))
        return chunks

    def acceptance(self, records: int = 0) -> dict[str, Any]:
        return self.client.get("/dpace/acceptance", params={"records": records}).json()

    def samples(self) -> dict[str, list[Any]]:
        """Samples of /metrics by name."""
        found: dict[str, list[Any]] = {}
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found


class ServeCommand(NamedTuple):
    """A command line of `dpace serve` and the environment it runs in."""

    arguments: list[str]
    environment: dict[str, str]


@pytest.fixture(scope="session")
def serve_command():
    """Command line and environment of `dpace serve` with these arguments on this port."""
    return _serve_command


@pytest.fixture(scope="session")
def serve(tmp_path_factory):
    """Run `dpace serve` until it is healthy: `with serve(arguments) as (process, url): ...`."""
    return lambda arguments: _serving(arguments, tmp_path_factory.mktemp("server") / "log.txt")


@pytest.fixture(scope="session")
def open_server(serve):
    """Serve the bundled models to a client: `with open_server("--set", ...) as served: ...`."""
    return lambda *options, engine=(): _open_server(serve, options, engine)


@pytest.fixture(scope="session")
def served(open_server):
    """One server for all tests over HTTP; `test_server_shutdown` ends it."""
    with open_server() as served:
        yield served


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on now."""
    return _free_port()


@contextlib.contextmanager
def _open_server(serve, options, engine) -> Iterator[Served]:
    arguments = [
        str(bundle.target_folder()),
        "--drafter", str(bundle.drafter_folder(DRAFTER)),
        "--set", "dtype=float32",
        "--set", "eager=true",
        "--set", f"served_model_name={SERVED_NAME}",
        "--set", "shutdown_timeout_seconds=120",
        "--set", "limits.allow_grammars=true",  # of which a few tests make short drafts
        "--set", "open_routes=[POST /generative_scoring]",
        *options,
        "--", "--max-model-len", "512", "--max-num-seqs", "8", "--api-key", API_KEY, *engine,
    ]  # fmt: skip
    with serve(arguments) as (process, url):
        headers = {"Authorization": f"Bearer {API_KEY}"}
        with httpx2.Client(base_url=url, headers=headers, timeout=120, trust_env=False) as client:
            yield Served(client, process)


def _serve_command(arguments, port) -> ServeCommand:
    # Without what other tests set for an engine in their own process.
    environment = {
        name: value for name, value in os.environ.items() if name not in IN_PROCESS_ENVIRONMENT
    }
    command = [sys.executable, "-m", "dpace_serve.cli", "serve", "--port", str(port), *arguments]
    return ServeCommand(command, environment)


@contextlib.contextmanager
def _serving(arguments, log):
    port = _free_port()
    command = _serve_command(arguments, port)
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.arguments,
            env=command.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, url, log)
        yield process, url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_healthy(process, url, log):
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    raise TimeoutError(log.read_text(errors="replace")[-4000:])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def _observing(engine, observer) -> Iterator[None]:
    executor = engine.llm_engine.engine_core.engine_core.model_executor
    proposer = executor.driver_worker.worker.model_runner.drafter
    proposer.observer = observer
    try:
        yield
    finally:
        proposer.observer = None


def _speculative_engine(*, drafter_length=MAX_MODEL_LEN, **arguments):
    from dpace_serve.drafter.checkpoint import read_config

    folder = bundle.drafter_folder(DRAFTER)
    return _engine(
        per_request_spec_decode_metrics="detailed",
        speculative_config={
            "method": "dflash",
            "model": str(folder),
            "num_speculative_tokens": read_config(folder).num_draft_tokens,
            "draft_sample_method": "greedy",
            "max_model_len": drafter_length,
        },
        **arguments,
    )


def _engine(**arguments):
    from vllm import LLM

    return LLM(
        model=str(bundle.target_folder()),
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        enforce_eager=True,
        seed=0,
        **arguments,
    )


def _token_ids(tokenizer, prompt) -> list[int]:
    if not prompt.is_chat:
        return tokenizer.encode(prompt.text)
    message = [{"role": "user", "content": prompt.text}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=False)
