"""SIGTERM as SGLang hands it on: its own handler first, then the drain and its limit."""

import asyncio
from types import SimpleNamespace

from dpace_serve.gate.draining import Drain
from dpace_serve.gate.ended_answer import EndableAnswer
from dpace_serve.sglang_engine.draining import drain_at_sigterm


class TheirHandler:
    def __init__(self, manager):
        self.manager = manager

    def sigterm_handler(self, signum=None, frame=None):
        self.manager.gracefully_exit = True


async def test_sigterm_begins_a_drain_and_its_limit_ends_the_answers():
    sent = []

    async def hang(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    async def receive():
        return await asyncio.Future()

    async def send(message):
        sent.append(message)

    manager = SimpleNamespace(signal_handler_class=TheirHandler, gracefully_exit=False)
    drain = Drain()
    drain_at_sigterm(manager, drain, limit_seconds=0.1)
    handler = manager.signal_handler_class(manager)
    answer = EndableAnswer(hang, {"type": "http"}, receive, send)
    with drain.running(answer):
        running = asyncio.create_task(answer.run())
        await asyncio.sleep(0.2)
        assert not running.done()  # without a signal there is no limit
        handler.sigterm_handler()
        assert manager.gracefully_exit
        assert drain.is_draining
        await asyncio.sleep(0.03)
        assert not running.done()
        handler.sigterm_handler()  # a second one gives no more time
        await asyncio.wait_for(running, 2)
    assert [message.get("status") for message in sent] == [503, None]
