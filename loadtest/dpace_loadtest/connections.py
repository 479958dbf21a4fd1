"""Connections to one server, kept open between requests."""

import http.client
import select
import socket
from urllib.parse import urlsplit


class ConnectionPool:
    """HTTP/1.1 connections to one server; the one used last is used first.

    There is no upper bound: a load test that waits for a free connection no longer sends when it
    said it would.

    Args:
        url: Root of the server, without a slash at its end.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._is_secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self.root_path = parts.path
        self._idle: list[http.client.HTTPConnection] = []

    def take(self, timeout_seconds: float) -> http.client.HTTPConnection:
        """An open connection.

        Raises:
            OSError: If the server cannot be reached within the timeout.
        """
        while self._idle:
            connection = self._idle.pop()
            if _is_quiet(connection):
                return connection
            connection.close()
        kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout_seconds)
        connection.connect()
        # Head and body are two writes; the second must not wait for the first one's receipt.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def give_back(self, connection: http.client.HTTPConnection) -> None:
        """Keep a connection whose last answer was read to its end."""
        if connection.sock is not None:  # closed where the server wanted that
            self._idle.append(connection)

    def close(self) -> None:
        """Close all that are idle."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()


def _is_quiet(connection: http.client.HTTPConnection) -> bool:
    # A server closes what was idle too long. That is readable at once, and is found here rather
    # than by a request that fails or is sent twice.
    readable, _, _ = select.select([connection.sock], [], [], 0)
    return not readable
