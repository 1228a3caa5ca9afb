"""Keeping passwords out of what is printed, logged and refused. Imports nothing of this project."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"://\S*@")
_IN_QUERY = re.compile(r"([?&][^=&\s]*(?:password|passwd|pwd|token|secret|api_?key)[^=&\s]*=)[^&\s]+", re.IGNORECASE)
_SECRET_NAME = re.compile(r"password|passwd|token|secret|credential|(^|_)key($|_)", re.IGNORECASE)


def without_password(text: str) -> str:
    """Return a text in which no URL carries a user, a password or a token."""
    return _IN_QUERY.sub(r"\1***", _USER_INFO.sub("://***@", text))


def holds_password(text: str) -> bool:
    """Whether a text has a URL that carries a user, a password or a token."""
    return without_password(text) != text


def shown_variable(name: str, value: str) -> str:
    """Return an environment variable's value as it may be shown."""
    return "(set, not shown)" if _SECRET_NAME.search(name) else without_password(value)
