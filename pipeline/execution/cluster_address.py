"""Which addresses of a Dask cluster are accepted: loopback, or TLS.

A Dask process runs whatever code reaches its port, so a port that others can reach needs certificates.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import UserInputError, invalid

REACH_SECONDS = 5.0
USE_TLS = "Use tls:// with certificates, or 127.0.0.1 through an SSH tunnel (docs/scaling.md)."


def cluster_address(text: str) -> str:
    """Return the address of the scheduler that answers, from an address or a scheduler file.

    Raises:
        UserInputError: Dask is not installed, or the address is not valid, not protected or not reachable.
    """
    if importlib.util.find_spec("distributed") is None:
        raise invalid("cluster", text, "needs Dask.", remedy="python -m pip install 'distributed>=2026.7'")
    address = text if "://" in text else _address_in(Path(text))
    parts = urlsplit(address)
    if parts.scheme not in ("tcp", "tls") or not _has_port(address):
        raise invalid("cluster", text, "is not an address such as tcp://127.0.0.1:8786 or tls://HOST:8786.")
    if is_exposed(address):
        raise invalid("cluster", text, "would send code and data through the network without TLS.", remedy=USE_TLS)
    try:
        socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise _unreachable(text, error) from None
    return address


def _unreachable(text: str, error: OSError) -> UserInputError:
    remedy = "Start it first: python -m dask scheduler (docs/scaling.md)."
    return invalid("cluster", text, f"no scheduler answers ({error}).", remedy=remedy)


def is_exposed(address: str) -> bool:
    """Whether others can reach an address that has no TLS."""
    parts = urlsplit(address)
    if parts.scheme == "tls" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:  # a host name
        return True


def _has_port(address: str) -> bool:
    try:
        return bool(urlsplit(address).hostname and urlsplit(address).port)
    except ValueError:
        return False


def _address_in(path: Path) -> str:
    """Return the address in a scheduler file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return str(content["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"is neither an address nor a readable scheduler file ({type(error).__name__})."
        raise invalid("cluster", path, problem, remedy="Give tcp://127.0.0.1:8786 for example.") from None
