"""A program's output on its way to the user: raw bytes into a file or pipe, made harmless for a terminal."""

from __future__ import annotations

import codecs
import os
import select

from agentexec.cli.signals import Interrupts
from agentexec.markdown import visible


class Output:
    """Writes what a program writes to one descriptor of ours.

    A terminal gets text in which control characters are written out, since a program could otherwise take
    it over (set the clipboard, hide lines, answer prompts). Anything else gets the bytes as they are.

    Args:
        fd: The descriptor.
        signals: Told when a write may block.
    """

    def __init__(self, fd: int, signals: Interrupts) -> None:
        self._fd = fd
        self._signals = signals
        self._terminal = os.isatty(fd)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes) -> None:
        """Write it all, however slow the reader.

        Raises:
            BrokenPipeError: nobody reads any more.
            Interrupted: a signal came while the reader did not read.
        """
        self._write(self._harmless(self._decoder.decode(data)) if self._terminal else data)

    def close(self) -> None:
        """Write what is left of a character that never was completed."""
        if self._terminal:
            self._write(self._harmless(self._decoder.decode(b"", final=True)))

    @staticmethod
    def _harmless(text: str) -> bytes:
        return visible(text).encode()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        self._signals.writing = True
        try:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:  # another process made our shared descriptor non-blocking
                    select.select([], [self._fd], [])
        finally:
            self._signals.writing = False
