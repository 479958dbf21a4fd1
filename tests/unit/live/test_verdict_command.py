"""`dpace verdict` against a server on a socket: what it prints, its files and exit statuses."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dpace_serve import cli
from dpace_serve.live import verdict_command

RULE = {
    "minimum_lift": 0.02, "maximum_loss": 0.02, "confidence": 0.95, "planned_requests": 1000,
    "minimum_requests": 100,
}  # fmt: skip
EARLY = {
    "challenger": {"name": "[red]b[/red]", "revision": "ba98"},
    "since": 1790000000.0,
    "design": "paired",
    "decision": "hold",
    "cause": "too_little_data",
    "reason": "There are 12 paired requests; an answer needs 100.",
    "requests": {"champion": 12, "challenger": 12},
    "effect": None,
    "tau": None,
    "step_time": {"ratio": 1.0, "source": "same_shape"},
    "positions": [],
    "more_requests": 88,
    "rule": RULE,
    "history": [],
}
LATE = EARLY | {
    "decision": "rollback",
    "cause": "loss",
    "reason": "b makes 4.3 % fewer tokens/s.",
    "requests": {"champion": 1200, "challenger": 1200},
    "effect": {"of": "tokens_per_second", "lift": -0.043, "low": -0.066, "high": -0.021},
    "tau": {
        "champion": {"tau": 2.7, "low": 2.6, "high": 2.8},
        "challenger": {"tau": 2.58, "low": 2.5, "high": 2.66},
        "lift": -0.043, "low": -0.066, "high": -0.021,
    },
    "positions": [
        {"position": 1, "champion": 0.8, "challenger": 0.75, "difference": -0.05, "low": -0.07,
         "high": -0.03},
    ],
    "more_requests": None,
}  # fmt: skip
CHAMPION = {"name": "a", "revision": "0123"}


def answer(*rows):
    return {"champion": CHAMPION, "time": 1790000100.0, "comparisons": list(rows)}


@pytest.fixture
def server():
    """A server that gives its answers one after another, the last one for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            listener.asked.append((self.path, self.headers["authorization"]))
            answers = listener.answers
            status, content = answers.pop(0) if len(answers) > 1 else answers[0]
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.asked, listener.answers = [], [(200, answer(EARLY))]
        listener.url = f"http://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        yield listener
        listener.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("DPACE_ADMIN_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["verdict", *arguments])
    return exit_.value.code


def test_it_says_what_is_missing_and_ends_well(server, capsys):
    assert run("--url", server.url) in (0, None)
    text = capsys.readouterr().out
    assert "hold  [red]b[/red] (ba98) against a (0123), paired" in text  # a name is no markup
    assert "There are 12 paired requests; an answer needs 100." in text
    assert "about 88 more requests" in text
    assert server.asked == [("/dpace/verdict", None)]


def test_a_rollback_ends_with_1_and_shows_the_numbers(server, capsys):
    server.answers = [(200, answer(LATE))]
    assert run("--url", server.url) == 1
    text = capsys.readouterr().out
    assert "rollback" in text
    assert "-4.3% [-6.6%, -2.1%]" in text
    assert "2.70 [2.60, 2.80]" in text
    assert "-0.050 [-0.070, -0.030]" in text


def test_the_json_is_the_servers_answer(server, tmp_path):
    file = tmp_path / "verdict.json"
    run("--url", server.url, "--json", str(file))
    assert json.loads(file.read_text()) == answer(EARLY)


def test_without_a_challenger_it_says_how_to_get_one(server, capsys):
    server.answers = [(200, answer())]
    assert run("--url", server.url) == 2
    assert "a verdict needs a challenger, the server has none." in capsys.readouterr().err


def test_the_api_key_is_sent(server, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "read")
    run("--url", server.url)
    assert server.asked == [("/dpace/verdict", "Bearer read")]


def test_a_server_that_is_not_there_is_one_line(capsys):
    assert run("--url", "http://127.0.0.1:9") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_watch_goes_on_over_a_restart_until_interrupted(server, capsys, monkeypatch):
    broken = (500, ["no object"])
    server.answers = [(200, answer(EARLY)), broken, (200, answer(LATE))]
    looks = iter(range(3))

    def sleep(seconds):
        assert seconds == 0.5
        if next(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(verdict_command.time, "sleep", sleep)
    assert run("--url", server.url, "--watch", "--interval", "0.5") == 1
    text = capsys.readouterr().out
    assert "Trying again." in text
    assert "rollback" in text
    assert len(server.asked) == 3
