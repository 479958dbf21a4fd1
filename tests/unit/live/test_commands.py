"""`dpace drafter ...` against a server on a socket: its lines, files and exit statuses."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dpace_serve import cli
from dpace_serve.live import commands

CHAMPION = {
    "slot": 0,
    "role": "champion",
    "is_loading": False,
    "name": "[red]a[/red]",
    "revision": "0123456789ab",
    "block_size": 8,
    "generation": 0,
    "running": 3,
    "served": 17,
    "shadowed": 0,
}
EMPTY = dict.fromkeys(CHAMPION) | {
    "slot": 1,
    "role": "empty",
    "running": 0,
    "served": 0,
    "shadowed": 0,
}
SHOWN = {"mode": "shadow", "drafters": [CHAMPION, EMPTY]}
SWAPPED = {
    "operation": "swap",
    "drafter": {"name": "b", "revision": "ba9876543210"},
    "slot": 1,
    "seconds": {"load": 1.25, "total": 2.5},
    "former_champion": {"name": "a", "revision": "0123456789ab"},
}


@pytest.fixture
def server():
    """A server that answers as its attributes say, and keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            listener.asked.append((self.command, self.path, self.headers["authorization"], content))
            listener.may_answer.wait()
            body = json.dumps(SHOWN if self.command == "GET" else listener.body).encode()
            self.send_response(listener.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815  (names of the base class)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.asked, listener.status, listener.body = [], 200, SWAPPED
        listener.may_answer = threading.Event()
        listener.may_answer.set()
        listener.url = f"http://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        yield listener
        listener.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("DPACE_ADMIN_KEY", "secret")
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


def dpace(*arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(["drafter", *arguments])
    return caught.value.code


def test_show_prints_a_table_and_writes_the_answer(server, capsys, tmp_path):
    file = tmp_path / "drafters.json"
    assert dpace("show", "--url", server.url, "--json", str(file)) == 0
    out = capsys.readouterr().out
    assert "[red]a[/red]" in out
    for text in ("champion", "0123456789ab", "17", "empty"):
        assert text in out
    assert json.loads(file.read_text()) == SHOWN


@pytest.mark.parametrize(
    ("operation", "line"),
    [
        (None, None),
        ({"name": "swap", "drafter": None, "waiting_for": 0}, "swap under way"),
        (
            {"name": "challenge", "drafter": "[b]", "waiting_for": 3},
            "challenge of [b] under way, waiting for 3 running requests to end",
        ),
    ],
)
def test_show_says_what_is_under_way(server, monkeypatch, capsys, operation, line):
    monkeypatch.setitem(SHOWN, "operation", operation)
    assert dpace("show", "--url", server.url) == 0
    after_table = capsys.readouterr().out.splitlines()[3:]
    assert after_table == ([] if line is None else [line])


def test_a_change_that_takes_long_says_that_it_waits(server, monkeypatch, capsys):
    server.may_answer.clear()
    monkeypatch.setattr(commands, "WAITING_NOTICE_SECONDS", 0.01)
    echo = commands.typer.echo

    def echo_and_let_it_answer(text, **options):
        echo(text, **options)
        server.may_answer.set()

    monkeypatch.setattr(commands.typer, "echo", echo_and_let_it_answer)
    assert dpace("swap", "new", "--url", server.url) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("waiting for the server")
    assert shown.out.startswith("swap: b")


def test_show_can_use_an_api_key(server, monkeypatch):
    monkeypatch.delenv("DPACE_ADMIN_KEY")
    assert dpace("show", "--url", server.url) == 0
    monkeypatch.setenv("VLLM_API_KEY", "read")
    assert dpace("show", "--url", server.url) == 0
    assert [asked[2] for asked in server.asked] == [None, "Bearer read"]


def test_a_swap_is_one_line(server, capsys):
    given = ["swap", "new", "--url", server.url, "--name", "b", "--revision", "ba98"]
    assert dpace(*given) == 0
    assert capsys.readouterr().out == (
        "swap: b (revision ba9876543210) in slot 1, 2.50 s, 1.25 s of them loading; "
        "the champion was a\n"
    )
    method, path, key, body = server.asked[0]
    assert (method, path, key) == ("PUT", "/dpace/drafters/champion", "Bearer secret")
    assert json.loads(body) == {"folder": "new", "name": "b", "revision": "ba98"}


@pytest.mark.parametrize(
    ("arguments", "method", "path"),
    [
        (["challenge", "new"], "PUT", "/dpace/drafters/challenger"),
        (["promote"], "POST", "/dpace/promote"),
        (["promote", "b"], "POST", "/dpace/promote"),
        (["drop"], "DELETE", "/dpace/drafters/challenger"),
        (["drop", "b"], "DELETE", "/dpace/drafters/challenger?name=b"),
        (
            ["drop", "b", "--revision", "ba98"],
            "DELETE",
            "/dpace/drafters/challenger?name=b&revision=ba98",
        ),
    ],
)
def test_each_command_asks_its_route(server, arguments, method, path):
    assert dpace(*arguments, "--url", server.url) == 0
    assert server.asked[0][:2] == (method, path)


def test_a_promotion_can_name_the_revision_that_is_meant(server):
    assert dpace("promote", "b", "--revision", "ba98", "--url", server.url) == 0
    assert json.loads(server.asked[0][3]) == {"name": "b", "revision": "ba98"}


def test_the_key_comes_from_the_file_first(server, tmp_path):
    file = tmp_path / "key"
    file.write_text("of-the-file\n")
    file.chmod(0o600)
    assert dpace("promote", "--url", server.url, "--admin-key-file", str(file)) == 0
    assert server.asked[0][2] == "Bearer of-the-file"


def test_a_refusal_is_one_line_on_stderr_and_status_1(server, capsys, tmp_path):
    server.status, server.body = 409, {"error": {"message": "one is under way.", "code": 409}}
    file = tmp_path / "answer.json"
    assert dpace("promote", "--url", server.url, "--json", str(file)) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "dpace: refused (409): one is under way.\n")
    assert json.loads(file.read_text()) == {
        "error": {"status": 409, "message": "one is under way."}
    }


def test_a_missing_key_is_status_2_before_anything_is_asked(server, capsys, monkeypatch):
    monkeypatch.delenv("DPACE_ADMIN_KEY")
    assert dpace("promote", "--url", server.url) == 2
    assert "needs the admin key" in capsys.readouterr().err
    assert server.asked == []


def test_an_unwritable_result_is_status_2_before_anything_is_asked(server):
    assert dpace("promote", "--url", server.url, "--json", "/no/such/folder/f.json") == 2
    assert server.asked == []


def test_an_unreachable_server_is_status_2(capsys):
    assert dpace("show", "--url", "http://127.0.0.1:1") == 2
    err = capsys.readouterr().err
    assert err.startswith("dpace: http://127.0.0.1:1 cannot be reached: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["swap"], ["show"], ["promote", "--url"], ["other"]])
def test_a_wrong_usage_is_status_2(arguments):
    assert dpace(*arguments) == 2
