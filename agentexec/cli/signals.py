"""Ctrl-C and its relatives: the first asks for an orderly end, the third does not wait for it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from sandboxes import Executor

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
"""Exit status of an interrupted command, as a shell gives it after Ctrl-C."""


class Interrupted(Exception):
    """A signal arrived while the main thread was in a write that may never end."""


class Interrupts:
    """What signals have done so far.

    Attributes:
        count: How many came.
        over: Set when the loop has done its work; what is left is to tell of it.
        writing: Set while the main thread is in a blocking write; a signal then raises `Interrupted` there,
            since the event loop cannot run.
    """

    def __init__(self, on_interrupt: Callable[[], object]) -> None:
        self.count = 0
        self.over = False
        self.writing = False
        import asyncio  # a fifth of what a command takes that only lists something

        self._loop = asyncio.get_running_loop()
        self._on_interrupt = on_interrupt

    def __bool__(self) -> bool:
        return self.count > 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal, in the main thread."""
        self.count += 1
        if self.count > 2:
            os._exit(INTERRUPTED)
        if self.over:
            return
        self._loop.call_soon_threadsafe(self._on_interrupt)
        if self.writing:
            self.writing = False  # here, since this may hit the very moment at which the writer would say so
            raise Interrupted


@contextmanager
def _wakes_the_loop() -> Iterator[None]:
    """Let a signal end the loop's wait.

    One that comes between the last look for signals and the wait, or to another thread, would only be seen after it.
    """
    import asyncio
    import socket

    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        loop.add_reader(ours, ours.recv, 4096)
        previous = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)
            loop.remove_reader(ours)


def _this_task() -> asyncio.Task[object]:
    import asyncio

    task = asyncio.current_task()
    assert task is not None
    return task


@contextmanager
def interrupts(on_interrupt: Callable[[], object] | None = None) -> Iterator[Interrupts]:
    """Call `on_interrupt` in the running loop when a signal asks the command to end; without one, cancel this task.

    `signal.signal` rather than the loop's own handlers: those do not run while a write blocks the loop.
    """
    state = Interrupts(on_interrupt or _this_task().cancel)
    previous = {number: signal.signal(number, state.handle) for number in SIGNALS}
    try:
        with _wakes_the_loop():
            yield state
    finally:
        state.over = True
        # After a signal the command is about to end; a second one must not cost what it has to tell.
        for number, handler in () if state else previous.items():
            signal.signal(number, handler)


@dataclass
class Stopping:
    """An executor that signals stop.

    Attributes:
        signals: What they have done so far.
        running: Whether a block, or one of several, is on its way.
    """

    signals: Interrupts
    running: bool = False


@asynccontextmanager
async def stopped_by_signals(executor: Executor) -> AsyncIterator[Stopping]:
    """Let the first signal cancel a running block, so that what it did is kept; a second one no longer waits for it."""
    import asyncio

    task = _this_task()
    background: set[asyncio.Task[None]] = set()

    def interrupt() -> None:
        if state.running and state.signals.count == 1:
            background.add(asyncio.create_task(executor.cancel()))
        else:
            task.cancel()

    with interrupts(interrupt) as signals:
        state = Stopping(signals)
        try:
            yield state
        finally:
            state.running = False
            await asyncio.gather(*background, return_exceptions=True)


def ignore_signals() -> None:
    """Let no further signal change the exit status, while the interpreter shuts down."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
