"""The SGLang plugin and server: the only code of this project that imports sglang."""
