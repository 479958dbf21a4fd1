"""The command behind HEALTHCHECK, run as Docker runs it, against a real HTTP server."""

import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.unit.deploy.dockerfile_rules import final_stage, the

DOCKER = Path(__file__).parents[3] / "deploy" / "docker"
IMAGES = ["vllm-cpu", "vllm-cuda"]


@pytest.fixture
def answering():
    """Start a server that answers GET /health with one status; gives its port."""
    servers = []

    def start(status: int) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status if self.path == "/health" else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def checked(image: str, port: int, **environment: str) -> subprocess.CompletedProcess:
    """Run the image's own words, with this machine's paths and port in them."""
    text = (DOCKER / f"{image}.Dockerfile").read_text(encoding="utf-8")
    command = the("HEALTHCHECK", final_stage(text)).array()
    assert command[:2] == ["python", "/opt/dpace/health.py"]
    assert "127.0.0.1:8000/health" in command[2]
    url = command[2].replace(":8000", f":{port}")
    return subprocess.run(
        [sys.executable, DOCKER / "health.py", url],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env=environment,
    )


@pytest.mark.parametrize("image", IMAGES)
def test_a_ready_server_is_healthy(answering, image):
    assert checked(image, answering(200)).returncode == 0


@pytest.mark.parametrize("status", [204, 404, 503])
def test_a_server_that_says_otherwise_is_not(answering, status):
    done = checked("vllm-cpu", answering(status))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_port_that_nobody_listens_on_is_not(answering):
    import socket

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but not listened on
        done = checked("vllm-cpu", unused.getsockname()[1])
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_proxy_of_the_environment_is_not_asked(answering):
    done = checked("vllm-cpu", answering(200), http_proxy="http://127.0.0.1:9")
    assert done.returncode == 0


def test_the_copied_script_is_the_one_that_is_run():
    for image in IMAGES:
        text = (DOCKER / f"{image}.Dockerfile").read_text(encoding="utf-8")
        assert "COPY deploy/docker/health.py /opt/dpace/health.py" in text
