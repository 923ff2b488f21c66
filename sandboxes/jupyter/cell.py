"""One cell's conversation with its kernel, which is believed in nothing but its own displays and errors."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient

from sandboxes.types import Display, ErrorInfo

MAX_DISPLAYS, MAX_DISPLAY_BYTES = 100, 16 << 20
MAX_TEXT = 1 << 20
"""Number and bytes of the displays of a cell, characters of a traceback."""
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Cell:
    """One cell's conversation with the kernel, and what was shown in it."""

    def __init__(self, client: AsyncKernelClient) -> None:
        self._client = client
        self.displays: list[Display] = []
        self._ids: dict[str, int] = {}
        self._bytes = 0
        self._clear = False
        self._left_out = 0
        self.sent = False
        self.error: ErrorInfo | None = None

    @property
    def notes(self) -> list[str]:
        """What is to be said of what was left out."""
        return [f"{self._left_out} displays were left out"] if self._left_out else []

    async def run(self, code: str) -> None:
        """Have the kernel run the code; return when it is done with it."""
        self.sent = True
        try:
            asked = self._client.execute(code, allow_stdin=False, store_history=True)
        except zmq.ZMQError:  # the runner tells how it ended
            await asyncio.get_running_loop().create_future()
        while True:
            message = await next_message(self._client.get_iopub_msg)
            if message.get("parent_header", {}).get("msg_id") != asked:
                continue
            content, kind = message.get("content", {}), message.get("msg_type")
            if kind == "status" and content.get("execution_state") == "idle":
                return
            self._take(str(kind), content)

    def _take(self, kind: str, content: Mapping[str, Any]) -> None:
        if kind in ("display_data", "execute_result"):
            self._show(content)
        elif kind == "update_display_data":
            self._update(content)
        elif kind == "clear_output":
            if content.get("wait"):
                self._clear = True
            else:
                self.displays.clear()
        elif kind == "error":
            coloured = "\n".join(str(line) for line in content.get("traceback") or ())[:MAX_TEXT]
            self.error = ErrorInfo(
                name=str(content.get("ename", ""))[:1000],
                message=str(content.get("evalue", ""))[:MAX_TEXT],
                traceback=_ANSI.sub("", coloured),
                coloured=coloured,
            )

    def _show(self, content: Mapping[str, Any]) -> None:
        if self._clear:
            self.displays.clear()
            self._clear = False
        display = self._display(content)
        if display is None:
            return
        name = content.get("transient", {}).get("display_id")
        if isinstance(name, str):
            self._ids[name] = len(self.displays)
        self.displays.append(display)

    def _update(self, content: Mapping[str, Any]) -> None:
        at = self._ids.get(str(content.get("transient", {}).get("display_id")))
        display = self._display(content)
        if display is not None and at is not None and at < len(self.displays):
            self.displays[at] = display

    def _display(self, content: Mapping[str, Any]) -> Display | None:
        """Return a display, or None if it is too much."""
        data = {str(kind): _text(value) for kind, value in dict(content.get("data") or {}).items()}
        size = sum(len(text) for text in data.values())
        if len(self.displays) >= MAX_DISPLAYS or self._bytes + size > MAX_DISPLAY_BYTES or len(data) > 50:
            self._left_out += 1
            return None
        self._bytes += size
        metadata = content.get("metadata")
        small = isinstance(metadata, dict) and len(str(metadata)) < 10_000
        return Display(data=data, metadata=metadata if small and isinstance(metadata, dict) else {})


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
    if isinstance(value, str):
        return value
    return json.dumps(value)


async def next_message(get: Any) -> dict[str, Any]:
    """Return the next message of a channel that is one; what is not signed, or no message, is dropped."""
    while True:
        try:
            message = await get(timeout=None)
        except (ValueError, RecursionError, TypeError, KeyError, UnicodeDecodeError, IndexError):
            await asyncio.sleep(0)
            continue
        if isinstance(message, dict) and isinstance(message.get("parent_header"), dict):
            return message
