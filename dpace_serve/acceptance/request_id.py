"""Ids of requests as records keep them: clients choose them, of any length."""

import hashlib

MAX_LENGTH = 128
"""Longest id in a record, in characters."""
_CUT_HASH_BYTES = 16
_SHOWN_HASH_BYTES = 8


def recorded_id(request_id: str) -> str:
    """The id itself; one that is too long is cut, and ends with the hash of the whole of it."""
    if len(request_id) <= MAX_LENGTH:
        return request_id
    digest = _hash(request_id, _CUT_HASH_BYTES)
    return f"{request_id[: MAX_LENGTH - len(digest) - 1]}~{digest}"


def hashed_id(recorded: str) -> str:
    """What stands for an id where it is not to be known: some open what the engine has stored."""
    return _hash(recorded, _SHOWN_HASH_BYTES)


def _hash(request_id: str, num_bytes: int) -> str:
    # Python's JSON lets half a surrogate pair through.
    encoded = request_id.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(encoded, digest_size=num_bytes).hexdigest()
