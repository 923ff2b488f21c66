"""Ctrl-C in programs without an event loop, while one of ours runs."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Interrupts:
    """Lets Ctrl-C cancel a call, and be raised when that has come to its end; the third one does not wait for it.

    asyncio does so for the first one only. The second would break into whatever its loop is just doing, and leave
    sandboxes and workspaces behind.

    Attributes:
        count: How many came.
    """

    def __init__(self) -> None:
        self.count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._ours = False

    def wait(self, runner: asyncio.Runner, call: Coroutine[Any, Any, T]) -> T:
        """Make a call, and return what comes of it."""

        async def cancellable() -> T:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            if self.count:  # already
                self._cancel()
            try:
                return await call
            finally:
                self._task = None

        return runner.run(cancellable())

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt
        if self._task is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel)

    def __enter__(self) -> Self:
        # Only there are signals handled; and who has a handler of their own decides what Ctrl-C does.
        if threading.current_thread() is threading.main_thread():
            self._ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            if self._ours:
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.count and (error is None or isinstance(error, asyncio.CancelledError)):
            raise KeyboardInterrupt from None
