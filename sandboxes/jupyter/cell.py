"""One cell's conversation with its kernel, which is believed in nothing but its own displays and errors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient

from sandboxes.types import Display, ErrorInfo

MAX_DISPLAYS, MAX_DISPLAY_BYTES = 100, 16 << 20
MAX_TEXT = 1 << 20
"""Number and bytes of the displays of a cell, characters of a traceback."""
REPLY_TIMEOUT = 0.5
"""Seconds for the answer to a cell, which is sent before the kernel says that it has nothing more to do."""
MAX_KINDS, MAX_METADATA, MAX_DEPTH = 50, 10_000, 20
"""Representations of a display, characters and nesting of its metadata."""
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_NOT_AS_SAID = (AttributeError, KeyError, RecursionError, TypeError, ValueError)
"""What comes of reading a message that is not what the messaging protocol says."""


class Cell:
    """One cell's conversation with the kernel, and what was shown in it."""

    def __init__(self, client: AsyncKernelClient) -> None:
        self._client = client
        self.displays: list[Display] = []
        self._ids: dict[str, list[int]] = {}
        self._bytes = 0
        self._clear = False
        self._left_out = 0
        self._malformed = 0
        self.sent = False
        self.error: ErrorInfo | None = None
        self.execution_count: int | None = None

    @property
    def notes(self) -> list[str]:
        """What is to be said of what was left out."""
        counts = ((self._left_out, "displays were left out"), (self._malformed, "malformed messages were left out"))
        return [f"{count} {what}" for count, what in counts if count]

    async def run(self, code: str) -> None:
        """Have the kernel run the code; return when it is done with it."""
        self.sent = True
        try:
            asked = self._client.execute(_valid(code), allow_stdin=False, store_history=True)
        except zmq.ZMQError:  # the runner tells how it ended
            await asyncio.get_running_loop().create_future()
        while True:
            message = await next_message(self._client.get_iopub_msg, self._count_malformed)
            if message["parent_header"].get("msg_id") != asked:
                continue
            content, kind = message.get("content"), message.get("msg_type")
            if not isinstance(content, dict) or not isinstance(kind, str):
                self._count_malformed()
            elif kind == "status":
                if content.get("execution_state") == "idle":
                    break
            else:
                self._try(kind, content)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REPLY_TIMEOUT):
                await self._read_reply(asked)

    async def _read_reply(self, asked: str) -> None:
        """Read what the kernel answers at last: that a cell has failed is there even if the error was not shown."""
        while True:
            message = await next_message(self._client.get_shell_msg, self._count_malformed)
            if message["parent_header"].get("msg_id") != asked:
                continue
            content = message.get("content")
            if not isinstance(content, dict):
                self._count_malformed()
            elif self.error is None and content.get("status") == "error":
                self._try("error", content)
            return

    def _try(self, kind: str, content: Mapping[str, Any]) -> None:
        try:
            self._take(kind, content)
        except _NOT_AS_SAID:
            self._count_malformed()

    def _count_malformed(self) -> None:
        self._malformed += 1

    def _take(self, kind: str, content: Mapping[str, Any]) -> None:
        if kind in ("display_data", "execute_result"):
            self._show(content, _count(content) if kind == "execute_result" else None)
        elif kind == "execute_input":
            self.execution_count = _count(content)
        elif kind == "update_display_data":
            self._update(content)
        elif kind == "clear_output":
            self._clear = True
            if not content.get("wait"):
                self._clear_now()
        elif kind == "error":
            coloured = _valid("\n".join(str(line) for line in content.get("traceback") or ())[:MAX_TEXT])
            self.error = ErrorInfo(
                name=_valid(str(content.get("ename", ""))[:1000]),
                message=_valid(str(content.get("evalue", ""))[:MAX_TEXT]),
                traceback=_ANSI.sub("", coloured),
                coloured=coloured,
            )

    def _clear_now(self) -> None:
        self.displays.clear()
        self._ids.clear()
        self._bytes, self._clear = 0, False

    def _show(self, content: Mapping[str, Any], count: int | None) -> None:
        if self._clear:
            self._clear_now()
        display = _display(content, count)
        if len(self.displays) >= MAX_DISPLAYS or self._bytes + _size(display) > MAX_DISPLAY_BYTES:
            self._left_out += 1
            return
        self._bytes += _size(display)
        name = _display_id(content)
        if name is not None:
            self._ids.setdefault(name, []).append(len(self.displays))
        self.displays.append(display)

    def _update(self, content: Mapping[str, Any]) -> None:
        """Replace what was displayed under a name; in this cell only, since results of others are given away."""
        display = _display(content)
        for at in self._ids.get(_display_id(content) or "", ()):
            size = self._bytes - _size(self.displays[at]) + _size(display)
            if size > MAX_DISPLAY_BYTES:
                self._left_out += 1
                continue
            self._bytes, self.displays[at] = size, display


def _display(content: Mapping[str, Any], count: int | None = None) -> Display:
    data = {_valid(str(kind)): _text(value) for kind, value in dict(content.get("data") or {}).items()}
    if len(data) > MAX_KINDS:
        raise ValueError("an object in too many representations")
    metadata = _tame(content.get("metadata"))
    small = isinstance(metadata, dict) and len(json.dumps(metadata)) <= MAX_METADATA
    return Display(data=data, metadata=metadata if small else {}, execution_count=count)


def _size(display: Display) -> int:
    return sum(len(text) for text in display.data.values())


def _display_id(content: Mapping[str, Any]) -> str | None:
    name = (content.get("transient") or {}).get("display_id")
    return name[:1000] if isinstance(name, str) else None


def _count(content: Mapping[str, Any]) -> int | None:
    count = content.get("execution_count")
    return count if isinstance(count, int) and 0 <= count < 1 << 31 else None


def _valid(text: str) -> str:
    """Return text that can be encoded: JSON can hold half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def _tame(value: Any, depth: int = 0) -> Any:
    """Return JSON that can be written again: not nested too deep, and with valid text only."""
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, str):
        return _valid(value)
    if isinstance(value, float) and not math.isfinite(value):  # Python's JSON has them, others' has not
        return None
    if isinstance(value, dict):
        return {_valid(str(key)): _tame(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_tame(item, depth + 1) for item in value]
    return value


def picture(display: Display, kind: str) -> bytes:
    """Return a picture's content; nothing if it is not what it should be."""
    if kind == "image/svg+xml":
        return display.data[kind].encode("utf-8", "replace")
    try:
        return base64.b64decode(display.data[kind])
    except ValueError:
        return b""


def _text(value: object) -> str:
    """Return a representation as text; JSON types come as what they are."""
    return _valid(value) if isinstance(value, str) else json.dumps(value)


async def next_message(get: Any, on_bad: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Return the next message of a channel that is one.

    Args:
        get: Receives from the channel.
        on_bad: Called for what is not signed, or no message, and is dropped.
    """
    while True:
        try:
            message = await get(timeout=None)
        except zmq.ZMQError:
            raise
        except Exception:  # whatever the library makes of what a kernel may send
            await asyncio.sleep(0)
            on_bad()
            continue
        if isinstance(message, dict) and isinstance(message.get("parent_header"), dict):
            return message
        on_bad()
