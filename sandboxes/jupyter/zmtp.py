"""ZeroMQ's wire protocol, as far as a client of a kernel speaks it, for a peer that may send whatever it likes.

ZMTP 3.0 (rfc.zeromq.org/spec/23) over a Unix socket: a greeting without security, one command that names the kind of
socket, then messages of one or more frames. libzmq speaks it too, but in our own process: it queues a thousand
messages of any size, hangs up on one that is too large, and ends the process where an assertion of its own fails.
What is here holds at most one message, of bounded size, and passes over larger ones.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence

Receive = Callable[[list[bytes] | None], None]
"""Takes a message's frames; None for one that was too large and is passed over."""

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
GREETING = SIGNATURE + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4
MAX_COMMAND = 4096
"""Bytes of a command; `READY`, the only one that is needed, takes some fifty."""
FRAME_COST = 100
"""Bytes that a frame counts besides what it holds, so that a message of empty ones has an end too."""

MUCH, PAUSE = 1 << 16, 0.001
"""If one read brings so many bytes while nobody listens, reading pauses for so many seconds."""


class ZmtpError(Exception):
    """The peer does not speak the protocol."""


def frame(flags: int, content: bytes) -> bytes:
    """Return a frame as it goes over the wire."""
    if len(content) < 256:
        return bytes((flags, len(content))) + content
    return struct.pack(">BQ", flags | LONG, len(content)) + content


class Decoder:
    """Takes apart what a peer sends.

    Args:
        most: Bytes that a message may have, what its frames cost included.

    Attributes:
        receive: Gets each message; while it is None, nothing is kept.
        ready: Whether the handshake is done; libzmq closes a connection on which messages come earlier.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.receive: Receive | None = None
        self._step = self._take_greeting
        self._buffer = bytearray()
        self._needed = len(GREETING)
        self.ready = False
        self._flags = 0
        self._frames: list[bytes] = []
        self._size = 0
        self._unwanted = False
        self._skip = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece of the stream.

        Raises:
            ZmtpError: it breaks the protocol; nothing more may be fed.
        """
        view = memoryview(data)
        while view:
            if self._skip:
                passed = min(self._skip, len(view))
                self._skip -= passed
                view = view[passed:]
                if not self._skip:
                    self._end_of_frame()
                continue
            missing = self._needed - len(self._buffer)
            self._buffer += view[:missing]
            view = view[missing:]
            if len(self._buffer) == self._needed:
                self._step()

    def _expect(self, step: Callable[[], None], size: int) -> None:
        self._buffer, self._step, self._needed = bytearray(), step, size

    def _take_greeting(self) -> None:
        greeting = self._buffer
        if greeting[0] != 0xFF or greeting[9] & 1 == 0 or greeting[10] < 3:
            raise ZmtpError("the greeting is not that of ZMTP 3")
        if greeting[12:32] != GREETING[12:32]:
            raise ZmtpError("the security mechanism is another than NULL")
        self._expect(self._take_flags, 2)

    def _take_flags(self) -> None:
        flags, size = self._buffer
        if flags & ~(MORE | LONG | COMMAND) or flags & (MORE | COMMAND) == MORE | COMMAND:
            raise ZmtpError(f"a frame has the flags {flags:#x}")
        self._flags = flags
        if flags & LONG:  # what was taken for the size is the first of its eight bytes
            self._buffer, self._step, self._needed = self._buffer[1:], self._take_length, 8
        else:
            self._begin_frame(size)

    def _take_length(self) -> None:
        self._begin_frame(int.from_bytes(self._buffer, "big"))

    def _begin_frame(self, size: int) -> None:
        if self._flags & COMMAND:
            if size > MAX_COMMAND:
                raise ZmtpError(f"a command has {size} bytes")
        elif not self.ready:
            raise ZmtpError("there is a message before the handshake's end")
        else:
            self._size += size + FRAME_COST
            self._unwanted = self._unwanted or self.receive is None
            if self._size > self._most or self._unwanted:
                self._frames = []
                self._buffer, self._skip = bytearray(), size
                if not size:
                    self._end_of_frame()
                return
        self._expect(self._take_content, size)
        if not size:
            self._take_content()

    def _take_content(self) -> None:
        content = bytes(self._buffer)
        self._buffer = bytearray()
        if not self._flags & COMMAND:
            self._frames.append(content)
            self._end_of_frame()
            return
        if not self.ready:
            if not content.startswith(b"\x05READY"):
                raise ZmtpError("the handshake's command is another than READY")
            self.ready = True
        self._expect(self._take_flags, 2)

    def _end_of_frame(self) -> None:
        self._expect(self._take_flags, 2)
        if self._flags & MORE:
            return
        message, wanted = self._frames if self._size <= self._most else None, not self._unwanted
        self._frames, self._size, self._unwanted = [], 0, False
        if wanted and self.receive is not None:
            self.receive(message)


