"""Whether a kernel still answers, asked over the socket that it echoes on in a thread of its own."""

from __future__ import annotations

import time

from sandboxes.jupyter.zmtp import Socket

MAX_ECHO = 1024
"""Bytes of an answer."""


class Heartbeat:
    """Asks a kernel for a sign of life, and never waits for one.

    A kernel echoes in C, in a thread of its own: it does so also while a cell computes without letting Python's
    other threads run. What does not is stopped, or does not want to.

    Args:
        socket: That a kernel echoes on.
    """

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._socket.listen(self._hear)
        self._answered = False
        self._waiting = False
        self._silent = 0.0
        self._looked = time.monotonic()
        self._ask()

    def _hear(self, echo: list[bytes] | None) -> None:
        self._answered, self._waiting, self._silent = True, False, 0.0

    def _ask(self) -> None:
        self._waiting = True
        self._socket.send([b"alive?"])

    def silence(self, most: float) -> float:
        """Ask if nothing is asked already; return for how many seconds the kernel has not answered.

        A kernel that never answered has no heartbeat, and is not silent.

        Args:
            most: Seconds that count since the last look: if it was longer ago, it was we who were held up, and the
                answer may only not have been read.
        """
        now = time.monotonic()
        if self._waiting:
            self._silent += min(now - self._looked, most)
        else:
            self._ask()
        self._looked = now
        return self._silent if self._answered else 0.0

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
