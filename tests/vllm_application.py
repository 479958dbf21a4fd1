"""vLLM's HTTP application as its server builds it, for tests that look at its routes."""

import logging

from fastapi import FastAPI


def build_vllm_application() -> FastAPI:
    """Build it in this process, whose log stays as it was."""
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    root = logging.getLogger()
    level = root.level
    try:
        args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
        return build_app(args, ("generate",))
    finally:
        root.setLevel(level)  # SageMaker's part of it lets through errors alone, of everything
