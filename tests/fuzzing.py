"""What all properties of input from outside share: damaged documents, and how they may be refused.

A reader gives a valid object or raises a DpaceError of one line, in less than a second and 200 MB.
`make fuzz` runs the same properties with many more examples, which differ from run to run.
"""

import contextlib
import copy
import json
import os
import resource
import time

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dpace_serve.errors import MAX_MESSAGE_CHARACTERS, DpaceError

MAX_SECONDS = 1.0
MAX_MEGABYTES = 200
SECRET = "open-sesame-0123456789"  # noqa: S105 - what no message may quote

_EXAMPLES = os.environ.get("DPACE_FUZZ_EXAMPLES")
# A folder is shared by the examples of one property: each writes its file anew.
FUZZ = settings(
    max_examples=int(_EXAMPLES or 100),
    derandomize=_EXAMPLES is None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

_NUMBERS = (
    0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 10**4000, 1e308, -0.0, 1e-320, float("inf"),
    float("-inf"), float("nan"),
)  # fmt: skip
_WORDS = (
    "", "\0", "\n", "\ud800", "\ufeff", "\x1b[31m", "\u202e", "x" * 10_000, ":" * 5_000, "NaN",
    "../../etc/passwd", "/etc/passwd", "a\0b", "a\nb", f"me:{SECRET}@host", "1", "~",
)  # fmt: skip
_ODD = st.sampled_from(_NUMBERS) | st.sampled_from(_WORDS)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | _ODD | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
_BYTES = st.binary(max_size=200) | st.sampled_from(
    [
        b"",
        b"\xef\xbb\xbf",
        b"\0",
        b"\xff\xfe",
        b"null",
        b"9" * 5_000,
        b"[" * 100_000,
        b"[" * 900 + b"]" * 900,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b'{"a":1,"a":2}',
        b'"\\ud800"',
        b"1e999",
        b"x" * 300_000,
    ]
)


def outcome(read, *, refusals=DpaceError, hides_secret=False):
    """What a reader returned; None where it refused, as one should.

    Settings may hold a secret, and no refusal may quote it; files of data and weights hold none.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.thread_time()
    try:
        result = read()
    except refusals as error:
        text = str(error)
        result = None
        if isinstance(error, DpaceError):
            assert text.isprintable(), f"a refusal is one line: {text!r}"
            assert 0 < len(text) <= MAX_MESSAGE_CHARACTERS
        assert not (hides_secret and SECRET in text)
    if time.thread_time() - begin > MAX_SECONDS:
        assert seconds_again(read, refusals) < MAX_SECONDS
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert grown < MAX_MEGABYTES * 1000
    return result


def seconds_again(read, refusals):
    """How long a reader takes that was slow once: other work of the machine is not its fault."""
    times = []
    for _ in range(2):
        begin = time.thread_time()
        with contextlib.suppress(refusals):
            read()
        times.append(time.thread_time() - begin)
    return min(times)


@st.composite
def mutated(draw, document):
    """A document with one to three changes anywhere in it."""
    changed = [copy.deepcopy(document)]  # in a list, so that the whole may be replaced too
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_places(changed)))
        change = draw(st.sampled_from(["replace", "remove", "add", "wrap", "copy"]))
        if change == "replace":
            holder[key] = draw(VALUES)
        elif change == "remove" and holder is not changed:
            del holder[key]
        elif change == "wrap":
            for _ in range(draw(st.sampled_from([1, 2, 70]))):
                holder[key] = [holder[key]] if draw(st.booleans()) else {"a": holder[key]}
        elif change == "copy":
            from_holder, from_key = draw(st.sampled_from(_places(changed)))
            if from_holder[from_key] != SECRET:  # elsewhere it would be none
                holder[key] = copy.deepcopy(from_holder[from_key])
        elif isinstance(holder[key], dict):
            holder[key][draw(st.sampled_from(_WORDS) | st.text(max_size=8))] = draw(VALUES)
        elif isinstance(holder[key], list):
            holder[key].append(draw(VALUES))
    return changed[0]


def _places(value):
    """Every list and mapping inside a value with each of its keys."""
    found, waiting = [], [value]
    while waiting:
        outer = waiting.pop()
        keys = outer if isinstance(outer, dict) else range(len(outer))
        for key in keys:
            found.append((outer, key))
            if isinstance(outer[key], dict | list):
                waiting.append(outer[key])
    return found


@st.composite
def json_files(draw, document):
    """Bytes of a file that was this document as JSON before somebody changed it."""
    if draw(st.integers(0, 3)) == 0:
        return draw(_BYTES)
    changed = draw(mutated(document))
    text = json.dumps(changed, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    return draw(damaged(text))


@st.composite
def damaged(draw, raw):
    """Bytes as they are, or with one change below the level of any format."""
    place = draw(st.integers(0, len(raw)))
    change = draw(st.sampled_from(["none", "none", "cut", "insert", "overwrite", "repeat"]))
    if change == "cut":
        return raw[:place]
    if change == "insert":
        return raw[:place] + draw(_BYTES) + raw[place:]
    if change == "overwrite":
        return raw[:place] + draw(st.binary(min_size=1, max_size=8)) + raw[place + 1 :]
    if change == "repeat":
        return raw + raw[place:]
    return raw


@st.composite
def json_lines(draw, documents):
    """Bytes of a JSONL file of which one line was changed."""
    lines = [json.dumps(document).encode() for document in documents]
    place = draw(st.integers(0, len(lines) - 1))
    lines[place] = draw(json_files(documents[place]))
    return b"\n".join(lines)
