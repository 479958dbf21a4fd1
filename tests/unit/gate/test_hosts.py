"""By which names a server may be asked."""

import pytest

from dpace_serve.gate.host_gate import is_loopback


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.9.9.9", "::1"]
)
def test_names_of_this_machine(name):
    assert is_loopback(name)


@pytest.mark.parametrize(
    "name",
    ["", "0.0.0.0", "::", "10.0.0.1", "localhost.evil", "127.0.0.1.evil", "127.1", "2130706433"],  # noqa: S104
)
def test_names_that_may_be_another_machine(name):
    assert not is_loopback(name)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200),
        ("LocalHost", 200), ("evil.example", 421), ("evil.example:8000", 421), ("", 421),
        ("localhost.evil.example", 421), ("127.0.0.1.evil.example", 421), ("[::1].evil", 200),
    ],
)  # fmt: skip
async def test_an_open_server_on_loopback_answers_to_loopback_alone(gated, host, status):
    server = gated(api=())
    response = await server.ask("GET", "/v1/models", headers={"Host": host})
    assert response.status_code == status
    assert bool(server.reached) is (status == 200)
    assert server.refused == ([] if status == 200 else ["host"])


async def test_with_keys_or_beyond_loopback_any_name_will_do(gated):
    host = {"Host": "any.example"}
    assert (await gated().ask("GET", "/health", headers=host)).status_code == 200
    open_to_all = gated(api=(), host="10.0.0.1", allow_anonymous=True)
    assert (await open_to_all.ask("GET", "/health", headers=host)).status_code == 200


async def test_given_names_are_the_only_ones(gated):
    server = gated(allowed_hosts=("llm.example", "[2001:db8::1]"))
    for host, status in {
        "llm.example": 200, "LLM.example:443": 200, "[2001:db8::1]:8000": 200, "localhost": 421,
        "127.0.0.1": 421,
    }.items():  # fmt: skip
        response = await server.ask("GET", "/health", headers={"Host": host})
        assert response.status_code == status
