"""Interrupts that hit a cell of an IPython kernel, and never the kernel's own work before and after it.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. In the middle of a message that the kernel
sends, the parts that are missing are taken from the next one, and the kernel is not understood any more; elsewhere
in its work, it ends. Either way the state would be lost (where a cell is at its end, six times in a thousand).
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Iterator, List, Optional, Tuple

AGAIN = 0.005
"""Seconds after which an interrupt that came at the wrong moment comes again."""
CELL = (("run_code", "interactiveshell.py"), ("trigger", "events.py"))
"""Functions of IPython, and their files, that catch whatever is raised below them: a cell, and its hooks."""
BEFORE = "run_cell_async"
"""What calls the hooks of what comes before the cell: an interrupt that they caught would be lost."""
MESSAGES = (os.path.join("jupyter_client", "session.py"), os.path.join("ipykernel", "iostream.py"))
"""The ends of files whose functions send messages."""


class CellInterrupts:
    """Takes the place of a kernel's hooks around each request, outside of which it ignores `SIGINT`.

    There is one interrupt for each cell, however many come: one may come while Python is about to wait for something,
    and is seen only when the next one breaks that off.

    Args:
        kernel: The instance of `ipykernel.kernelbase.Kernel`.
    """

    def __init__(self, kernel: Any) -> None:
        import threading  # which no other block has to pay for

        self._lock, self._timer, self._thread = threading.Lock(), threading.Timer, threading.get_ident()
        self._requests = self._last = 0  # how many there were, and which of them was interrupted last
        self._cell_name = getattr(kernel.shell.compile, "format_code_name", lambda file: None)  # since IPython 8
        kernel.pre_handler_hook, kernel.post_handler_hook = self.begin, self.end
        kernel._cancel_on_sigint = self.around_awaiting

    def begin(self) -> None:
        """Let interrupts in."""
        self._count()
        signal.signal(signal.SIGINT, self._interrupted)

    def end(self) -> None:
        """Ignore interrupts, also those that were put off."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._count()

    def around_awaiting(self, future: Any) -> Any:
        """Return the context in which a cell that awaits something is run, and cancelled.

        ipykernel's leaves what computes alone, and does not wake up its event loop if that waits (until it hears
        something else).

        Args:
            future: The cell's `asyncio.Future`.
        """
        from contextlib import contextmanager

        def interrupted(number: int, frame: Optional[FrameType]) -> None:
            if is_in_cell(frame):
                self._interrupted(number, frame)
            elif self._last != self._requests:
                self._last = self._requests
                future.get_loop().call_soon_threadsafe(future.cancel)

        @contextmanager
        def context() -> Iterator[None]:
            before = signal.signal(signal.SIGINT, interrupted)
            try:
                yield
            finally:
                signal.signal(signal.SIGINT, before)

        return context()

    def _count(self) -> None:
        with self._lock:
            self._requests += 1

    def _interrupted(self, number: int, frame: "Optional[FrameType]") -> None:
        if self._last == self._requests:
            return
        if is_in_cell(frame):
            self._last = self._requests
            error: Any = KeyboardInterrupt()
            error._render_traceback_ = lambda: plain_traceback(error, self._cell_name)
            raise error
        later = self._timer(AGAIN, self._again, (self._requests, os.getpid()))
        later.daemon = True
        try:
            later.start()
        except RuntimeError:  # no further thread is allowed: the host ends a kernel that does not listen
            pass

    def _again(self, request: int, process: int) -> None:
        with self._lock:  # so that it hits no later request
            if request == self._requests and process == os.getpid():
                signal.pthread_kill(self._thread, signal.SIGINT)


def is_in_cell(frame: "Optional[FrameType]") -> bool:
    """Tell whether code of a cell runs, and is not just sending a message."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.endswith(MESSAGES):
            return False
        caller = frame.f_back
        if any(code.co_name == name and code.co_filename.endswith(file) for name, file in CELL):
            return caller is None or code.co_name != "trigger" or caller.f_code.co_name != BEFORE
        frame = caller
    return False


def plain_traceback(error: BaseException, cell_name: "Callable[[str], Optional[Tuple[str, str]]]") -> "List[str]":
    """Return the traceback of an interrupt as Python prints it: the lines of the cell, and of what it called.

    IPython's, with the source around each, can take seconds where a long module was interrupted; the host ends a
    kernel that takes so long.

    Args:
        error: The interrupt.
        cell_name: Turns the file of a cell into words for it, as `("Cell", "In[1]")`; other files into None.
    """
    import traceback

    lines = ["Traceback (most recent call last):"]
    for call in traceback.extract_tb(error.__traceback__)[1:-1]:  # without IPython's frame and ours
        cell = cell_name(call.filename)
        lines.append(
            "  %s, line %s, in %s" % (" ".join(cell) if cell else "File " + call.filename, call.lineno, call.name)
        )
        if call.line:
            lines.append("    " + call.line)
    return [*lines, "KeyboardInterrupt"]
