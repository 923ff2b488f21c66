"""Descriptors for a runner that is starting: what no path inside leads to."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from types import TracebackType


class Handover:
    """A socket whose other end the runner inherits; `receive` in the runner's `group` is the other half.

    A context manager around the start; both ends are closed here at its end, and what was sent waits in the socket.

    Attributes:
        descriptor: The runner's end, to be inherited by what is started, as `pass_fds` of `ProcessStream.spawn`.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.descriptor = self._theirs.fileno()

    def send(self, files: Mapping[str, int]) -> None:
        """Send descriptors with their names, once.

        Raises:
            OSError: the runner's end is gone.
        """
        socket.send_fds(self._ours, [" ".join(files).encode()], list(files.values()))

    def __enter__(self) -> Handover:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.close()
        self._theirs.close()


def close_all(files: Mapping[str, int]) -> None:
    """Close descriptors."""
    for descriptor in files.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)
