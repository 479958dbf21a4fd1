"""Our own log lines in the server's process, written as the engine writes its own."""

import logging
from argparse import Namespace


def write_as_the_engine(args: Namespace) -> None:
    """Give our lines the engine's time, level and place; they stay on stderr.

    Call it once vLLM has configured its own logging. A --log-config-file of the user decides for
    our lines too: there nothing is changed.

    Args:
        args: The server's arguments.
    """
    theirs = logging.getLogger("vllm").handlers
    if args.log_config_file is not None or not theirs:  # VLLM_CONFIGURE_LOGGING=0 leaves none
        return
    handler = logging.StreamHandler()
    handler.setFormatter(theirs[0].formatter)
    ours = logging.getLogger("dpace_serve")
    ours.handlers = [handler]
    ours.propagate = False
