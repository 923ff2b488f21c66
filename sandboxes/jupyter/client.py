"""Asks a kernel something over its sockets. Its answers are untrusted: whatever runs in it knows their signing key."""

from __future__ import annotations

import asyncio
import errno
import hmac
import json
import os
import re
import stat
import time
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from jupyter_client.session import DELIM, Session

from sandboxes.jupyter.heartbeat import MAX_ECHO, Heartbeat
from sandboxes.jupyter.zmtp import Socket

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
"""The number of a channel's socket is its position here, counted from 1."""
MAX_MESSAGE = 8 << 20
"""Bytes of one message; decoded, it takes several times as much memory."""
MAX_HEADER = 1 << 16
"""Bytes of a message's header and parent header together."""
MAX_VALUES = 500_000
"""Values in a message's JSON, each of which takes up to a hundred bytes."""
LAST_WORDS, MORE_WORDS = 1.0, 4
"""Seconds to wait after the answer for the kernel's `idle`, and how often to wait again while output still comes: a
kernel that publishes too much loses messages, and `idle` may be one of them."""
LAST_BREATH = 5.0
"""Seconds to wait, once a kernel has closed its sockets, for the runner's report of its end."""
_STRING = re.compile(rb'"[^"]*+"?')
"""In JSON without escapes: with them, a match would remember each, which takes half a gigabyte for a long string."""


class Audience:
    """Receives what a kernel publishes for a request. Its methods must not block and must not raise."""

    def shown(self, kind: str, content: Mapping[str, Any]) -> None:
        """Take the type and the content of a message that was published for the request."""

    def malformed(self) -> None:
        """Hear of a malformed message, which was dropped."""

    def too_large(self) -> None:
        """Hear of a message of too many bytes, which was dropped."""


class Answer(NamedTuple):
    """What a kernel answers.

    Attributes:
        content: The answer's content.
        complete: Whether the kernel said that it has published all there is.
    """

    content: Mapping[str, Any]
    complete: bool


class MalformedError(Exception):
    """A message is not what it should be."""


class SilenceError(Exception):
    """No answer will come: the kernel has closed a socket, or does not speak the protocol."""


class ClosedError(SilenceError):
    """No answer will come, since we have closed the sockets ourselves."""


class Message(NamedTuple):
    """What a kernel says."""

    kind: str
    content: Mapping[str, Any]


TOO_LARGE = Message(
    "execute_reply",
    {
        "status": "error",
        "ename": "AnswerTooLarge",
        "evalue": f"the kernel's answer has more than {MAX_MESSAGE >> 20} MiB, and was not read",
    },
)


def read_message(session: Session, frames: list[bytes], asked: Container[str]) -> Message | None:
    """Return a message; None if its parent is none of the requests in `asked`.

    Raises:
        MalformedError: it breaks the messaging protocol or a bound of ours, or its signature is wrong.
    """
    if DELIM not in frames:
        raise MalformedError("it has no delimiter")
    signature, *parts = frames[frames.index(DELIM) + 1 :][:5] or [b""]
    if len(parts) < 4:
        raise MalformedError("it has not all its parts")
    header, parent, _, content = parts
    if len(header) + len(parent) > MAX_HEADER:
        raise MalformedError("its header is too long")
    if str(_object(parent).get("msg_id")) not in asked:
        return None  # as it will be dropped, it need not be signed: that would cost more than to read it
    if not hmac.compare_digest(signature, session.sign(parts)):
        raise MalformedError("it is not signed")
    if _values(content) > MAX_VALUES:
        raise MalformedError("it has too many values")
    kind, said = _object(header).get("msg_type"), _object(content)
    if not isinstance(kind, str):
        raise MalformedError("it has no type")
    return Message(kind, said)


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedError("it is not an object")
    return value


def _values(content: bytes) -> int:
    """Return an upper bound of the JSON values in `content`; commas in strings count, unless that decides."""
    count = content.count(b",") + content.count(b"[") + content.count(b"{")
    if count <= MAX_VALUES:
        return count
    bare = _STRING.sub(b"", content.replace(b"\\\\", b"").replace(b'\\"', b""))
    return bare.count(b",") + bare.count(b"[") + bare.count(b"{")


