"""Whether the server will be able to listen, before a model is loaded for it."""

import socket

from dpace_serve.errors import ConfigError


def require_free_port(host: str, port: int) -> None:
    """Check that the server will be able to listen.

    Raises:
        ConfigError: If it will not.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise ConfigError(
            f"port {port} on {host} must be free, but: {error.strerror}. "
            "Choose another with --port, or stop what listens there."
        ) from None
