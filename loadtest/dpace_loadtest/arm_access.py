"""Who answers under the URL of an arm, asked before a run begins."""

import http.client
from pathlib import Path

from dpace_loadtest.connections import ConnectionPool
from dpace_loadtest.scenario import ArmConfig, ScenarioConfig
from dpace_loadtest.visit import ArmAccess
from dpace_serve.errors import ConfigError
from dpace_serve.outside_text import MAX_KEY_BYTES, parse_json, read_text

LOOK_UP_TIMEOUT_SECONDS = 30.0
MAX_ANSWER_BYTES = 1_000_000


def access_of(arm: ArmConfig, scenario: ScenarioConfig) -> ArmAccess:
    """How an arm is asked; its model is looked up where the scenario names none.

    Raises:
        ConfigError: If the key cannot be read, or the server does not say which model it has.
    """
    url = scenario.url_of(arm)
    key = read_key(arm.api_key_file) if arm.api_key_file is not None else None
    pool = ConnectionPool(url)
    return ArmAccess(pool, arm.model or _first_model(pool, url, key), key)


def read_key(path: Path) -> str:
    """The API key that a file holds.

    Raises:
        ConfigError: If it cannot be read or holds none.
    """
    try:
        key = read_text(path, max_bytes=MAX_KEY_BYTES).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read ({reason}). Check api_key_file.") from None
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"{path}: must hold one printable key. Correct the file.")
    return key


def _first_model(pool: ConnectionPool, url: str, key: str | None) -> str:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        connection = pool.take(LOOK_UP_TIMEOUT_SECONDS)
        try:
            connection.request("GET", f"{pool.root_path}/v1/models", headers=headers)
            response = connection.getresponse()
            said = response.read(MAX_ANSWER_BYTES)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(f"{url}: does not answer ({error}). Start the server first.") from None
    if response.status == 401:
        raise ConfigError(f"{url}: the server wants an API key. Set the arm's api_key_file.")
    try:
        return str(parse_json(said)["data"][0]["id"])
    except (ValueError, TypeError, KeyError, IndexError):
        raise ConfigError(
            f"{url}: must list its models under /v1/models, answered with {response.status}. "
            "Check the URL, or set the arm's model."
        ) from None