class Client:
    """The client's end of one kernel's sockets. Asks one thing at a time; messages that answer nothing are dropped.

    Args:
        key: The connection's HMAC key.
    """

    def __init__(self, key: bytes) -> None:
        self.session = Session(key=key)
        self._sockets: dict[str, Socket] = {}
        self._asked: Exchange | None = None
        self.heart: Heartbeat | None = None

    async def connect(self, directory: int, prefix: str, deadline: float, control: bool) -> None:
        """Connect to each socket, anew if that was done before. No name is looked up again later.

        Args:
            directory: Descriptor of the directory that they are in.
            prefix: What their names begin with.
            deadline: Until when to wait for sockets that do not exist yet, on the clock of `time.monotonic`.
            control: Whether to connect to the control channel too, for interrupts that are messages.

        Raises:
            OSError: nobody listens on one.
            ZmtpError: who does speaks another protocol.
            TimeoutError: one does not answer.
        """
        self.close()
        for name in ("shell", "iopub", *(["control"] if control else [])):
            kind = "SUB" if name == "iopub" else "DEALER"
            path = f"{prefix}-{CHANNELS.index(name) + 1}"
            self._sockets[name] = await _connect(directory, path, deadline, kind, MAX_MESSAGE)
        path = f"{prefix}-{CHANNELS.index('hb') + 1}"
        self.heart = Heartbeat(await _connect(directory, path, deadline, "DEALER", MAX_ECHO))

    async def ask(
        self, kind: str, content: Mapping[str, Any], audience: Audience, patience: float = LAST_WORDS
    ) -> Answer:
        """Ask something on the shell channel, and wait for the answer and for what is published until then.

        That a kernel is idle is published, where messages may get lost, and can be said by anybody; so the answer
        ends it, soon after at the latest.

        Args:
            kind: The message's type.
            content: Its content.
            audience: Gets what is published for it.
            patience: Seconds to wait for the kernel's `idle` after its answer.

        Raises:
            SilenceError: no answer will come.
        """
        self._asked = asked = Exchange(self.session, kind, content, audience)
        shell, published = self._sockets["shell"], self._sockets["iopub"]
        shell.listen(asked.on_shell)
        published.listen(asked.on_published)
        try:
            shell.send(asked.request)
            ends = [shell.ended, published.ended]
            await _first(asked.answer, *ends)
            if not asked.answer.done():
                await _explain(ends)
            for _ in range(MORE_WORDS):
                received = published.received
                await _first(asked.idle, *ends, timeout=patience)
                if asked.idle.done() or published.received == received:
                    break
            return Answer(asked.answer.result(), asked.idle.done())
        finally:
            shell.listen(None)
            published.listen(None)
            self._asked = None

    def probe(self) -> None:
        """Ask something else behind what is asked, to be told that it is over by an answer to either.

        An interrupt may come where a kernel forgets the answer; what it says next shows that it has gone on.
        """
        if self._asked is not None:
            self._sockets["shell"].send(self._asked.another("kernel_info_request"))

    def interrupt(self) -> None:
        """Ask for an interrupt, where it is a message."""
        request = self.session.msg("interrupt_request", {})
        self._sockets["control"].send(self.session.serialize(request))

    def close(self) -> None:
        """Hang up."""
        if self.heart is not None:
            self.heart.close()
        for socket in self._sockets.values():
            socket.close()


class Exchange:
    """A request on its way, and what comes of it.

    Attributes:
        request: The frames to send.
        answer: The content of the answer.
        idle: Done once the kernel said that it has done with the request.
    """

    def __init__(self, session: Session, kind: str, content: Mapping[str, Any], audience: Audience) -> None:
        loop = asyncio.get_running_loop()
        message = session.msg(kind, dict(content))
        self.request: list[bytes] = session.serialize(message)
        self.answer: asyncio.Future[Mapping[str, Any]] = loop.create_future()
        self.idle: asyncio.Future[None] = loop.create_future()
        self._id = (str(message["msg_id"]),)
        self._probes: set[str] = set()
        self._session = session
        self._audience = audience

    def another(self, kind: str) -> list[bytes]:
        """Return a further request, whose answer shows that this one is over."""
        message = self._session.msg(kind, {})
        self._probes.add(str(message["msg_id"]))
        return self._session.serialize(message)

    def on_shell(self, frames: list[bytes] | None) -> None:
        """Take a message of the shell channel."""
        message = TOO_LARGE if frames is None else self._read(frames, {*self._id, *self._probes})
        if message is not None and not self.answer.done():
            self.answer.set_result(message.content)

    def on_published(self, frames: list[bytes] | None) -> None:
        """Take a message of the iopub channel."""
        if frames is None:
            self._audience.too_large()
            return
        message = self._read(frames, self._id)
        if message is None:
            return
        if message.kind != "status":
            self._audience.shown(message.kind, message.content)
        elif message.content.get("execution_state") == "idle" and not self.idle.done():
            self.idle.set_result(None)

    def _read(self, frames: list[bytes], asked: Container[str]) -> Message | None:
        try:
            return read_message(self._session, frames, asked)
        except MalformedError:
            self._audience.malformed()
            return None


async def _first(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


async def _explain(ends: Sequence[asyncio.Future[None]]) -> NoReturn:
    """Say why no answer comes; not before the runner had the time to say that the kernel is dead, and of what."""
    if any(end.cancelled() for end in ends):
        raise ClosedError("it was hung up on")
    error = next((end.exception() for end in ends if end.done() and end.exception() is not None), None)
    if error is None:
        await asyncio.sleep(LAST_BREATH)
    raise SilenceError(str(error or "it has closed its sockets"))


async def _connect(directory: int, name: str, deadline: float, kind: str, most: int) -> Socket:
    while True:
        try:
            # Found and connected to as one: a name could be made a link to something of ours meanwhile.
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
            try:
                if not stat.S_ISSOCK(os.fstat(found).st_mode):
                    raise OSError(errno.ENOTSOCK, f"{name} is no socket")
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    return await Socket.connect(f"/proc/self/fd/{found}", kind, most)
            finally:
                os.close(found)
        except (FileNotFoundError, ConnectionRefusedError):  # not made yet, or not listened on
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.002)
