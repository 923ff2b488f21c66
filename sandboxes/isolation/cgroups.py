"""Control groups: memory, processes and CPU time of a sandbox's whole tree, held and counted by the kernel.

Version 2 is used where a part of the hierarchy is ours: delegated to the user, as systemd does it, or all of it for
root. Version 1 is used by root. Everybody else has the runner's watcher alone.

See cgroups(7), the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst, and systemd's
docs/CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from sandboxes.isolation.handover import close_all
from sandboxes.isolation.hierarchy import (
    CPU,
    MEMORY,
    OWNERS,
    PIDS,
    PREFIX,
    Place,
    find_place,
    is_owners,
    is_top,
    own_groups,
)
from sandboxes.runner.group import ENTER
from sandboxes.runner.linux import stat_fields
from sandboxes.types import Limits

HEADROOM = 64 << 20
"""Bytes of a group beyond what the runner has and the block may have: the watcher gives the block all of its limit, and
the group is there for what is faster than the watcher."""
COMING_UP = 4 << 30
"""Bytes for a runner that comes up, preloads included; then `settle` knows how many it has."""
KILL_TIME = 2.0
"""Seconds for the members of a group to die."""
MOVE_TIME = 1.0
"""Seconds to catch those that fork while they are moved."""

FILES: Mapping[int, Mapping[str, tuple[str, str, int]]] = {
    2: {
        "events": (MEMORY, "memory.events", os.O_RDONLY),
        "usage": (MEMORY, "memory.current", os.O_RDONLY),
        "kinds": (MEMORY, "memory.stat", os.O_RDONLY),
        "peak": (MEMORY, "memory.peak", os.O_RDWR),  # writable, to start anew, since Linux 6.12
        "cpu": (CPU, "cpu.stat", os.O_RDONLY),
        "processes": (PIDS, "pids.current", os.O_RDONLY),
        "most": (PIDS, "pids.max", os.O_RDWR),  # writable, to hold all forks while a block is ended
    },
    1: {
        "events": (MEMORY, "memory.oom_control", os.O_RDONLY),
        "usage": (MEMORY, "memory.usage_in_bytes", os.O_RDONLY),
        "kinds": (MEMORY, "memory.stat", os.O_RDONLY),
        "peak": (MEMORY, "memory.max_usage_in_bytes", os.O_RDWR),
        "kernel": (MEMORY, "memory.kmem.usage_in_bytes", os.O_RDONLY),
        "sockets": (MEMORY, "memory.kmem.tcp.usage_in_bytes", os.O_RDONLY),  # the only kind that is not in the sum
        "cpu": (CPU, "cpuacct.usage", os.O_RDONLY),
        "processes": (PIDS, "pids.current", os.O_RDONLY),
        "most": (PIDS, "pids.max", os.O_RDWR),
    },
}
"""For each version, what the runner reads: its name for it, the controller, the file and how it is opened."""


class ControlGroup:
    """The group of one sandbox: one directory in version 2, one for each controller in version 1.

    Attributes:
        controllers: Which of `memory`, `pids` and `cpuacct` it has.
    """

    def __init__(self, version: int, directories: Mapping[str, Path]) -> None:
        self._version = version
        self._directories = dict(directories)
        self.controllers = frozenset(directories)
        self._memory = 0

    @classmethod
    def create(cls, place: Place, limits: Limits, *, preload: bool = False) -> Self:
        """Make a group; groups whose owner was killed are removed first.

        Args:
            place: Where, see `find_place`.
            limits: Its `memory` becomes the group's, with room for the runner; likewise its `processes`.
            preload: Whether the runner is to load modules, which takes memory and may start threads.

        Raises:
            OSError: the kernel refused, although the place looked usable.
        """
        for parent in set(place.parents.values()):
            remove_stale(parent)
        if place.divide:
            _pass_on(place)
        name = f"{_own_prefix()}-{secrets.token_hex(4)}"
        group = cls(place.version, {})
        try:
            for controller, parent in place.parents.items():
                (parent / name).mkdir(exist_ok=True)
                group._directories[controller] = parent / name
            group._limit(limits, preload)
        except OSError:
            group.close()
            raise
        group.controllers = frozenset(place.parents)
        return group

    def _limit(self, limits: Limits, preload: bool) -> None:
        self._memory = limits.memory
        # The runner is in it too, with the threads that preloaded libraries may start.
        processes = limits.processes + 1 + (os.cpu_count() or 1 if preload else 0)
        if PIDS in self._directories:
            self._write(PIDS, "pids.max", processes)
        if MEMORY not in self._directories:
            return
        if self._version == 2:
            self._write(MEMORY, "memory.max", limits.memory + COMING_UP)
            self._write(MEMORY, "memory.swap.max", 0, optional=True)  # not there without swap accounting
            return
        self._write(MEMORY, "memory.limit_in_bytes", limits.memory + COMING_UP)
        self._write(MEMORY, "memory.swappiness", 0, optional=True)
        self._write(MEMORY, "memory.kmem.tcp.limit_in_bytes", limits.memory, optional=True)  # which also counts them

    def settle(self) -> None:
        """All that is in the group is the runner's own; from here on, the group holds so much more."""
        if MEMORY not in self._directories:
            return
        usage, limit = (
            ("memory.current", "memory.max")
            if self._version == 2
            else (
                "memory.usage_in_bytes",
                "memory.limit_in_bytes",
            )
        )
        own = int((self._directories[MEMORY] / usage).read_text())
        self._write(MEMORY, limit, own + self._memory + HEADROOM)
        if self._version == 1:
            self._write(MEMORY, "memory.memsw.limit_in_bytes", own + self._memory + HEADROOM, optional=True)

    def _write(self, controller: str, name: str, value: int, *, optional: bool = False) -> None:
        path = self._directories[controller] / name
        if optional and not path.exists():
            return
        path.write_text(str(value))

    def add(self, pid: int) -> None:
        """Move a process into the group; what it forks from then on is in it too.

        Raises:
            OSError: the process has ended, or the kernel refused.
        """
        for directory in set(self._directories.values()):
            (directory / "cgroup.procs").write_text(str(pid))

    @property
    def entered_from_inside(self) -> bool:
        """Whether the runner moves itself into the group, by what `open_files` returns, and `add` is not needed.

        In version 1 a single thread can do that at once. Who moves another process waits until none on the whole
        machine forks: 10 to 20 ms of a start.
        """
        return self._version == 1

    def open_files(self) -> dict[str, int]:
        """Return descriptors of what the runner reads, by the names in `FILES`; the caller closes them.

        The runner gets these, and no path: nothing of the hierarchy is visible inside. Where it is
        `entered_from_inside`, there are also those that begin with `ENTER`.

        Raises:
            OSError: a file that it enters by cannot be opened.
        """
        opened: dict[str, int] = {}
        try:
            for controller, directory in self._directories.items() if self.entered_from_inside else ():
                opened[ENTER + controller] = os.open(directory / "tasks", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            close_all(opened)
            raise
        for name, (controller, file, flags) in FILES[self._version].items():
            if controller not in self._directories:
                continue
            path = self._directories[controller] / file
            for mode in dict.fromkeys((flags, os.O_RDONLY)):
                with contextlib.suppress(OSError):
                    opened[name] = os.open(path, mode | os.O_CLOEXEC)
                    break
        return opened

    def kill(self) -> None:
        """End every member, whatever it has done to hide; bounded by `KILL_TIME`."""
        end = time.monotonic() + KILL_TIME
        for directory in set(self._directories.values()):
            while _end_members(directory) and time.monotonic() < end:
                time.sleep(0.001)

    def close(self) -> None:
        """Remove the group, which must be empty."""
        for directory in set(self._directories.values()):
            with contextlib.suppress(OSError):
                directory.rmdir()


def _end_members(directory: Path) -> bool:
    """Kill what is in a group; return whether anything was."""
    try:
        members = (directory / "cgroup.procs").read_text().split()
    except OSError:
        return False
    try:
        (directory / "cgroup.kill").write_text("1")  # since Linux 5.14, in version 2
    except OSError:
        for pid in members:
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)
    return bool(members)


