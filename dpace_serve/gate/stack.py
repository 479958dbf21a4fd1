"""The whole gate around an engine's application, from the outside to the inside."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.types import ASGIApp

from dpace_serve.errors import ConfigError
from dpace_serve.gate import tls
from dpace_serve.gate.bounded_answers import BoundedAnswers
from dpace_serve.gate.draining import Drain
from dpace_serve.gate.generation_gate import GenerationGate
from dpace_serve.gate.host_gate import HostGate, is_loopback
from dpace_serve.gate.key_ring import KeyRing
from dpace_serve.gate.observation import Observation
from dpace_serve.gate.refusal import CountRefusal
from dpace_serve.gate.route_gate import RouteGate
from dpace_serve.gate.route_table import RouteTable
from dpace_serve.key_file import read_keys
from dpace_serve.live.admin_key import read_admin_key
from dpace_serve.serve_config import ServeConfig
from dpace_serve.web.free_port import require_free_port
from dpace_serve.web.key_guard import require_separate


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """The keys of a server.

    Attributes:
        api: Each opens what users may do; none leaves that open.
        admin: Opens changes of drafters, and reading; none leaves changes shut.
        metrics: Opens the metrics; none leaves that to the API keys.
    """

    api: tuple[str, ...] = field(repr=False)
    admin: str | None = field(repr=False)
    metrics: str | None = field(repr=False)


def server_keys(
    config: ServeConfig, engine_keys: Collection[str], environment: Mapping[str, str]
) -> ServerKeys:
    """Read the keys of a server.

    Args:
        config: What `dpace serve` was given.
        engine_keys: Keys that the engine itself was given.
        environment: Where the admin key may be.

    Raises:
        ConfigError: If a file cannot be used, a key opens what it should not, or two places have
            API keys.
    """
    api = tuple(engine_keys)
    if config.api_key_file is not None:
        if api:
            raise ConfigError(
                "API keys must come from one place, got api_key_file and a key of the engine. "
                "Leave the engine's out."
            )
        api = read_keys(config.api_key_file, "an API key")
    admin = read_admin_key(config.admin_key_file, environment)
    metrics = None
    if config.metrics_key_file is not None:
        metrics, *others = read_keys(config.metrics_key_file, "a metrics key")
        if others or metrics in {*api, admin}:
            raise ConfigError(
                f"{config.metrics_key_file}: there must be one metrics key, and it must be no "
                "other key of the server. Write another."
            )
    require_separate(api, admin)
    return ServerKeys(api, admin, metrics)


def require_possible(config: ServeConfig) -> None:
    """Check, before a model is loaded, what the gate needs beside keys.

    Raises:
        ConfigError: If a port is taken, a route must not be opened, or the certificate cannot be
            used.
    """
    RouteTable(config.open_routes)
    if config.tls is not None:
        tls.require_usable(config.tls)
    require_free_port(config.host, config.port)
    observation = config.observation
    if observation is not None:
        if observation.port == config.port:
            raise ConfigError(
                f"observation.port must not be port, both are {config.port}. Choose another."
            )
        require_free_port(observation.host, observation.port)


def require_guarded(config: ServeConfig, keys: ServerKeys) -> None:
    """Check, before a model is loaded, that not everyone can use the server by oversight.

    Raises:
        ConfigError: If everyone could.
    """
    if not (keys.api or config.allow_anonymous or _listens_on_loopback(config)):
        raise ConfigError(
            "a server that listens beyond loopback must have an API key. Set api_key_file, or "
            "allow_anonymous=true to serve everyone who reaches it."
        )


def install(
    application: Starlette, config: ServeConfig, keys: ServerKeys, count: CountRefusal
) -> Drain:
    """Put the gate around everything that an application answers, errors of it included.

    Args:
        application: The engine's; it must not have answered yet.
        config: What `dpace serve` was given.
        keys: Who may call it.
        count: Told of each refusal.

    Returns:
        What ends its answers when the server stops.
    """
    drain = Drain()
    inner: Callable[[], ASGIApp] = application.build_middleware_stack

    def build_middleware_stack() -> ASGIApp:
        return around(inner(), application, config, keys, count, drain)

    # Both engines add their own middleware after us, and what is added last stands outermost.
    vars(application)["build_middleware_stack"] = build_middleware_stack
    return drain


def around(
    app: ASGIApp,
    application: ASGIApp,
    config: ServeConfig,
    keys: ServerKeys,
    count: CountRefusal,
    drain: Drain,
) -> ASGIApp:
    """The gate, and what is behind it.

    Args:
        app: What is behind.
        application: The whole application, gate included, which answers on the listener for
            observation.
        config: What `dpace serve` was given.
        keys: Who may call it.
        count: Told of each refusal.
        drain: What knows the answers that run, and ends them.
    """
    limits = config.limits
    app = GenerationGate(app, limits=limits, count=count)
    app = BoundedAnswers(app, drain, deadline_seconds=limits.request_deadline_seconds, count=count)
    app = RouteGate(
        app,
        routes=RouteTable(config.open_routes),
        keys=KeyRing(keys.api, keys.admin, keys.metrics),
        has_observation=config.observation is not None,
        count=count,
    )
    app = HostGate(
        app,
        names=config.allowed_hosts,
        loopback_only=not keys.api and _listens_on_loopback(config),
        count=count,
    )
    if config.observation is None:
        return app
    return Observation(app, application=application, config=config.observation, tls=config.tls)


def _listens_on_loopback(config: ServeConfig) -> bool:
    observation = config.observation
    hosts = [config.host, *([observation.host] if observation else [])]
    return all(map(is_loopback, hosts))
