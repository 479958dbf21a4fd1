"""Ids of requests as records keep them: clients choose them, of any length."""

import hashlib

MAX_LENGTH = 128
"""Longest id in a record, in characters."""
_HASH_BYTES = 16


def recorded_id(request_id: str) -> str:
    """The id itself; one that is too long is cut, and ends with the hash of the whole of it."""
    if len(request_id) <= MAX_LENGTH:
        return request_id
    digest = _hash(request_id)
    return f"{request_id[: MAX_LENGTH - len(digest) - 1]}~{digest}"


def _hash(request_id: str) -> str:
    # Python's JSON lets half a surrogate pair through.
    encoded = request_id.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(encoded, digest_size=_HASH_BYTES).hexdigest()
