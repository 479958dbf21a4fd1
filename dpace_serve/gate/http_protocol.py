"""HTTP of a listener whose requests have a bounded head.

What uvicorn takes by itself where it is installed, httptools, keeps headers as long as they come:
a client without any key could fill the memory.
"""

import asyncio
import importlib.util

import uvicorn.config
from uvicorn.importer import import_from_string

MAX_HEAD_BYTES = 64 * 1024
"""Of a request line and all headers; uvicorn's other protocol, h11, has a bound of its own."""


_BOUNDED = "dpace_serve.gate.bounded_httptools:BoundedHttpTools"


def http_protocol() -> type[asyncio.Protocol] | str:
    """What uvicorn is to speak, as its setting `http`."""
    if not _has_httptools():
        return "h11"
    bounded: type[asyncio.Protocol] = import_from_string(_BOUNDED)
    return bounded


def use_everywhere() -> None:
    """Let every server of this process speak it that is not told otherwise."""
    protocols = uvicorn.config.HTTP_PROTOCOLS
    protocols["auto"] = _BOUNDED if _has_httptools() else protocols["h11"]


def _has_httptools() -> bool:
    return importlib.util.find_spec("httptools") is not None
