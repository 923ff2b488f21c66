"""Keeps the head and the tail of a stream of any length in bounded memory."""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Deque

PIECE = 4096
"""Bytes up to which small pieces are joined."""


class HeadTail:
    """The first and the last `limit / 2` bytes of what was fed; all of it, if it fits.

    Attributes:
        total: Bytes fed in all.
    """

    def __init__(self, limit: int) -> None:
        self._tail_limit = limit // 2
        self._head_room = limit - self._tail_limit
        self._head = bytearray()
        self._tail: Deque[bytes] = deque()
        self._tail_size = 0
        self.total = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        self.total += len(data)
        room = self._head_room - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        if self._tail and len(self._tail[-1]) + len(data) <= PIECE:
            self._tail[-1] += data  # a byte at a time, each would be an object
        else:
            self._tail.append(data)
        self._tail_size += len(data)
        while self._tail and self._tail_size - len(self._tail[0]) >= self._tail_limit:
            self._tail_size -= len(self._tail.popleft())

    def head(self) -> bytes:
        """Return the kept beginning."""
        return bytes(self._head)

    def tail(self) -> bytes:
        """Return the kept end; follows the head without a gap if nothing was left out."""
        tail = b"".join(self._tail)
        return tail[len(tail) - self._tail_limit :] if len(tail) > self._tail_limit else tail
