"""DrafterClient: a running server's drafters, over HTTP."""

import re
from http import HTTPStatus
from typing import Any

import httpx2

from dpace_serve.errors import ConfigError, EngineError, SwapError
from dpace_serve.outside_text import parse_json
from dpace_serve.redaction import without_credentials

_CONNECT_SECONDS = 10.0
# A change waits for running requests and for gigabytes of weights before it answers.
_ANSWER_SECONDS = 1800.0
# "[Errno 111] Connection refused": the number says nothing more.
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")


class DrafterClient:
    """Asks one server; a refusal of the server is a SwapError, anything else an EngineError."""

    def __init__(
        self, url: str, *, key: str | None, transport: httpx2.BaseTransport | None = None
    ) -> None:
        """Prepare to ask.

        Args:
            url: Address of the server, with the path of its root if it has one.
            key: Admin key, or for reading an API key; none sends none.
            transport: How to reach it; the network when not given.

        Raises:
            ConfigError: If this is no address of a server.
        """
        self._shown = without_credentials(url)
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{self._shown}: the address must start with http:// or https://. Write for "
                "example http://127.0.0.1:8000."
            )
        self._url = url.rstrip("/")
        self._key = key
        self._transport = transport

    def show(self) -> dict[str, Any]:
        """The server's drafters, as `GET /dpace/drafters` has them."""
        return self._ask("GET", "/dpace/drafters")

    def verdict(self) -> dict[str, Any]:
        """What the server says of its challengers, as `GET /dpace/verdict` has it."""
        return self._ask("GET", "/dpace/verdict")

    def swap(self, folder: str, *, name: str | None, revision: str | None) -> dict[str, Any]:
        """Let a drafter of the server's own disk serve."""
        body = _drafter(folder, name, revision)
        return self._ask("PUT", "/dpace/drafters/champion", body=body)

    def challenge(self, folder: str, *, name: str | None, revision: str | None) -> dict[str, Any]:
        """Compare a drafter of the server's own disk with the champion."""
        body = _drafter(folder, name, revision)
        return self._ask("PUT", "/dpace/drafters/challenger", body=body)

    def promote(self, name: str | None, *, revision: str | None) -> dict[str, Any]:
        """Make a challenger the champion; no name takes the only one, no revision any."""
        return self._ask("POST", "/dpace/promote", body=_challenger(name, revision))

    def drop(self, name: str | None, *, revision: str | None) -> dict[str, Any]:
        """End a challenger's comparison; no name takes the only one, no revision any."""
        return self._ask("DELETE", "/dpace/drafters/challenger", query=_challenger(name, revision))

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        timeout = httpx2.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
        try:
            with httpx2.Client(
                headers=headers, timeout=timeout, transport=self._transport, trust_env=False
            ) as client:
                response = client.request(method, self._url + path, json=body, params=query)
        except httpx2.ConnectError as error:
            raise EngineError(
                f"{self._shown} cannot be reached: {_reason(error)}. Check the address and whether "
                "the server runs."
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise EngineError(
                f"{self._shown} must answer: {_reason(error)}. Check the address and whether the "
                "server runs."
            ) from None
        return self._read(response)

    def _read(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            answer, status = parse_json(response.content), HTTPStatus(response.status_code)
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            if response.is_success:
                return answer
            error = answer.get("error")
            if isinstance(error, dict) and isinstance(error.get("message"), str):
                text = "".join(char if char.isprintable() else " " for char in error["message"])
                raise SwapError(text, status=status)
        raise EngineError(
            f"{self._shown} must answer as a server of `dpace serve`, answered with status "
            f"{response.status_code}. Check the address."
        )


def _reason(error: httpx2.HTTPError | httpx2.InvalidURL) -> str:
    text = _ERRNO.sub("", without_credentials(str(error))).rstrip(".")
    return text or type(error).__name__


def _drafter(folder: str, name: str | None, revision: str | None) -> dict[str, str]:
    return _without_none({"folder": folder, "name": name, "revision": revision})


def _challenger(name: str | None, revision: str | None) -> dict[str, str]:
    return _without_none({"name": name, "revision": revision})


def _without_none(values: dict[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in values.items() if value is not None}
