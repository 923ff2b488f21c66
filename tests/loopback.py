"""A real HTTP server on loopback, for the time of a test."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self


class HttpServer(ThreadingHTTPServer):
    """Tells its handlers whose it is."""

    daemon_threads = True
    block_on_close = True
    owner: Any

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle are part of the tests."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class LoopbackServer:
    """Serves from entering to leaving.

    Attributes:
        handler: What answers, with `self.server.owner` for this server.
        path: What the URL ends in.
        closing: Set at the end, for handlers that wait.
    """

    handler: ClassVar[type[BaseHTTPRequestHandler]]
    path: ClassVar[str] = ""

    def __init__(self) -> None:
        self.closing = threading.Event()

    def __enter__(self) -> Self:
        self._http = HttpServer(("127.0.0.1", 0), self.handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._http.server_address[1]}{self.path}"
