"""Keys from files, and what is refused before a model is loaded."""

import socket

import pytest

from dpace_serve.errors import ConfigError
from dpace_serve.gate import stack
from dpace_serve.serve_config import ServeConfig

NO_KEYS = stack.ServerKeys((), None, None)
LONG_ENOUGH = "k" * 32


@pytest.fixture
def write(tmp_path):
    def make(name, content):
        file = tmp_path / name
        file.write_text(content)
        file.chmod(0o600)
        return file

    return make


def config(**settings):
    return ServeConfig(target="t", **settings)


def test_keys_come_from_their_files(write):
    keys = stack.server_keys(
        config(
            api_key_file=write("api", "one\n\n two \n"),
            admin_key_file=write("admin", "three"),
            metrics_key_file=write("metrics", "four\n"),
        ),
        [],
        {},
    )
    assert keys == stack.ServerKeys(("one", "two"), "three", "four")


def test_keys_are_not_shown_by_what_holds_them(write):
    keys = stack.ServerKeys((LONG_ENOUGH,), LONG_ENOUGH, LONG_ENOUGH)
    assert LONG_ENOUGH not in repr(keys)
    assert LONG_ENOUGH not in str(keys)


def test_without_a_file_the_keys_of_the_engine_and_the_environment_count():
    assert stack.server_keys(config(), ["k"], {"DPACE_ADMIN_KEY": "a"}).api == ("k",)
    assert stack.server_keys(config(), ["k"], {"DPACE_ADMIN_KEY": "a"}).admin == "a"


def test_two_places_for_api_keys_are_one_too_many(write):
    with pytest.raises(ConfigError, match="API keys must come from one place"):
        stack.server_keys(config(api_key_file=write("api", "one")), ["two"], {})


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"api": "same", "admin": "same"}, "the admin key must not be an API key"),
        ({"api": "same", "metrics": "same"}, "it must be no other key"),
        ({"admin": "same", "metrics": "same"}, "it must be no other key"),
        ({"metrics": "one\ntwo"}, "there must be one metrics key"),
        ({"admin": "one\ntwo"}, "there must be one admin key"),
        ({"api": ""}, "an API key must be one word"),
        ({"api": "one\ntwo words"}, "an API key must be one word"),
        ({"metrics": "\n"}, "a metrics key must be one word"),
    ],
)
def test_a_key_that_opens_too_much_or_nothing_is_refused(write, files, words):
    paths = {f"{name}_key_file": write(name, content) for name, content in files.items()}
    with pytest.raises(ConfigError, match=words) as caught:
        stack.server_keys(config(**paths), [], {})
    assert "same" not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "llm.example"])  # noqa: S104
def test_beyond_loopback_there_must_be_a_key(host):
    with pytest.raises(ConfigError, match="must have an API key"):
        stack.require_guarded(config(host=host), NO_KEYS)
    stack.require_guarded(config(host=host), stack.ServerKeys(("k",), None, None))
    stack.require_guarded(config(host=host, allow_anonymous=True), NO_KEYS)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_loopback_there_need_not_be_one(host):
    stack.require_guarded(config(host=host), NO_KEYS)


def test_a_listener_for_observation_beyond_loopback_needs_a_key_too():
    with pytest.raises(ConfigError, match="must have an API key"):
        stack.require_guarded(config(observation={"host": "10.0.0.1"}), NO_KEYS)


def test_the_ports_must_be_free_and_different(free_port):
    with pytest.raises(ConfigError, match=r"observation\.port must not be port"):
        stack.require_possible(config(port=free_port, observation={"port": free_port}))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {taken} on 127.0.0.1 must be free"):
            stack.require_possible(config(port=free_port, observation={"port": taken}))


def test_a_route_that_must_not_be_opened_is_refused_at_the_start(free_port):
    with pytest.raises(ConfigError, match="open_routes must leave /collective_rpc shut"):
        stack.require_possible(config(port=free_port, open_routes=("POST /collective_rpc",)))
    with pytest.raises(ConfigError, match="open_routes must not name /dpace/promote"):
        stack.require_possible(config(port=free_port, open_routes=("POST /dpace/promote",)))


@pytest.mark.parametrize("route", ["/tokenize", "post /tokenize", "POST tokenize", "POST  /a", ""])
def test_a_route_is_a_method_and_a_path(route):
    with pytest.raises(ValueError, match="open_routes"):
        config(open_routes=(route,))
