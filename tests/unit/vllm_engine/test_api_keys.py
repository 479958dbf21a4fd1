"""The API keys of vLLM's own server."""

from types import SimpleNamespace

from dpace_serve.vllm_engine.api_keys import api_keys


def test_keys_come_from_the_argument_before_the_environment(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "from-environment")
    assert api_keys(SimpleNamespace(api_key=["given"])) == ["given"]
    assert api_keys(SimpleNamespace(api_key=None)) == ["from-environment"]
    monkeypatch.delenv("VLLM_API_KEY")
    assert api_keys(SimpleNamespace(api_key=None)) == []
