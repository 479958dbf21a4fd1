"""Text that may quote what a user wrote, made fit to be shown: credentials are left out."""

import re

MAX_SHOWN_CHARACTERS = 4000
"""The patterns look ahead from every character: a longer text would take seconds, and cut in the
middle of a password it would no longer be known as one."""

_HIDDEN = "***"
# A user name and a password stand before an @, with or without a scheme; rather too much is hidden.
_USERINFO = re.compile(r"""([a-z][\w+.-]*://)[^\s'"]*@""", re.IGNORECASE)
_WORD_WITH_AT = re.compile(r"""[^\s'"@]*@[^\s'"]*""")
_COLON = re.compile(r"(?<=[^/]):(?!//)")
_QUERY = re.compile(r"""(?<=\?)[^\s'"]+=[^\s'"]*""")
_NAMED = re.compile(
    r"""((?:api[-_]?key|password|secret|salt|hf[-_]?token|bearer)['"]?[\s:=,]+['"]?)[^\s'",)\]}]+""",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """The text with `***` for user names and passwords in URLs, queries, and named secrets.

    Of a text that is too long nothing is shown but its length.
    """
    if len(text) > MAX_SHOWN_CHARACTERS:
        return f"({len(text)} characters)"
    text = _USERINFO.sub(rf"\g<1>{_HIDDEN}@", text)
    text = _WORD_WITH_AT.sub(_without_bare_userinfo, text)
    text = _QUERY.sub(_HIDDEN, text)
    return _NAMED.sub(rf"\g<1>{_HIDDEN}", text)


def _without_bare_userinfo(word: re.Match[str]) -> str:
    # One expression for all of it would try every pair of colons: minutes for a line of them.
    before, _, after = word[0].rpartition("@")
    colon = _COLON.search(before)
    if colon is None:
        return word[0]
    return f"{before[: before.rfind('/', 0, colon.start()) + 1]}{_HIDDEN}@{after}"
