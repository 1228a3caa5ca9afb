"""A small HTTP proxy in front of a real server that can be switched between failure modes while running."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

MODES = ("pass", "refuse", "hang", "500", "429", "drop", "slow", "full", "gateway")
SLOW_SECONDS = 0.7
WRITES = ("log-batch", "log-inputs", "set-tag", "update", "create", "logged-models", "mlflow-artifacts")


class Proxy:
    """Forwards requests to a server, or fails in a given way.

    Modes: `pass`; `refuse` (connection refused); `hang` (no response until the mode changes); `500`; `429` (retry after
    an hour); `drop` (the request is executed, the response is truncated); `slow`; `full` (reads work, writes fail);
    `gateway` (an HTML 404 page from another gateway).

    Args:
        upstream: The server's URL.
        tls: The proxy's certificate and what it requires of clients (default: plain HTTP).
    """

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None):
        self.tls = tls
        parts = urlsplit(upstream)
        self.upstream = (str(parts.hostname), int(parts.port or 80))
        self.mode = "pass"
        self.changed = threading.Condition()
        self.after: dict[str, Callable[[], None]] = {}
        self.requests: list[tuple[str, str, str]] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._server: ThreadingHTTPServer | None = None
        self._listen()

    @property
    def url(self) -> str:
        """The proxy's URL."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def set(self, mode: str) -> None:
        """Switch to another mode."""
        assert mode in MODES, mode
        with self.changed:
            self.mode = mode
            self.changed.notify_all()
        if mode == "refuse":
            self.close()
        elif self._server is None:
            self._listen()

    def seen(self) -> set[str]:
        """The modes in which the proxy received requests."""
        return {mode for mode, *_ in self.requests}

    def once_after(self, fragment: str, action: Callable[[], None]) -> None:
        """Call `action` once, after the server handled a request whose path ends in `fragment`, before the response."""
        self.after[fragment] = action

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _listen(self) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                return

            def handle_any(self) -> None:
                proxy.handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                return  # clients that give up are part of the test

        self._server = Server(("127.0.0.1", self.port), Handler)
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Handle one request according to the mode."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        mode = self.mode
        self.requests.append((mode, request.command, request.path))
        if mode == "hang":
            with self.changed:
                self.changed.wait_for(lambda: self.mode != "hang", 120)
            request.close_connection = True  # the client has given up or will retry
            return
        if mode == "refuse":
            request.close_connection = True
            return
        if mode == "slow":
            threading.Event().wait(SLOW_SECONDS)
        writes = request.command != "GET" and any(word in request.path for word in WRITES)
        if mode in ("500", "429", "gateway") or (mode == "full" and writes and "search" not in request.path):
            self._answer(request, *_failure(mode))
            return
        status, headers, content = self._forward(request, body)
        for fragment in [fragment for fragment in self.after if request.path.split("?")[0].endswith(fragment)]:
            self.after.pop(fragment)()
        if mode == "drop":
            request.send_response(status)
            request.send_header("Content-Length", str(len(content) + 100))
            request.end_headers()
            request.wfile.write(content[: len(content) // 2])
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
            return
        self._answer(request, status, headers, content)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.upstream, timeout=60)
        passed = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
        try:
            connection.request(request.command, request.path, body, passed)
            answer = connection.getresponse()
            content = answer.read()
        except OSError:
            return 502, {"Content-Type": "text/html"}, b"<html>bad gateway</html>"
        finally:
            connection.close()
        dropped = ("transfer-encoding", "content-length", "connection")
        return answer.status, {k: v for k, v in answer.getheaders() if k.lower() not in dropped}, content

    def _answer(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


def _failure(mode: str) -> tuple[int, dict[str, str], bytes]:
    if mode == "429":
        return 429, {"Retry-After": "3600", "Content-Type": "text/plain"}, b"too many requests"
    if mode == "gateway":
        return 404, {"Content-Type": "text/html"}, b"<html>no such page</html>"
    error = {"error_code": "INTERNAL_ERROR", "message": "no space left on device"}
    return 500, {"Content-Type": "application/json"}, json.dumps(error).encode()


@contextmanager
def proxy_to(upstream: str, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """A proxy in mode `pass`, closed on exit."""
    proxy = Proxy(upstream, tls)
    try:
        yield proxy
    finally:
        proxy.set("refuse")
