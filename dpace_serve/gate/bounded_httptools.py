"""BoundedHttpTools: uvicorn's protocol of httptools, which ends where a head has no end."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dpace_serve.gate.http_protocol import MAX_HEAD_BYTES

_TOO_LARGE = "The headers are too large."


class BoundedHttpTools(HttpToolsProtocol):
    """Counts bytes that are neither a whole head nor body: request line, headers, trailers."""

    _num_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Parse, and close the connection of a client whose head is too large."""
        if self.transport.is_closing():
            return
        self._num_bytes += len(data)
        super().data_received(data)
        if self._num_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.logger.warning(_TOO_LARGE)
            self.send_400_response(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._num_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        self._num_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole, with its trailers."""
        self._num_bytes = 0
        super().on_message_complete()
