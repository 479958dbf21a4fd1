"""What the client makes of a server's answers."""

import json

import httpx2
import pytest

from dpace_serve.errors import ConfigError, EngineError, SwapError
from dpace_serve.live.client import DrafterClient


def client(answer, url="http://test", key="k"):
    return DrafterClient(url, key=key, transport=httpx2.MockTransport(answer))


def test_each_question_is_the_documented_request():
    asked = []

    def answer(request):
        body = json.loads(request.content) if request.content else None
        asked.append((request.method, str(request.url), body))
        assert request.headers["authorization"] == "Bearer k"
        return httpx2.Response(200, json={})

    ours = client(answer, url="http://test/behind/")
    ours.show()
    ours.swap("d", name=None, revision="ab")
    ours.challenge("d", name="n", revision=None)
    ours.promote(None, revision=None)
    ours.promote("n", revision="ab")
    ours.drop("n", revision=None)
    ours.drop("n", revision="ab")
    ours.drop(None, revision=None)
    base = "http://test/behind/dpace"
    assert asked == [
        ("GET", f"{base}/drafters", None),
        ("PUT", f"{base}/drafters/champion", {"folder": "d", "revision": "ab"}),
        ("PUT", f"{base}/drafters/challenger", {"folder": "d", "name": "n"}),
        ("POST", f"{base}/promote", {}),
        ("POST", f"{base}/promote", {"name": "n", "revision": "ab"}),
        ("DELETE", f"{base}/drafters/challenger?name=n", None),
        ("DELETE", f"{base}/drafters/challenger?name=n&revision=ab", None),
        ("DELETE", f"{base}/drafters/challenger", None),
    ]


def test_without_a_key_none_is_sent():
    def answer(request):
        assert "authorization" not in request.headers
        return httpx2.Response(200, json={})

    client(answer, key=None).show()


def test_a_refusal_keeps_its_status_and_is_one_line():
    error = {"error": {"message": "busy.\nTry\x1b[31m later.", "code": 409}}
    ours = client(lambda _: httpx2.Response(409, json=error))
    with pytest.raises(SwapError, match=r"^busy\. Try \[31m later\.$") as caught:
        ours.promote(None, revision=None)
    assert caught.value.status == 409


@pytest.mark.parametrize(
    "response",
    [
        httpx2.Response(200, text="<html>"),
        httpx2.Response(200, json=[]),
        httpx2.Response(404, json={"detail": "Not Found"}),
        httpx2.Response(502, json={"error": "bad gateway"}),
        httpx2.Response(599, json={"error": {"message": "odd"}}),
        httpx2.Response(307, headers={"location": "http://elsewhere"}),
    ],
)
def test_an_answer_of_something_else_is_no_refusal(response):
    with pytest.raises(EngineError, match=f"status {response.status_code}"):
        client(lambda _: response).show()


def test_an_unreachable_server_is_one_line_without_the_password():
    def fail(request):
        raise httpx2.ConnectError("[Errno 111] Connection refused")

    with pytest.raises(
        EngineError, match=r"cannot be reached: Connection refused\. Check"
    ) as caught:
        client(fail, url="http://me:secret@test").show()
    assert "secret" not in str(caught.value)


def test_a_port_where_nothing_listens_is_refused_by_name(unused_tcp_port):
    with pytest.raises(EngineError, match="cannot be reached: Connection refused"):
        DrafterClient(f"http://127.0.0.1:{unused_tcp_port}", key=None).show()


def test_a_server_that_leaves_without_an_answer_is_one_line():
    def fail(request):
        raise httpx2.RemoteProtocolError("Server disconnected without sending a response.")

    with pytest.raises(EngineError, match=r"must answer: Server .* a response\. Check"):
        client(fail).show()


@pytest.mark.parametrize("url", ["test:8000", "ftp://test", ""])
def test_an_address_without_its_scheme_is_refused(url):
    with pytest.raises(ConfigError, match="must start with http"):
        DrafterClient(url, key=None)


def test_an_impossible_address_is_refused():
    with pytest.raises(EngineError, match="must answer"):
        client(lambda _: httpx2.Response(200, json={}), url="http://test:port").show()
