"""The vLLM plugin and server: the only code of this project that imports vllm."""