class Socket(asyncio.Protocol):
    """A connection to one of a kernel's sockets. It reads at all times, and keeps nothing that nobody waits for.

    Attributes:
        ended: Done when the connection is over: with a `ZmtpError` if that is for what the peer sent, cancelled if it
            was we who hung up.
        received: Bytes that have come.
    """

    def __init__(self, kind: str, most: int) -> None:
        self._kind = kind
        self.received = 0
        self._decoder = Decoder(most)
        self._transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, path: str, kind: str, most: int) -> Socket:
        """Connect to a socket, once, and shake hands.

        Args:
            path: Where the peer listens.
            kind: `DEALER`, or `SUB` for all there is.
            most: Bytes that a message may have.

        Raises:
            OSError: nobody listens there.
            ZmtpError: who does has hung up, or speaks something else.
        """
        _, socket = await asyncio.get_running_loop().create_unix_connection(lambda: cls(kind, most), path)
        try:
            await asyncio.wait([socket._ready, socket.ended], return_when=asyncio.FIRST_COMPLETED)
            if not socket._ready.done():
                socket.ended.result()
                raise ZmtpError("the peer has hung up")
        except BaseException:
            socket.close()
            raise
        return socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        identity = struct.pack(">B8sI", 8, b"Identity", 0) if self._kind == "DEALER" else b""
        kind = self._kind.encode()
        ready = b"\x05READY" + struct.pack(">B11sI", 11, b"Socket-Type", len(kind)) + kind + identity
        transport.write(GREETING + frame(COMMAND, ready))

    def send(self, frames: Sequence[bytes]) -> None:
        """Queue a message to be sent. What the peer has not read by then is dropped at `close`, like all after it."""
        assert self._transport is not None
        if self._transport.is_closing():  # `writelines` fails then, from Python 3.12 on; `ended` says so
            return
        last = len(frames) - 1
        self._transport.writelines([frame(MORE if at < last else 0, each) for at, each in enumerate(frames)])

    def listen(self, receive: Receive | None) -> None:
        """Call `receive` with each message from now on, or drop them (None). It must not block and must not raise."""
        self._decoder.receive = receive

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return
        self.received += len(data)
        try:
            self._decoder.feed(data)
        except ZmtpError as error:
            self._refuse(error)
            return
        if self._decoder.ready and not self._ready.done():
            self._ready.set_result(None)
            if self._kind == "SUB":
                self.send([b"\x01"])
        if self._decoder.receive is None and len(data) >= MUCH:
            self._pause()

    def _pause(self) -> None:
        """A kernel that publishes without end while nobody asks for anything must not take all of the loop's time."""
        assert self._transport is not None
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(PAUSE, self._transport.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        self.close()

    def _refuse(self, error: ZmtpError) -> None:
        self.ended.set_exception(error)
        self.ended.exception()  # nobody has to ask
        self.close()

    def close(self) -> None:
        """Hang up, whatever is still to be sent."""
        self.listen(None)
        self.ended.cancel()
        if self._transport is not None:
            self._transport.abort()
