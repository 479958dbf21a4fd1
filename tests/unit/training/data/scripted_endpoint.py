"""An OpenAI-compatible server on this machine that says what a test tells it to say."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Refusal:
    status: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=lambda: {"retry-after-ms": "1"})


@dataclass
class ScriptedEndpoint:
    """`script` gets a request's body and gives the whole reply, or a refusal."""

    script: Callable[[dict], dict | Refusal]
    bodies: list[dict] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict, key: str) -> dict | Refusal:
        with self._lock:
            self.bodies.append(body)
            self.keys.append(key)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return self.script(body)
        finally:
            with self._lock:
                self._at_once -= 1


def reply(body: dict, text: str | None, *, finish_reason: str = "stop", **extra) -> dict:
    """A reply to this request; `extra` stands inside the choice, `prompt` beside it in a chat."""
    is_chat = "messages" in body
    prompt = extra.pop("prompt_token_ids", None)
    choice = {"index": 0, "finish_reason": finish_reason, **extra}
    choice |= {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
    if prompt is not None and not is_chat:
        choice["prompt_token_ids"] = prompt
    whole = {"id": "1", "object": "x", "created": 1, "model": body["model"], "choices": [choice]}
    return whole | ({"prompt_token_ids": prompt} if prompt is not None and is_chat else {})


@contextmanager
def running(script: Callable[[dict], dict | Refusal]):
    endpoint = ScriptedEndpoint(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = endpoint.answer(body, self.headers["Authorization"])
            is_refused = isinstance(answer, Refusal)
            content = {"error": {"message": answer.message}} if is_refused else answer
            data = json.dumps(content).encode()
            self.send_response(answer.status if is_refused else 200)
            for name, value in (answer.headers if is_refused else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
