"""Whether a kernel still answers, asked over the socket that it echoes on in a thread of its own."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import zmq

MAX_ECHO = 1024
"""Bytes of an answer."""
MAX_ECHOES = 1000
"""Answers that are read at once."""


class Heartbeat:
    """Asks a kernel for a sign of life, and never waits for one.

    A kernel echoes in C, in a thread of its own: it does so also while a cell computes without letting Python's
    other threads run. What does not is stopped, or does not want to.

    Args:
        context: Of the kernel's other sockets.
        address: Of its heartbeat socket, which is looked up once.
    """

    def __init__(self, context: zmq.Context[Any], address: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context(context).socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_ECHO)
        self._socket.connect(address)
        self._answered = False
        self._asked: float | None = None
        self.silence()

    def silence(self) -> float:
        """Ask if nothing is asked already; return for how many seconds the kernel has not answered.

        A kernel that never answered has no heartbeat, and is not silent.
        """
        for _ in range(MAX_ECHOES):
            try:
                self._socket.recv(zmq.NOBLOCK)
            except zmq.ZMQError:
                break
            self._answered, self._asked = True, None
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
            with contextlib.suppress(zmq.ZMQError):  # nobody is there, and so nobody will answer
                self._socket.send(b"alive?", zmq.NOBLOCK)
        return now - self._asked if self._answered else 0.0

    def close(self) -> None:
        """Release the socket; must come before the context's end."""
        self._socket.close(0)
