"""Text that may quote what a user wrote, made fit to be shown: credentials are left out."""

import re

_HIDDEN = "***"
# A user name and a password stand before an @, with or without a scheme; rather too much is hidden.
_USERINFO = re.compile(r"""([a-z][\w+.-]*://)[^\s'"]*@""", re.IGNORECASE)
_BARE_USERINFO = re.compile(r"""[^\s/'"]+:(?!//)[^\s'"]*@""")
_QUERY = re.compile(r"""(?<=\?)[^\s'"]+=[^\s'"]*""")
_NAMED = re.compile(
    r"""((?:api[-_]?key|password|secret|hf[-_]?token|bearer)['"]?[\s:=,]+['"]?)[^\s'",)\]}]+""",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """The text with `***` for user names and passwords in URLs, queries, and named secrets."""
    text = _USERINFO.sub(rf"\g<1>{_HIDDEN}@", text)
    text = _BARE_USERINFO.sub(f"{_HIDDEN}@", text)
    text = _QUERY.sub(_HIDDEN, text)
    return _NAMED.sub(rf"\g<1>{_HIDDEN}", text)
