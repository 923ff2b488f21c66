"""What a command writes: a program's output, raw into a file or pipe and harmless on a terminal, and its own lines."""

from __future__ import annotations

import codecs
import os
import select
import sys
from typing import TYPE_CHECKING

from agentexec.visible import visible

if TYPE_CHECKING:
    from agentexec.cli.signals import Interrupts

BROKEN_PIPE = 141
"""128 + SIGPIPE, which is how other programs end when nobody reads their output any more."""


class CannotWrite(Exception):
    """Stdout or stderr takes nothing more.

    Attributes:
        status: Exit status that tells of it.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write the output: {error.strerror}")
        self.status = BROKEN_PIPE if isinstance(error, BrokenPipeError) else 1

    @property
    def quiet(self) -> bool:
        """Whether nothing is to be said, since nobody reads."""
        return self.status == BROKEN_PIPE


def open_standard_streams() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed.

    The next pipe or socket would get the free descriptor else, and a program's output would go into it.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as long-lived as the process


def say(message: str) -> None:
    """Write one line of the command's own to stderr, if anybody reads it."""
    try:
        print(f"agentexec: {visible(message, keep='')}", file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        abandon_stderr()


def say_lines(text: str) -> None:
    """Write text from a sandbox to stderr, harmless on any terminal."""
    try:
        print(visible(text), file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        abandon_stderr()


def abandon_stderr() -> None:
    """Write to /dev/null from now on: what Python still holds would fail again at exit, and make that status 120."""
    _abandon(2)


def abandon_stdout() -> None:
    """Likewise for stdout."""
    _abandon(1)


def _abandon(number: int) -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(fd, number)
    os.close(fd)


def write_stdout(line: str, encoding: str = "utf-8") -> None:
    """Write a line to stdout, past Python's buffer, which would try again at exit what has failed.

    Raises:
        CannotWrite: nobody reads, the disk is full, ….
    """
    _write_all(1, f"{line}\n".encode(encoding, "backslashreplace"))


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:  # another process made our shared descriptor non-blocking
                select.select([], [fd], [])
    except OSError as error:
        raise CannotWrite(error) from error


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
            CannotWrite: nobody reads any more, the disk is full, ….
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
        self._signals.writing = True
        try:
            _write_all(self._fd, data)
        finally:
            self._signals.writing = False
