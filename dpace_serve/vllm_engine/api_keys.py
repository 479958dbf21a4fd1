"""The keys that vLLM's own routes ask for."""

import os
from argparse import Namespace


def api_keys(args: Namespace) -> list[str]:
    """The engine's own API keys: `--api-key`, or else VLLM_API_KEY."""
    return [key for key in (args.api_key or [os.environ.get("VLLM_API_KEY")]) if key]
