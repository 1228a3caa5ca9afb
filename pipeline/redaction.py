"""Redaction of credentials in everything that is printed, logged or stored. Imports nothing of this project."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"://\S*@")
_SECRET_IN_QUERY = re.compile(
    r"([?&][^=&\s]*(?:password|passwd|pwd|token|secret|api_?key)[^=&\s]*=)[^&\s]+", re.IGNORECASE
)
_SECRET_NAME = re.compile(r"password|passwd|token|secret|credential|(^|_)key($|_)", re.IGNORECASE)


def without_password(text: str) -> str:
    """Return `text` with user names, passwords and tokens in URLs replaced by `***`."""
    return _SECRET_IN_QUERY.sub(r"\1***", _USER_INFO.sub("://***@", text))


def holds_password(text: str) -> bool:
    """Return whether a URL in `text` contains a user name, a password or a token."""
    return without_password(text) != text


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message (or its type) with passwords redacted and no final period."""
    return without_password((str(error).strip() or type(error).__name__).splitlines()[0].rstrip("."))


def shown_variable(name: str, value: str) -> str:
    """Return the printable value of an environment variable; values of secrets are hidden."""
    return "(set, not shown)" if _SECRET_NAME.search(name) else without_password(value)
