"""What hostile bytes reach first, as functions of bytes. Each raises only if an invariant is broken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jupyter_client.session import DELIM

from agentexec.markdown import read_reply, without_thoughts
from agentexec.models.api import _ChatReply, _ResponsesReply
from agentexec.models.failures import Call, Failure
from agentexec.models.sse import EventReader, EventSizeError
from sandboxes import ByteStream, SandboxError
from sandboxes.docker.stream import AttachedStream
from sandboxes.jupyter.cell import MAX_DISPLAY_BYTES, MAX_DISPLAYS, MAX_TEXT, Cell
from sandboxes.jupyter.client import LAST_WORDS, Answer, Audience, Client, Exchange
from sandboxes.jupyter.zmtp import MAX_COMMAND, ZmtpError
from sandboxes.jupyter.zmtp import Decoder as ZmtpDecoder
from sandboxes.report import read_report
from sandboxes.runner.frames import CONTROL, HEADER, MAX_PAYLOAD, Decoder, FrameError, decode_control, encode

SIZES = (1, 2, 3, 5, 8, 64, 4096)


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut data as a network would; its first byte says into how large pieces."""
    size = SIZES[data[0] % len(SIZES)] if data else 1
    for start in range(1, len(data), size):
        yield data[start : start + size]


def frames(data: bytes) -> None:
    """A stream of bytes is frames of bounded size, or a `FrameError`; nothing is invented, nothing is lost."""
    decoder, found = Decoder(), b""
    with contextlib.suppress(FrameError):
        for piece in pieces(data):
            for kind, payload in decoder.feed(piece):
                assert len(payload) <= MAX_PAYLOAD
                found += encode(kind, payload)
                if kind == CONTROL:
                    with contextlib.suppress(FrameError):
                        assert isinstance(decode_control(payload), dict)
            assert len(decoder._buffer) <= HEADER.size + MAX_PAYLOAD
    assert data[1:].startswith(found)


def report(data: bytes) -> None:
    """What a runner says of a block is a checked report, or one of our errors."""
    with contextlib.suppress(SandboxError):
        said = read_report(data)
        assert said.exit_code is None or 0 <= said.exit_code <= 255
        assert len(said.files) <= 1000


class Kernel(Client):
    """A kernel that says what it likes on the channel where it publishes, and then has an answer."""

    def __init__(self, messages: list[Any]) -> None:
        super().__init__(b"key")
        self._messages = messages

    async def ask(
        self, kind: str, content: Mapping[str, Any], audience: Audience, patience: float = LAST_WORDS
    ) -> Answer:
        exchange = Exchange(self.session, kind, content, audience)
        ours = json.loads(exchange.request[2])["msg_id"]
        for message in self._messages:
            exchange.on_published(self._signed(message, ours))
        exchange.on_shell(self._signed({"msg_type": "execute_reply", "content": {"status": "ok"}}, ours))
        return Answer(await exchange.answer, complete=False)

    def _signed(self, message: Any, ours: str) -> list[bytes]:
        known = dict(message) if isinstance(message, dict) else {"content": message}
        said = [known, {"msg_id": ours}, {}, known.get("content")]
        parts = [json.dumps(each).encode() for each in said]
        return [b"topic", DELIM, self.session.sign(parts), *parts]


def cell(data: bytes) -> None:
    """Whatever a kernel sends, a cell comes to its end with bounded text that can be written as JSON."""
    messages: list[Any] = []
    for line in data.splitlines()[:300]:
        with contextlib.suppress(ValueError, RecursionError):
            messages.append(json.loads(line))

    async def talk() -> Cell:
        cell = Cell(1000)
        await asyncio.wait_for(cell.run(Kernel(messages), "pass"), 20)
        return cell

    done = asyncio.run(talk())
    assert len(done.displays) <= MAX_DISPLAYS
    assert sum(len(text) for each in done.displays for text in each.data.values()) <= MAX_DISPLAY_BYTES
    for display in done.displays:
        display.model_dump_json().encode()
    if done.error is not None:
        done.error.model_dump_json().encode()
        assert len(done.error.traceback) <= MAX_TEXT
    assert all(isinstance(note, str) for note in done.notes)
    assert all(len(stream.head() + stream.tail()) <= 1000 for stream in done.streams.values())


def zmtp(data: bytes) -> None:
    """A kernel's bytes are messages of bounded size, however they are cut, or a `ZmtpError`."""
    most = 2000

    def taken(cut: Iterable[bytes]) -> tuple[list[list[bytes] | None], str]:
        messages: list[list[bytes] | None] = []
        decoder = ZmtpDecoder(most)
        decoder.receive = messages.append
        try:
            for piece in cut:
                decoder.feed(piece)
                assert len(decoder._buffer) + sum(map(len, decoder._frames)) <= most + MAX_COMMAND
        except ZmtpError as error:
            return messages, str(error)
        return messages, ""

    whole = taken([data[1:]])
    assert taken(pieces(data)) == whole
    assert all(sum(map(len, message)) <= most for message in whole[0] if message is not None)


def markdown(data: bytes) -> None:
    """No text runs that is not inside a fence."""
    text = data.decode("utf-8", "replace")
    reply = read_reply(text)
    visible = without_thoughts(text)
    opened = len(re.findall(r"`{3}|~{3}", visible))
    assert len(reply.blocks) + len(reply.unfinished) <= opened
    for block in reply.blocks:
        # Indentation, quotation marks and the ends of lines belong to the message; the rest has to be there as it is.
        for line in re.split(r"\r\n|\n|\r", block.code):
            assert line.strip().replace("\0", "") in visible.replace("\0", ""), line
    assert reply.answer is None or not reply.blocks
    assert read_reply("    " + "\n    ".join(text.replace("`", "").replace("~", "").splitlines())).blocks == ()


def model(data: bytes) -> None:
    """What a model server streams is a reply, or one of our failures, in either protocol."""
    for kind in (_ChatReply, _ResponsesReply):
        reader, reply = EventReader(), kind(Call("model", "http://server", ""), None)
        with contextlib.suppress(EventSizeError, UnicodeDecodeError, Failure):
            for piece in pieces(data):
                for event in reader.feed(piece):
                    reply.feed(event)
            for event in reader.finish():
                reply.feed(event)
            completion = reply.completion()
            completion.text.encode()
            assert completion.usage is None or completion.usage.input_tokens >= 0
        whole = kind(Call("model", "http://server", ""), None)
        with contextlib.suppress(Failure, UnicodeDecodeError):
            whole.feed_whole(data[1:])
            whole.completion().text.encode()


class Nothing(ByteStream):
    """A connection that is at its end."""

    async def receive(self) -> bytes:
        return b""

    async def send(self, data: bytes) -> None:
        raise OSError

    async def close(self) -> None:
        pass


async def _nothing() -> None:
    pass


def docker(data: bytes) -> None:
    """An engine's stream is taken apart the same way however it is cut; what it prints is bounded."""
    whole = AttachedStream(Nothing(), b"", _nothing)
    cut = AttachedStream(Nothing(), b"", _nothing)
    expected = whole._demultiplex(data[1:])
    assert b"".join(cut._demultiplex(piece) for piece in pieces(data)) == expected
    assert cut.diagnosis() == whole.diagnosis()
    assert len(expected) <= len(data)
    assert len(cut.diagnosis()) <= 1 << 16


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (frames, report, cell, zmtp, markdown, model, docker)
}
