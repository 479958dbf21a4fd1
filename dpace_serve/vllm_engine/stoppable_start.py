"""vLLM's server, run so that a signal ends it while it starts, too.

vLLM 0.32 lets SIGTERM raise KeyboardInterrupt until its server listens. But `zmq_socket_ctx`, in
which it waits for the engine to come up, takes KeyboardInterrupt for the end of that wait and goes
on; then the server waits for an engine that waits for it, ten minutes long. Ctrl-C fares no better:
asyncio turns the first into a cancellation that nobody awaits. So the handlers of `dpace serve`
stay, which raise SystemExit, and `run_server` of vLLM, which would replace one, is not called.
"""

from argparse import Namespace

from dpace_serve.gate.http_protocol import http_protocol

CONNECTION_SECONDS = 3
"""How long connections may take to close when the engine has stopped: a client that does not read
what it has been sent holds one open for ever."""


async def run_server(args: Namespace) -> None:
    """Run vLLM's OpenAI server in this process until a signal stops it.

    Args:
        args: The arguments of vLLM's server, checked.

    Raises:
        SystemExit: If a signal whose handler raises it comes before the server listens.
    """
    from vllm.entrypoints.launchers.api_server.entry import run_server_worker
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.utils.system_utils import decorate_logs

    decorate_logs("APIServer", skip_if_decorated=True)
    address, listener = setup_server(args, reuse_port=False)
    await run_server_worker(
        address,
        listener,
        args,
        http=http_protocol(),
        timeout_graceful_shutdown=CONNECTION_SECONDS,
    )
