"""What a directory itself is like, which the next to use it is to find as the first did."""

from __future__ import annotations

import fcntl
import os
import stat
import struct

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List

# linux/fs.h, where a long has 8 bytes
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FLAGS = struct.Struct("=Q")
"""The kernel reads and writes the lower half."""


class Modes:
    """Remembers the modes of what cannot be opened without a consequence, and has names that nobody else can take.

    Args:
        paths: Where these are, what is above first; what is not there does not count.
    """

    def __init__(self, paths: "Iterable[str]") -> None:
        self._modes = {path: _mode(path) for path in paths if os.path.exists(path)}

    def restore(self) -> None:
        """Make them what they were, where that is allowed."""
        for path, mode in self._modes.items():
            try:
                if _mode(path) != mode:
                    os.chmod(path, mode)
            except OSError:
                continue


def _mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


class Pristine:
    """Remembers mode, extended attributes (access lists among them) and flags of a directory.

    Args:
        directory: Descriptor of it.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._mode = stat.S_IMODE(os.fstat(directory).st_mode)
        self._flags = self._read_flags()
        self._attributes = self._read_attributes()

    def restore(self) -> None:
        """Make it what it was. What cannot be changed, a block could not change either."""
        for name, value in self._attributes.items():
            self._attempt(os.setxattr, name, value)
        for name in set(self._read_attributes()) - set(self._attributes):
            self._attempt(os.removexattr, name)
        # After the access list, which has a part of the mode in it.
        self._attempt(os.chmod, self._mode)
        if self._read_flags() != self._flags:
            self._attempt(fcntl.ioctl, FS_IOC_SETFLAGS, self._flags)
        self._attempt(os.utime)

    def _attempt(self, change: "Callable[..., object]", *arguments: "Any") -> None:
        try:
            change(self._directory, *arguments)
        except OSError:
            pass

    def _read_flags(self) -> bytes:
        try:
            return fcntl.ioctl(self._directory, FS_IOC_GETFLAGS, bytes(FLAGS.size))
        except OSError:  # the file system has none
            return b""

    def _read_attributes(self) -> "Dict[str, bytes]":
        found = {}
        for name in self._names():
            try:
                found[name] = os.getxattr(self._directory, name)
            except OSError:
                continue
        return found

    def _names(self) -> "List[str]":
        try:
            return os.listxattr(self._directory)
        except (OSError, AttributeError):  # the file system has none, or this is not Linux
            return []
