"""A scripted server with the routes that the demo uses; one letter is one token.

Usage: fake_server.py PORT DRAFTER BEHAVIOUR, where DRAFTER is none, dflash (accepts 1 draft token
in each step) or dpace (accepts 2).
"""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.last_step import settle_last_step
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.request_id import hashed_id
from dpace_serve.metrics.exporter import AcceptanceMetrics

ACCEPTED = {"dflash": 1, "dpace": 2}
PACED_SECONDS = {"none": 0.6, "dflash": 0.4, "dpace": 0.2}
NUM_DRAFT_TOKENS = 3
# One token from the prefill and twelve from steps: six steps of two or four of three.
ANSWER = "thirteen char"

port, drafter, behaviour = int(sys.argv[1]), sys.argv[2], sys.argv[3]
records = []
metrics = AcceptanceMetrics(
    CollectorRegistry(),
    workloads=["json", "code"],
    num_draft_tokens=NUM_DRAFT_TOKENS,
    method="dflash",
)
metrics.add_drafter(drafter, "0" * 12, NUM_DRAFT_TOKENS + 1, ["champion"])


def as_shown(record):
    return record.to_dict() | {"request_id": hashed_id(record.request_id)}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = urlsplit(self.path).path
        if path == "/health":
            self.send_response(503 if behaviour == "unhealthy" else 200)
            self.end_headers()
        elif path == "/dpace/acceptance" and drafter != "none":
            kept = [] if behaviour == "forgetful" else [as_shown(record) for record in records]
            self.reply({**metrics.snapshot(), "records": kept})
        else:
            self.send_error(404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["temperature"] == 0
        assert body["return_token_ids"] is True
        if behaviour == "refusing":
            self.send_error(500)
            return
        is_chat = self.path == "/v1/chat/completions"
        identity = f"{'chatcmpl' if is_chat else 'cmpl'}-{time.monotonic_ns()}"
        text = ANSWER.upper() if behaviour == "lossy" and drafter == "dpace" else ANSWER
        if drafter != "none":
            self.record(identity if is_chat else f"{identity}-0", len(text), body)
        if behaviour == "slow":
            time.sleep(60)
        if behaviour == "paced":
            time.sleep(PACED_SECONDS[drafter])
        if body.get("stream"):
            self.stream(identity, text, is_chat)
        else:
            part = {"index": 0, "finish_reason": "stop", "token_ids": [ord(c) for c in text]}
            part |= (
                {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
            )
            self.reply({"id": identity, "choices": [part], "usage": usage(text)})

    def stream(self, identity, text, is_chat):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        if behaviour == "dying":
            self.send_header("Content-Length", "1000")  # so that the end comes too early
        self.end_headers()
        chunks = [] if not is_chat else [{"delta": {"role": "assistant", "content": ""}}]
        for start in range(0, len(text), 4):  # chunks are not tokens
            piece = text[start : start + 4]
            chunk = {"delta": {"content": piece}} if is_chat else {"text": piece}
            chunks.append({**chunk, "token_ids": [ord(c) for c in piece]})
        for chunk in chunks:
            self.event({"id": identity, "choices": [{"index": 0, **chunk}]})
            if behaviour == "dying":
                os._exit(1)
        self.event({"id": identity, "choices": [], "usage": usage(text)})
        self.wfile.write(b"data: [DONE]\n\n")

    def record(self, request_id, length, body):
        accepted = ACCEPTED[drafter]
        steps, emitted = divmod(length - 1, accepted + 1)
        settled = settle_last_step(
            [accepted] * (steps + bool(emitted)),
            [NUM_DRAFT_TOKENS] * (steps + bool(emitted)),
            emitted or accepted + 1,
        )
        tag = body["vllm_xargs"]["dpace_workload"]
        record = RequestAcceptance(
            request_id=request_id,
            drafter=drafter,
            revision="0" * 12,
            arm="champion",
            workload=tag if tag in ("json", "code") else "other",
            per_step_accepted=settled.per_step_accepted,
            per_step_drafted=settled.per_step_drafted,
            emitted_tokens=settled.emitted_tokens,
            unsettled_drafted=settled.unsettled_drafted,
            unsettled_accepted=settled.unsettled_accepted,
            finish_reason="stop",
        )
        metrics.observe(record)
        records.append(record)

    def event(self, value):
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())

    def reply(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        say(self.path)


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def usage(text):
    return {"prompt_tokens": 1, "completion_tokens": len(text), "total_tokens": 1 + len(text)}


if behaviour == "refuses-to-start":
    sys.exit("dpace: the drafter does not fit. Take another.")
if behaviour == "crashes":
    sys.exit("first line of a long story\nlast line of a long story")
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if behaviour in ("stubborn", "with-worker"):
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    say(f"worker {worker.pid}")
say(f"serving as {os.getpid()}")
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
