"""A server with a challenger and room for one more drafter, and a server with one drafter alone.

The folder's tests share both. Each leaves the first one as it was: D-PACE serves, DFlash shadows.
"""

import contextlib
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from dpace_serve.demo import bundle
from dpace_serve.demo.prompts import read_prompts

ADMIN_KEY = "an-admin-key-for-tests"
CHAMPION, CHALLENGER = "dpace", "dflash"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
WAIT_SECONDS = 60
LONG_PROMPT_TOKENS = 400
"""More than three of the engine's cache blocks, which have 128 tokens on a CPU."""


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A server whose drafters can be changed, and how to ask it.

    Attributes:
        served: The server, asked with the API key.
        admin: Asks with the admin key.
        root: Folder that drafters may be loaded from.
        log: Its acceptance log.
        capture: Folder of captured requests.
    """

    served: Any
    admin: httpx2.Client
    root: Path
    log: Path
    capture: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def client(self) -> httpx2.Client:
        return self.served.client

    def new_id(self) -> str:
        return f"live-{next(self.numbers)}"

    def post(self, path: str, *, request_id: str, **body: Any) -> httpx2.Response:
        asked = {"model": "tiny", "temperature": 0, **body}
        return self.client.post(path, json=asked, headers={"X-Request-Id": request_id})

    def ask(self, path: str, *, request_id: str | None = None, **body: Any) -> dict[str, Any]:
        response = self.post(path, request_id=request_id or self.new_id(), **body)
        assert response.status_code == 200, response.text
        return response.json()

    @contextlib.contextmanager
    def stream(self, path: str, *, request_id: str, **body: Any) -> Iterator[Iterator[Any]]:
        """Chunks of an answer as they come; leaving early is a client that leaves."""
        asked = {"model": "tiny", "temperature": 0, "stream": True, **body}
        headers = {"X-Request-Id": request_id}
        with self.client.stream("POST", path, json=asked, headers=headers) as response:
            assert response.status_code == 200
            yield (
                json.loads(line.removeprefix("data: "))
                for line in response.iter_lines()
                if line.startswith("data: {")
            )

    def swap(self, folder: str, **more: str) -> dict[str, Any]:
        return self._changed("PUT", "drafters/champion", json={"folder": folder, **more})

    def challenge(self, folder: str, **more: str) -> dict[str, Any]:
        return self._changed("PUT", "drafters/challenger", json={"folder": folder, **more})

    def promote(self, name: str) -> dict[str, Any]:
        return self._changed("POST", "promote", json={"name": name})

    def drop(self, name: str) -> dict[str, Any]:
        return self._changed("DELETE", "drafters/challenger", params={"name": name})

    def slots(self) -> list[dict[str, Any]]:
        return self.client.get("/dpace/drafters").json()["drafters"]

    def roles(self) -> dict[str, str]:
        return {slot["name"]: slot["role"] for slot in self.slots() if slot["name"]}

    def records(self, request_id: str, count: int) -> list[dict[str, Any]]:
        """What the acceptance log says of a request, once it has so many records of it."""
        names = (f"chatcmpl-{request_id}", f"cmpl-{request_id}-0")
        return self.wait_for(
            lambda: [record for record in self.logged() if record["request_id"] in names],
            lambda found: len(found) >= count,
        )

    def samples(self) -> dict[str, list[Any]]:
        """Samples of /metrics by name."""
        return self.served.samples()

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def wait_for(self, read, is_right):
        """What is read, as soon as it is right: counts may come a moment after answers."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_right(found := read()):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    def wait_until_idle(self) -> None:
        self.wait_for(self.slots, lambda slots: not any(slot["running"] for slot in slots))

    def restore(self) -> None:
        for name, role in self.roles().items():
            if role == "challenger" and name != CHALLENGER:
                self.drop(name)
        if self.roles().get(CHAMPION) != "champion":
            self.swap(CHAMPION)
        if self.roles().get(CHALLENGER) != "challenger":
            self.challenge(CHALLENGER)

    def _changed(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        response = self.admin.request(method, f"/dpace/{path}", **content)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture(scope="session")
def alone(open_server):
    """The D-PACE drafter in a server of its own: what a challenger must not change."""
    with open_server() as served:
        yield served


@pytest.fixture(scope="session")
def open_live_server(open_server, tmp_path_factory):
    """Serve with a challenger: `with open_live_server("--set", ...) as live: ...`."""
    return lambda *options, engine=(): _open_live_server(
        open_server, tmp_path_factory, options, engine
    )


@pytest.fixture(scope="session")
def shared_live(open_live_server):
    """The server of `live`."""
    with open_live_server() as server:
        yield server


@pytest.fixture
def live(shared_live):
    """The shared server with D-PACE as champion and DFlash as challenger, before and after."""
    shared_live.restore()
    yield shared_live
    shared_live.restore()


@pytest.fixture
def copy_of(live):
    """Copy a bundled drafter to where it may be loaded, under a name that nothing had before."""
    made = []

    def copy(source: str) -> Path:
        name = f"{source}-{next(live.numbers)}"
        made.append(shutil.copytree(bundle.drafter_folder(source), live.root / name))
        return made[-1]

    yield copy
    for folder in made:
        shutil.rmtree(folder)


@pytest.fixture
def newer(copy_of) -> str:
    """Name of a drafter with weights and a revision of its own."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = copy_of(CHALLENGER)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor * (1 + 0.1 * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder.name


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Code to be continued, sixteen pieces of 31 to 145 tokens."""
    return [prompt.text for prompt in read_prompts(bundle.prompts_file()) if not prompt.is_chat]


@pytest.fixture(scope="session")
def long_texts(texts) -> list[str]:
    """Prompts that fill three cache blocks and more, and differ from the first token on."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(bundle.target_folder()))
    whole = [tokenizer.encode("\n\n".join(texts[start:] + texts[:start])) for start in range(6)]
    return [tokenizer.decode(tokens[:LONG_PROMPT_TOKENS]) for tokens in whole]


@contextlib.contextmanager
def _open_live_server(open_server, tmp_path_factory, options, engine) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("live")
    root, log, capture = folder / "drafters", folder / "log.jsonl", folder / "capture"
    for name in (CHAMPION, CHALLENGER):
        shutil.copytree(bundle.drafter_folder(name), root / name)
    key = folder / "admin.key"
    key.touch(mode=0o600)
    key.write_text(ADMIN_KEY)
    settings = [
        "--challenger", str(bundle.drafter_folder(CHALLENGER)),
        "--set", "spare_drafter_slots=1",
        "--set", f"drafter_root={root}",
        "--set", f"admin_key_file={key}",
        "--set", "allow_drafter_choice=true",
        "--set", f"acceptance_log.path={log}",
        "--set", f"capture.folder={capture}",
        "--set", "capture.workloads=[json]",
        "--set", "verdict.minimum_requests=50",
        "--set", "verdict.planned_requests=60",
        *options,
    ]  # fmt: skip
    with (
        open_server(*settings, engine=engine) as served,
        httpx2.Client(
            base_url=served.client.base_url,
            headers={"Authorization": f"Bearer {ADMIN_KEY}"},
            timeout=120,
            trust_env=False,
        ) as admin,
    ):
        yield LiveServer(served, admin, root, log, capture)
