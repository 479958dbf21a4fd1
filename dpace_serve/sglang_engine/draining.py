"""SIGTERM of SGLang's server: its answers get a time limit, which SGLang itself does not have.

At SIGTERM SGLang waits until no request is left, however long, and then ends. So the answers are
ended here, as clients that leave would end them.
"""

import asyncio
from types import FrameType
from typing import TYPE_CHECKING

from dpace_serve.gate.draining import Drain

if TYPE_CHECKING:
    from sglang.srt.managers.tokenizer_manager import SignalHandler, TokenizerManager


def drain_at_sigterm(manager: "TokenizerManager", drain: Drain, *, limit_seconds: float) -> None:
    """Have SIGTERM begin a drain, and end at the limit what still runs.

    Args:
        manager: What takes the signal; it makes its handler with its first request.
        drain: What runs the server's answers.
        limit_seconds: How long running answers may take to finish.
    """
    make_theirs = manager.signal_handler_class

    def make_handler(manager: "TokenizerManager") -> "SignalHandler":
        handler = make_theirs(manager)
        begin_theirs = handler.sigterm_handler

        def begin(signum: int | None = None, frame: FrameType | None = None) -> None:
            begin_theirs(signum, frame)
            drain.begin()
            asyncio.get_running_loop().call_later(limit_seconds, drain.end_all)

        handler.sigterm_handler = begin
        return handler

    manager.signal_handler_class = make_handler
