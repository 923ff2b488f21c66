"""The sandbox's own control group: what the kernel holds and counts for the runner and all blocks together."""

from __future__ import annotations

import os
import resource

from .confine import WritingHold

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Dict, List, Optional

MOUNTED = (
    {
        "events": "/sys/fs/cgroup/memory.events",
        "usage": "/sys/fs/cgroup/memory.current",
        "kinds": "/sys/fs/cgroup/memory.stat",
    },
    {
        "events": "/sys/fs/cgroup/memory/memory.oom_control",
        "usage": "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "kinds": "/sys/fs/cgroup/memory/memory.stat",
    },
)
"""Version 2 and version 1: what the kernel has ended, bytes in all, and what they are."""
OPTIONAL = (
    {"peak": "/sys/fs/cgroup/memory.peak", "cpu": "/sys/fs/cgroup/cpu.stat"},
    {
        "peak": "/sys/fs/cgroup/memory/memory.max_usage_in_bytes",
        "kernel": "/sys/fs/cgroup/memory/memory.kmem.usage_in_bytes",
        "cpu": "/sys/fs/cgroup/cpuacct/cpuacct.usage",
    },
)
"""Highest bytes so far, and CPU time; in version 1 also what the kernel holds."""
ENTER = "enter."
"""How names of descriptors begin that let their writer into a group."""
MOST_FILES, INT = 16, 4


def receive(descriptor: int) -> "Dict[str, int]":
    """Take what the host hands over: descriptors with their names. They are closed in what is executed."""
    import _socket  # without the enumerations of `socket`, which take 4 ms to make

    connection = _socket.socket(fileno=descriptor)
    # It is there: the host says nothing to a runner before it has handed everything over.
    flags = _socket.MSG_CMSG_CLOEXEC | _socket.MSG_DONTWAIT
    names, messages, _, _ = connection.recvmsg(1024, _socket.CMSG_SPACE(MOST_FILES * INT), flags)
    connection.close()
    files: "List[int]" = []
    for level, kind, data in messages:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            files += memoryview(data[: len(data) - len(data) % INT]).cast("i").tolist()
    return dict(zip(names.decode().split(), files))


def enter(files: "Dict[str, int]") -> None:
    """Move into the groups that the host has opened for us, and take these descriptors out of `files`.

    Only as long as there is one thread.

    Raises:
        OSError: the kernel refused.
    """
    for name in [name for name in files if name.startswith(ENTER)]:
        file = files.pop(name)
        os.write(file, b"0")  # who writes it
        os.close(file)


