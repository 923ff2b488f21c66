"""The frame protocol between host and runner: both ends, in the one file that both of them load.

    frame    = length (4 bytes, big-endian, of the payload) + kind (1 byte) + payload
    control  = a JSON object in UTF-8
    others   = raw bytes

A request is a control frame `{"op": …, "size": n}`, followed by DATA frames of `n` bytes in all. While a block
runs, `{"op": "cancel"}` may follow. An answer is any number of LIVE, KEPT or DATA frames and one control frame.
Neither end trusts a length: a frame is at most `MAX_PAYLOAD`, and what a request or an answer may hold in all
is bounded by whoever receives it.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, Tuple

HEADER = struct.Struct("!IB")
MAX_PAYLOAD = 1 << 20
MAX_CODE = 64 << 20
"""Bytes of code in one block."""
CHUNK = 1 << 16
"""Payload size of DATA, LIVE and KEPT frames that our own ends send at the most."""

CONTROL, LIVE_STDOUT, LIVE_STDERR, KEPT_STDOUT, KEPT_STDERR, DATA = range(1, 7)


class FrameError(Exception):
    """The bytes are not frames of this protocol."""


def encode(kind: int, payload: bytes) -> bytes:
    """Return one frame."""
    return HEADER.pack(len(payload), kind) + payload


def encode_control(message: Dict[str, Any]) -> bytes:
    """Return a control frame."""
    return encode(CONTROL, json.dumps(message).encode())


def encode_chunks(kind: int, data: bytes) -> Iterator[bytes]:
    """Yield `data` as frames of at most `CHUNK` bytes each."""
    for start in range(0, len(data), CHUNK):
        yield encode(kind, data[start : start + CHUNK])


def decode_control(payload: bytes) -> Dict[str, Any]:
    """Return the object in a control frame.

    Raises:
        FrameError: not a JSON object.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise FrameError("control frame is not JSON: %s" % error) from None
    if not isinstance(message, dict):
        raise FrameError("control frame is not an object")
    return message


class Decoder:
    """Cuts a stream of bytes into frames; holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Tuple[int, bytes]]:
        """Yield the frames `(kind, payload)` that `data` completes. Exhaust it before feeding more.

        Raises:
            FrameError: unknown kind, or a length over `MAX_PAYLOAD`. Nothing of that length was allocated.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= HEADER.size:
            length, kind = HEADER.unpack_from(buffer, start)
            if not CONTROL <= kind <= DATA:
                raise FrameError("unknown frame kind %d" % kind)
            if length > MAX_PAYLOAD:
                raise FrameError("frame of %d bytes is over the limit of %d" % (length, MAX_PAYLOAD))
            end = start + HEADER.size + length
            if len(buffer) < end:
                break
            yield kind, bytes(buffer[start + HEADER.size : end])
            start = end
        del buffer[:start]