_enabling = threading.Lock()


def _pass_on(place: Place) -> None:
    """Have the controllers of a group of our own passed on to the groups that are made in it.

    But for the machine's first one, version 2 refuses that while processes are in the group itself, which are this one
    and what it has started. They move into a group beside those that come.
    """
    parent = place.parents[MEMORY]
    with _enabling:
        control = parent / "cgroup.subtree_control"
        if {MEMORY, PIDS} <= set(control.read_text().split()):
            return
        if is_top(parent):
            control.write_text(f"+{MEMORY} +{PIDS}")
            return
        leaf = parent / f"{_own_prefix()}{OWNERS}"
        leaf.mkdir(exist_ok=True)
        end = time.monotonic() + MOVE_TIME
        while True:
            _move_all(parent, leaf)
            try:
                control.write_text(f"+{MEMORY} +{PIDS}")
                return
            except OSError as error:
                # One of them, a launcher say, may have forked meanwhile.
                if error.errno != errno.EBUSY or time.monotonic() > end:
                    raise


def _move_all(parent: Path, leaf: Path) -> None:
    for pid in (parent / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (leaf / "cgroup.procs").write_text(pid)


def remove_stale(parent: Path) -> list[str]:
    """Remove groups in a directory whose owner was killed, and what still runs in them.

    Never one of another user, or of a process that this one cannot see: doubt counts as life.
    """
    removed = []
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.name.startswith(PREFIX)]
    except OSError:
        return []
    for name in names:
        path = parent / name
        if _is_abandoned(path):
            group = ControlGroup(2, {MEMORY: path})
            if not is_owners(name):  # whoever is left in there is no block: the owner has started it for itself
                group.kill()
            group.close()
            if not path.exists():
                removed.append(str(path))
    return removed


def remove_abandoned() -> list[str]:
    """Remove the groups of killed owners wherever they are in the hierarchies; return their paths."""
    removed = []
    for controllers, mount, _ in own_groups():
        if controllers and not {MEMORY, PIDS, CPU}.intersection(controllers.split(",")):
            continue
        for parent, directories, _ in os.walk(mount):
            directories[:] = [name for name in directories if not name.startswith(PREFIX)]
            removed += remove_stale(Path(parent))
    return removed


def _is_abandoned(path: Path) -> bool:
    try:
        namespace, pid, started, _ = path.name.removeprefix(PREFIX).split("-")
        if namespace != _namespace() or path.stat().st_uid != os.geteuid():
            return False
        return _start_time(int(pid)) != started
    except ValueError:
        return False
    except FileNotFoundError:
        return path.exists()  # it is the process that is not there
    except OSError:
        return False


def _own_prefix() -> str:
    """Return what the names of this process's groups begin with; `_is_abandoned` takes them apart."""
    return f"{PREFIX}{_namespace()}-{os.getpid()}-{_start_time(os.getpid())}"


def _namespace() -> str:
    """Return what is the same for all processes that see each other's ids, and for no others."""
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _start_time(pid: int) -> str:
    """Return when a process started, which tells it from a later one with the same id."""
    return stat_fields(pid)[19]  # field 22 of proc(5)


def usable_place() -> Place | None:
    """Return where this process may make groups, if anywhere. Cheap, and looked up anew each time."""
    with contextlib.suppress(OSError):
        return find_place()
    return None
