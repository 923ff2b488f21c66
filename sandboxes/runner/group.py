"""The sandbox's own memory control group, as its file system shows it inside."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Dict, Optional

FILES = (
    ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.oom_control",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Version 2 and version 1: what the kernel has ended, bytes in all, and what they are."""


class MemoryGroup:
    """What is charged to the group, kernel memory and files in memory included.

    The files are opened once, before any block runs, so that no block can put others in their place.
    """

    def __init__(self, events: int, usage: int, kinds: int) -> None:
        self._events = events
        self._usage = usage
        self._kinds = kinds
        self._own = 0

    @classmethod
    def find(cls) -> "Optional[MemoryGroup]":
        """Return the group, or None if it is not shown here."""
        for names in FILES:
            opened = []
            try:
                for name in names:
                    opened.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                for file in opened:
                    os.close(file)
                continue
            return cls(*opened)
        return None

    def settle(self) -> None:
        """What is used now is the runner's own."""
        self._own = self._charged()

    def killings(self) -> int:
        """Return how many processes the kernel has ended here for want of memory."""
        return self._fields(self._events).get(b"oom_kill", 0)

    def used(self, suspicious: int) -> int:
        """Return bytes that are not the runner's own; below `suspicious`, what could be given back at once is in it."""
        rough = int(os.pread(self._usage, 64, 0)) - self._own
        return rough if rough <= suspicious else self._charged() - self._own

    def _charged(self) -> int:
        fields = self._fields(self._kinds)
        cache = sum(fields.get(b"total_" + name, fields.get(name, 0)) for name in (b"active_file", b"inactive_file"))
        return int(os.pread(self._usage, 64, 0)) - cache - fields.get(b"slab_reclaimable", 0)

    def _fields(self, file: int) -> "Dict[bytes, int]":
        pairs = (line.split() for line in os.pread(file, 1 << 14, 0).splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
