"""One SGLang server on a CPU for all tests, with the shims beside this file (for tests only)."""

import contextlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dpace_serve.demo import bundle
from dpace_serve.demo.prompts import read_prompts
from dpace_serve.demo.server_process import free_port, running_server

SHIMS = Path(__file__).parent / "cpu_shims"
SERVED_NAME = "tiny"
API_KEY, ADMIN_KEY = "a-key-for-tests", "an-admin-key-for-tests-only"
METRICS_KEY = "a-metrics-key-for-tests"
# SGLang's own routes that tests ask; the gate has shut them.
OPENED = (
    "--set",
    "open_routes=[POST /generate, GET /server_info, POST /get_weights_by_name, "
    "GET /health_generate]",
)
START_TIMEOUT_SECONDS = 600
STOP_TIMEOUT_SECONDS = 60
ON_A_CPU = (
    "--device=cpu",
    "--attention-backend=torch_native",
    "--mem-fraction-static=0.05",
    "--max-total-tokens=4096",
    "--max-running-requests=8",
    "--disable-cuda-graph",
)
WITHOUT_WARMUP = ("--skip-server-warmup", "--api-key", API_KEY)
NUM_PROMPTS = 56


def pytest_configure(config):
    # sentencepiece 0.2.1, which SGLang pins, warns from C while it is imported; as an error the
    # warning leaves it half made, and the interpreter crashes at its end.
    config.addinivalue_line("filterwarnings", "ignore:builtin type .* has no __module__ attribute")


@dataclass(frozen=True, slots=True)
class Served:
    """A running server and how to ask it."""

    client: httpx2.Client
    process: Any
    drafts: Path
    """Folder that every draft is left in while it is there."""

    def generate(self, prompt: str | list[int], *, max_tokens: int, **parameters: Any) -> Any:
        """SGLang's own route, greedy unless the parameters say otherwise."""
        text = {"text": prompt} if isinstance(prompt, str) else {"input_ids": prompt}
        sampling = {"temperature": 0, "max_new_tokens": max_tokens, **parameters}
        response = self.client.post("/generate", json={**text, "sampling_params": sampling})
        assert response.status_code == 200, response.text
        return response.json()

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        response = self.client.post(path, json={"model": SERVED_NAME, "temperature": 0, **body})
        assert response.status_code == 200, response.text
        return response.json()

    def stream(self, path: str, **body: Any) -> list[dict[str, Any]]:
        asked = {"model": SERVED_NAME, "temperature": 0, "stream": True, **body}
        with self.client.stream("POST", path, json=asked) as response:
            assert response.status_code == 200
            return [
                json.loads(line.removeprefix("data: "))
                for line in response.iter_lines()
                if line.startswith("data: {")
            ]

    def acceptance(self, records: int = 0) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        asked = {"records": records}
        return self.client.get("/dpace/acceptance", params=asked, headers=headers).json()

    def record(self, request_id: str) -> dict[str, Any] | None:
        """The counted record of a request; none where there is none."""
        found = [row for row in self.acceptance(256)["records"] if row["request_id"] == request_id]
        assert len(found) <= 1
        return found[0] if found else None

    def state(self) -> dict[str, Any]:
        """What the scheduler says of us."""
        return self.client.get("/server_info").json()["internal_states"][0]["dpace"]

    def samples(self) -> dict[str, list[Any]]:
        """Samples of /metrics by name."""
        found: dict[str, list[Any]] = {}
        headers = {"Authorization": f"Bearer {METRICS_KEY}"}
        page = self.client.get("/metrics", headers=headers)
        for family in text_string_to_metric_families(page.text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found


@pytest.fixture(scope="session")
def serve(tmp_path_factory):
    """Run `dpace serve --engine sglang`: `with serve(options) as process: ...`."""

    def start(*options, environment=None, drafter="dflash", engine_options=WITHOUT_WARMUP):
        folder = tmp_path_factory.mktemp("server")
        return _serving(folder, options, environment or {}, drafter, engine_options)

    return start


@pytest.fixture(scope="session")
def key_file(tmp_path_factory):
    """Write a key file: `key_file("one", "two")`."""

    def write(*keys):
        file = tmp_path_factory.mktemp("keys") / "keys"
        file.write_text("".join(f"{key}\n" for key in keys))
        file.chmod(0o600)
        return file

    return write


@pytest.fixture(scope="session")
def drafter_root(tmp_path_factory) -> Path:
    """Folder that drafters may be loaded from."""
    root = tmp_path_factory.mktemp("drafters")
    for name in ("dflash", "dpace"):
        shutil.copytree(bundle.drafter_folder(name), root / name)
    return root


@pytest.fixture(scope="session")
def served(serve, drafter_root, key_file, tmp_path_factory):
    """One server for all tests; its drafter is dflash at the start and end of each."""
    drafts = tmp_path_factory.mktemp("drafts") / "kept"
    options = (
        *OPENED,
        "--set", f"drafter_root={drafter_root}",
        "--set", f"admin_key_file={key_file(ADMIN_KEY)}",
        "--set", f"metrics_key_file={key_file(METRICS_KEY)}",
        "--set", f"limits.max_prompts={NUM_PROMPTS}",
    )  # fmt: skip
    environment = {"DPACE_TEST_DRAFTS": str(drafts)}
    with serve(*options, environment=environment) as process:
        process.wait_until_healthy(START_TIMEOUT_SECONDS)
        headers = {"Authorization": f"Bearer {API_KEY}"}
        with httpx2.Client(
            base_url=process.url, headers=headers, timeout=300, trust_env=False
        ) as client:
            yield Served(client, process, drafts)


@pytest.fixture(scope="session")
def admin(served):
    """A client with the admin key."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    url = str(served.client.base_url)
    with httpx2.Client(base_url=url, headers=headers, timeout=300, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Token ids of held-out prompts, spread over all workloads."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle.target_folder())
    given = read_prompts(bundle.prompts_file())
    chosen = given[:: max(1, len(given) // NUM_PROMPTS)][:NUM_PROMPTS]
    return [_token_ids(tokenizer, prompt) for prompt in chosen]


@contextlib.contextmanager
def _serving(folder, options, environment, drafter, engine_options):
    port = free_port()
    command = [
        sys.executable, "-m", "dpace_serve.cli", "serve", str(bundle.target_folder()),
        "--engine", "sglang",
        *(("--drafter", str(bundle.drafter_folder(drafter))) if drafter else ()),
        "--port", str(port), "--set", "dtype=float32",
        "--set", f"served_model_name={SERVED_NAME}", *options,
        "--", *ON_A_CPU, *engine_options,
    ]  # fmt: skip
    paths = [str(SHIMS), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SGLANG_USE_CPU_ENGINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        for name, value in environment.items():
            patch.setenv(name, value, prepend=os.pathsep if name == "PYTHONPATH" else None)
        with running_server(
            command,
            name="SGLang",
            port=port,
            log=folder / "log.txt",
            stop_timeout_seconds=STOP_TIMEOUT_SECONDS,
        ) as process:
            yield process


def _token_ids(tokenizer, prompt) -> list[int]:
    if not prompt.is_chat:
        return tokenizer.encode(prompt.text)
    message = [{"role": "user", "content": prompt.text}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=False)
