"""One cell's exchange with its kernel: the displays, errors and streams that come of it, all of them untrusted."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from sandboxes.jupyter.client import Audience, Client
from sandboxes.report import Report
from sandboxes.runner.capture import HeadTail
from sandboxes.types import Display, ErrorInfo, Limits, OnOutput, Stream, Verdict

MAX_DISPLAYS, MAX_DISPLAY_BYTES = 100, 16 << 20
MAX_TEXT = 1 << 20
"""Displays of a cell, bytes of all of them, and characters of a traceback or an error message."""
MAX_KINDS, MAX_METADATA, MAX_DEPTH = 50, 10_000, 20
"""Representations of a display, characters and nesting of its metadata."""
_NO_SPACE = tuple(f"[Errno {number}]" for number in (errno.EFBIG, errno.ENOSPC, errno.EDQUOT))
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_NOT_AS_SAID = (AttributeError, KeyError, RecursionError, TypeError, ValueError)
"""What reading a message raises that does not keep to the messaging protocol."""


class Cell(Audience):
    """Runs one cell, and collects what the kernel publishes for it.

    Args:
        output: Bytes to keep of each stream that comes in messages.
        on_output: Called with what comes in these messages.

    Attributes:
        begun: Whether the kernel has said that the cell began.
        trouble: Holds the exception that `on_output` raised; it is not called again after that.
    """

    def __init__(self, output: int = 1 << 20, on_output: OnOutput | None = None) -> None:
        self._on_output = on_output
        self.streams = {"stdout": HeadTail(output), "stderr": HeadTail(output)}
        self.trouble: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.displays: list[Display] = []
        self._ids: dict[str, list[int]] = {}
        self._bytes = 0
        self._clear = False
        self._left_out = 0
        self._malformed = 0
        self.sent = False
        self.error: ErrorInfo | None = None
        self.execution_count: int | None = None
        self.begun = False

    @property
    def notes(self) -> list[str]:
        """What was left out, in words for `Result.message`."""
        counts = ((self._left_out, "displays were left out"), (self._malformed, "malformed messages were left out"))
        return [f"{count} {what}" for count, what in counts if count]

    async def run(self, client: Client, code: str) -> None:
        """Have the kernel run the code; return when it is done with it.

        Raises:
            SilenceError: the kernel will never say so.
        """
        self.sent = True
        request = {
            "code": _valid(code),
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            # Else a kernel may refuse the next cell, which comes soon after one that failed.
            "stop_on_error": False,
        }
        content = (await client.ask("execute_request", request, self)).content
        # That a cell has failed is there even if the error was not shown.
        if self.error is None and content.get("status") in ("error", "aborted"):
            self.shown("error", {"ename": "Aborted", **content})

    def shown(self, kind: str, content: Mapping[str, Any]) -> None:
        try:
            self._take(kind, content)
        except _NOT_AS_SAID:
            self.malformed()

    def malformed(self) -> None:
        self._malformed += 1

    def too_large(self) -> None:
        self._left_out += 1

    def _take(self, kind: str, content: Mapping[str, Any]) -> None:
        if kind in ("display_data", "execute_result"):
            self._show(content, _count(content) if kind == "execute_result" else None)
        elif kind == "execute_input":
            self.execution_count, self.begun = _count(content), True
        elif kind == "update_display_data":
            self._update(content)
        elif kind == "clear_output":
            self._clear = True
            if not content.get("wait"):
                self._clear_now()
        elif kind == "stream":
            self._write(content["name"], _valid(content["text"]).encode())
        elif kind == "error":
            coloured = _valid("\n".join(str(line) for line in content.get("traceback") or ())[:MAX_TEXT])
            self.error = ErrorInfo(
                name=_valid(str(content.get("ename", ""))[:1000]),
                message=_valid(str(content.get("evalue", ""))[:MAX_TEXT]),
                traceback=_ANSI.sub("", coloured),
                coloured=coloured,
            )

    def _write(self, name: Any, data: bytes) -> None:
        self.streams[name].feed(data)
        self.heard(name, data)

    def heard(self, stream: Stream, data: bytes) -> None:
        """Pass output on, whichever way it came."""
        if self._on_output is None or self.trouble.done():
            return
        try:
            self._on_output(stream, data)
        except Exception as error:  # the caller's own, who is to see it, whatever it is
            self.trouble.set_exception(error)
            self.trouble.exception()  # also where nobody waits for it any more

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
        """Replace what was displayed under an id, in this cell only: earlier results have been returned already."""
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
    """Return a JSON value that can be encoded again: not nested too deep, valid text and finite numbers only."""
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


def blame(error: ErrorInfo, report: Report, limits: Limits) -> tuple[Verdict, str]:
    """Tell a cell that failed for want of space from one that failed by itself; return what is to be noted, too."""
    if error.name == "OSError" and error.message.startswith(_NO_SPACE):
        if report.memory_is_full:
            return "memory", f"shared memory is full; the limit is {limits.memory >> 20} MiB"
        return "disk", ""
    # A process of the cell's own that was stopped by the limit leaves a file of that size.
    if any(file.size == limits.file_size for file in report.files):
        return "disk", f"a file reached the limit of {limits.file_size} bytes"
    return "failed", ""


def picture(display: Display, kind: str) -> bytes:
    """Return a picture's bytes; none if the display does not hold valid base64."""
    if kind == "image/svg+xml":
        return display.data[kind].encode("utf-8", "replace")
    try:
        return base64.b64decode(display.data[kind])
    except ValueError:
        return b""


def _text(value: object) -> str:
    """Return a representation as text: strings as they are, all else as JSON."""
    return _valid(value) if isinstance(value, str) else json.dumps(value)
