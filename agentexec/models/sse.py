"""Server-sent events, as far as a streamed reply needs them (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

from collections.abc import Iterator

MAX_EVENT_BYTES = 16 << 20
"""Bytes of one event, and of the one JSON object of a reply that is not streamed."""


class EventSizeError(ValueError):
    """A server sent an event beyond `MAX_EVENT_BYTES`."""


class EventReader:
    """Turns bytes, however they are cut, into the `data` of each event.

    Our own, because line iterators of HTTP libraries split where `str.splitlines` does, for example at a
    U+2028 inside a JSON string, and because the `[DONE]` that ends a whole reply must be seen.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_cr = False
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Take bytes, and give the data of each event that they complete.

        Raises:
            EventSizeError: the event is larger than any reply.
            UnicodeDecodeError: a line is not UTF-8.
        """
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        *lines, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._line += line
            complete, self._line = bytes(self._line), bytearray()
            yield from self._take(complete)
        self._line += rest
        if self._size + len(self._line) > MAX_EVENT_BYTES:
            raise EventSizeError(f"an event of more than {MAX_EVENT_BYTES} bytes")

    def finish(self) -> Iterator[str]:
        """Give what a server left without the closing blank line."""
        rest, self._line = bytes(self._line), bytearray()
        if rest:
            yield from self._take(rest)
        yield from self._take(b"")

    def _take(self, line: bytes) -> Iterator[str]:
        if not line:
            if self._data:
                data, self._data, self._size = "\n".join(self._data), [], 0
                yield data
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._size += len(value) + 1  # the line's end too, or lines without text would cost nothing
            self._data.append(value.removeprefix(b" ").decode())
