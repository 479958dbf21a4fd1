"""What stands before an engine's whole HTTP application: who may call what, and how much of it.

Plain ASGI, the same for every engine; only `dpace serve` puts it there.
"""