class MemoryGroup:
    """What is charged to the group, kernel memory and files in memory included; and its CPU time.

    The files are opened once, before any block runs, so that no block can put others in their place.

    Args:
        files: Descriptors: `events`, `usage` and `kinds` of the memory controller; if there are, `peak` (writable,
            where it may start anew) and `cpu`; in version 1 `kernel`, and `sockets`, which it counts apart.
    """

    def __init__(self, files: "Dict[str, int]") -> None:
        self._files = files
        self._own = 0
        self._cache = 0
        self._peak_before = 0
        self._cpu_before = self._own_cpu_before = 0.0

    @classmethod
    def find(cls) -> "Optional[MemoryGroup]":
        """Return the group that is mounted here, or None if none is."""
        for names, more in zip(MOUNTED, OPTIONAL):
            opened = {}
            try:
                for name, path in names.items():
                    opened[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                for file in opened.values():
                    os.close(file)
                continue
            for name, path in more.items():
                try:
                    opened[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError:
                    continue
            return cls(opened)
        return None

    @classmethod
    def given(cls, files: "Dict[str, int]") -> "Optional[MemoryGroup]":
        """Return the group whose files were handed over, or None if it has no memory controller."""
        return cls(files) if {"events", "usage", "kinds"} <= set(files) else None

    @property
    def counts_cpu(self) -> bool:
        """Whether it knows of CPU time."""
        return "cpu" in self._files

    @property
    def tables_apart(self) -> bool:
        """Whether page tables are not in `used`: see `_charged`."""
        return "kernel" in self._files

    def settle(self) -> None:
        """Take what is used now for the runner's own."""
        self._own = self._charged()

    def begin(self) -> None:
        """Count peak and CPU time from here on: a block begins."""
        self._cache = 0
        if "peak" in self._files:
            try:
                os.pwrite(self._files["peak"], b"0", 0)
                self._peak_before = 0
            except OSError:  # before Linux 6.12 in version 2, and where it was opened for reading only
                self._peak_before = self._number("peak")
        self._cpu_before, self._own_cpu_before = self._cpu(), _own_cpu()

    def cpu_time(self) -> float:
        """Return CPU seconds since `begin`, without the runner's; also of those that nobody has waited for."""
        return self._cpu() - self._cpu_before - (_own_cpu() - self._own_cpu_before)

    def peak(self) -> int:
        """Return the most bytes in use at once since `begin`, without cached files; 0 where that is not known."""
        if "peak" not in self._files:
            return 0
        highest = self._number("peak")
        if highest <= self._peak_before:  # it comes from an earlier block
            return 0
        self._charged()  # looks at the cache
        return highest - self._own - self._cache

    def killings(self) -> int:
        """Return how many processes the kernel has ended here for want of memory."""
        return self._fields("events").get(b"oom_kill", 0)

    def used(self) -> int:
        """Return bytes that are not the runner's own, and could not be given back at once."""
        return self._charged() - self._own

    def _usage(self) -> int:
        return self._number("usage") + (self._number("sockets") if "sockets" in self._files else 0)

    def _charged(self) -> int:
        fields = self._fields("kinds")
        cache = sum(fields.get(b"total_" + name, fields.get(name, 0)) for name in (b"active_file", b"inactive_file"))
        cache += fields.get(b"slab_reclaimable", 0)
        if "kernel" in self._files:
            # Version 1 does not tell the names and inodes of a large directory, which go when memory is short, from
            # buffers of sockets. So what the kernel holds is left to the group's own limit, whose breach is seen.
            cache += self._number("kernel")
        self._cache = max(self._cache, cache)
        return self._usage() - cache

    def _cpu(self) -> float:
        if "cpu" not in self._files:
            return 0.0
        text = os.pread(self._files["cpu"], 1 << 12, 0)
        if text.startswith(b"usage_usec"):
            return int(text.split(None, 2)[1]) / 1e6
        return int(text) / 1e9

    def _number(self, name: str) -> int:
        return int(os.pread(self._files[name], 64, 0))

    def _fields(self, name: str) -> "Dict[bytes, int]":
        pairs = (line.split() for line in os.pread(self._files[name], 1 << 14, 0).splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class ProcessCount:
    """What the group's pids controller counts and caps: the runner's threads, and all of the block's.

    Args:
        now: Descriptor of `pids.current`.
        most: Of `pids.max`, writable.
    """

    def __init__(self, now: int, most: int) -> None:
        self._now, self._most = now, most
        self._limit = os.pread(most, 64, 0)

    @classmethod
    def given(cls, files: "Dict[str, int]") -> "Optional[ProcessCount]":
        """Return the count whose files were handed over, or None if there is none."""
        return cls(files["processes"], files["most"]) if {"processes", "most"} <= set(files) else None

    def current(self) -> int:
        """Return how many processes and threads there are, those included that nobody has waited for."""
        return int(os.pread(self._now, 64, 0))

    def hold_forks(self) -> None:
        """Let nobody in the group fork, so that every process can be found and killed."""
        os.pwrite(self._most, b"0", 0)

    def release_forks(self) -> None:
        """Set the limit that there was before `hold_forks`."""
        os.pwrite(self._most, self._limit, 0)


class Victim:
    """Makes a worker the one whom the kernel takes first when memory is short, and keeps it and its children that.

    Nobody needs a right to take such a rank back again. A block of many small processes that did would have the runner
    be the largest one.

    Args:
        places: The directories below which it may still write, which its own rank in /proc is not; none means any.
    """

    def __init__(self, places: "List[str]") -> None:
        self._hold = WritingHold(places) if places else None

    def become(self) -> None:
        """Step forward, for ever."""
        try:
            file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            os.write(file, Rank.FIRST)
            os.close(file)
            if self._hold is not None:
                self._hold.put_on()
        except OSError:
            pass


class Rank:
    """Whom the kernel takes first when memory is short: blocks, never the runner.

    A process inherits the rank of the one that forks it. So the runner puts itself forward for the moment of the fork,
    where it cannot rely on the worker to do it: /proc is read-only in there.

    Args:
        file: Descriptor of the runner's own `oom_score_adj`, see proc(5).
    """

    FIRST = b"1000"

    def __init__(self, file: int) -> None:
        self._file = file
        with open("/proc/self/oom_score_adj", "rb") as own:
            self._own = own.read()

    def step_forward(self) -> None:
        """Let the kernel take what is forked from here on first."""
        os.pwrite(self._file, self.FIRST, 0)

    def step_back(self) -> None:
        """Take the rank again that there was before `step_forward`."""
        os.pwrite(self._file, self._own, 0)
