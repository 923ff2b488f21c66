"""The runner's end of the stream to the host."""

from __future__ import annotations

import os
import select
from collections import deque

from .frames import CONTROL, DATA, Decoder, FrameError, decode_control, encode_control

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Deque, Dict, Tuple

BACKLOG = 1 << 20
"""Bytes waiting for a slow host above which a block's output is not read: the block waits, we do not grow."""


class StartError(Exception):
    """The runner cannot work here; the host is told why."""


class HostGone(Exception):
    """The host closed the stream, or broke the protocol."""


class Channel:
    """Frames in and out, without ever blocking a running block for longer than the host allows.

    Args:
        reading: Descriptor to read from.
        writing: Descriptor to write to.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self.reading = reading
        self.writing = writing
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        self._decoder = Decoder()
        self._frames: Deque[Tuple[int, bytes]] = deque()
        self._pending: Deque[bytes] = deque()
        self.pending_bytes = 0

    @property
    def full(self) -> bool:
        """Whether so much waits for the host that no more should be made."""
        return self.pending_bytes > BACKLOG

    def queue(self, data: bytes) -> None:
        """Add frames to what is to be sent."""
        self._pending.append(data)
        self.pending_bytes += len(data)

    def flush(self) -> None:
        """Send what can be sent now.

        Raises:
            HostGone: nobody reads any more.
        """
        while self._pending:
            data = self._pending[0]
            try:
                sent = os.write(self.writing, data)
            except BlockingIOError:
                return
            except OSError as error:
                raise HostGone(str(error)) from None
            self.pending_bytes -= sent
            if sent == len(data):
                self._pending.popleft()
            else:
                self._pending[0] = data[sent:]

    def send(self, message: Dict[str, Any]) -> None:
        """Send a control frame and all before it, waiting for the host.

        Raises:
            HostGone: nobody reads any more.
        """
        self.queue(encode_control(message))
        self.flush_all()

    def flush_all(self) -> None:
        """Send everything, waiting for the host.

        Raises:
            HostGone: nobody reads any more.
        """
        self.flush()
        while self._pending:
            poller = select.poll()
            poller.register(self.writing, select.POLLOUT)
            poller.poll()
            self.flush()

    def read(self) -> None:
        """Take what has arrived, without waiting.

        Raises:
            HostGone: the stream ended, or carries something else.
        """
        try:
            data = os.read(self.reading, 1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            raise HostGone(str(error)) from None
        if not data:
            raise HostGone("end of stream")
        try:
            self._frames.extend(self._decoder.feed(data))
        except FrameError as error:
            raise HostGone(str(error)) from None

    def next_frame(self, wait: bool = True) -> Tuple[int, bytes]:
        """Return the next frame, or kind 0 if there is none and `wait` is false.

        Raises:
            HostGone: the stream ended, or carries something else.
        """
        while not self._frames:
            if not wait:
                return 0, b""
            poller = select.poll()
            poller.register(self.reading, select.POLLIN)
            poller.poll()
            self.read()
        return self._frames.popleft()

    def next_request(self) -> Dict[str, Any]:
        """Wait for a control frame.

        Raises:
            HostGone: the stream ended, or carries something else.
        """
        kind, payload = self.next_frame()
        if kind != CONTROL:
            raise HostGone("expected a request")
        try:
            return decode_control(payload)
        except FrameError as error:
            raise HostGone(str(error)) from None

    def next_data(self) -> bytes:
        """Wait for a piece of the request's body.

        Raises:
            HostGone: the stream ended, or carries something else.
        """
        kind, payload = self.next_frame()
        if kind != DATA or not payload:
            raise HostGone("expected data")
        return payload
