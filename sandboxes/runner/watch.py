"""The runner's own watcher: memory, processes and CPU time of the block's tree; the workspace's size is `disk`'s.

It samples while a block runs, more often the closer a limit is, and costs nothing for a block that ends before
the first sample. Memory is what the tree would free by dying: anonymous and shared pages, counted once however
many processes map them, and files in memory-backed directories.
"""

from __future__ import annotations

import os
import resource
import time

from .disk import UNSEEN, DiskMeter, megabytes
from .files import MIN_FILE
from .hidden import RESIDENT, Memory, many_locks, memory_without_name, page_tables, task_fields, without_vforked
from .linux import processes
from .tally import CpuTally

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Set

    from .disk import Breach
    from .group import MemoryGroup

PAGE = os.sysconf("SC_PAGE_SIZE")
CORES = os.cpu_count() or 1
TICK = 1.0 / os.sysconf("SC_CLK_TCK")
FILL_RATE = 4 << 30
"""Bytes of memory a second that one core can fill at most: the next sample comes before the limit can be reached."""
SHORTEST, LONGEST = 0.005, 0.05
"""Seconds between two samples."""
MOST_OF_TIME = 4
"""Time between two samples, as a multiple of what one takes, at the least."""
PATIENCE = 1.0
"""Seconds to find out what a tree holds exactly, once its processes hold too much between them."""
INODE = 4096
"""Bytes that an empty file in a memory-backed directory counts, as in the workspace: it bounds how many there are."""


def children_cpu() -> float:
    """Return CPU seconds of all children that were reaped so far, with theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Watch:
    """Watches one block. Made ahead of it, so that the block does not wait for what has to be known before.

    Args:
        config: The runner's configuration.
        disk: Meter of the workspace.
        group: The sandbox's memory control group, if it has one of its own.

    Attributes:
        delay: Seconds until the next sample is due.
        peak_memory: The highest sample so far, in bytes.
    """

    def __init__(self, config: Dict[str, Any], disk: DiskMeter, group: Optional[MemoryGroup]) -> None:
        self._limits: Dict[str, Any] = config["limits"]
        self._pid_namespace: bool = config["pid_namespace"]
        self._tmpfs: List[str] = config["tmpfs"]
        self._capped: bool = config["process_cap"] != "watcher"
        self._group = group
        counted = group is not None and group.counts_cpu
        self._tally = CpuTally() if self._limits.get("cpu_time") is not None and not counted else None
        self._killings_before = group.killings() if group else 0
        self._disk = disk
        disk.begin()
        self._cpu_before = children_cpu()
        if group is not None:
            group.begin()
        self._shmem_before = _meminfo(b"Shmem:")
        self._kernel_before = -1
        self._locks = False
        self._locks_next = 0.0
        self._full_before = self._full()
        self._suspect_since = 0.0
        self._holdings: Dict[int, Memory] = {}
        self.peak_memory = 0
        self.delay = SHORTEST

    def count_cpu_from(self, seconds: float) -> None:
        """Count CPU time from here on; what is still alive has used `seconds` together with all before it."""
        self._cpu_before = seconds
        if self._tally is not None:
            self._tally.begin(self._tree())

    def go_on_from(self, other: "Watch") -> None:
        """Count what locks on files take from where another watcher of the same processes does."""
        self._kernel_before, self._locks = other._kernel_before, other._locks

    def cpu_time(self) -> float:
        """Return CPU seconds of the tree so far; exact once everything is reaped."""
        # Children of a process that ignores their end are nobody's; only a group has seen them all.
        used = self.reaped_cpu()
        if self._tally is not None:
            return max(used, self._tally.seconds)
        return used if self._group is None else max(used, self._group.cpu_time())

    def reaped_cpu(self) -> float:
        """Return CPU seconds of what was waited for."""
        return children_cpu() - self._cpu_before

    def peak(self) -> int:
        """Return the most memory that is known to have been used at once, in bytes."""
        return self.peak_memory if self._group is None else max(self.peak_memory, self._group.peak())

    def sample(self) -> Optional[Breach]:
        """Look once; return the limit that is passed, if any."""
        started = time.monotonic()
        self.delay = LONGEST
        tree = self._tree()
        breach = self._check_cpu(tree) or self._check_memory(tree) or self._check_processes(tree)
        breach = breach or self._disk.check(self._limits["disk"], tree)
        # Many busy processes make looking slow; it must not become all that the supervisor does.
        self.delay = max(self.delay, MOST_OF_TIME * (time.monotonic() - started))
        return breach

    def _tree(self) -> Dict[int, List[str]]:
        tree = {}
        for pid in processes(self._pid_namespace):
            try:
                tree[pid] = task_fields(pid)
            except (OSError, IndexError):
                continue
        return tree

    def _again_in(self, seconds: float) -> None:
        self.delay = min(self.delay, max(SHORTEST, seconds))

    def _check_cpu(self, tree: Dict[int, List[str]]) -> Optional[Breach]:
        limit = self._limits.get("cpu_time")
        if limit is None:
            return None
        # Fields 14 to 17 of proc(5): user and system time, of the process and of the children it waited for.
        used = self.reaped_cpu() + TICK * sum(int(field) for stat in tree.values() for field in stat[11:15])
        if self._tally is not None:
            self._tally.look(tree)
            if self._tally.restless:
                self._again_in(SHORTEST)
        used = max(used, self.cpu_time())
        self._again_in((limit - used) / CORES)
        if used < limit:
            return None
        return "cpu_time", "used %.2f s of CPU; the limit is %g s" % (used, limit)

    def _check_memory(self, tree: Dict[int, List[str]]) -> Optional[Breach]:
        limit = self._limits["memory"]
        if self.was_short_of_memory():
            return "memory", "more memory was asked for than there is; the limit is %s" % megabytes(limit)
        if self._group is not None:  # whose sum is exact, however many share a page, and has the kernel's in it
            used = self._group.used() + (page_tables(tree, limit // 4) if self._group.tables_apart else 0)
            # Names in memory are the kernel's, which version 1 counts apart; they outlive the block, and the runner
            # needs memory to remove them: were the group full of them, it would be the next to be ended.
            used += _tmpfs_inodes(self._tmpfs) * INODE
        else:
            counted = self._count_memory(tree, limit)
            if counted is None:
                self._again_in(SHORTEST)
                return None
            used = counted
        used += self._locks_memory(tree)
        self.peak_memory = max(self.peak_memory, used)
        self._again_in((limit - used) / (FILL_RATE * CORES))
        if used <= limit:
            return None
        return "memory", "used %s of memory; the limit is %s" % (megabytes(used), megabytes(limit))

    def _locks_memory(self, tree: Dict[int, List[str]]) -> int:
        """Return bytes that the kernel has for the tree's locks on files, where it has come to hold much more."""
        held = _meminfo(b"SUnreclaim:")
        if self._kernel_before < 0:
            self._kernel_before = held
        grown, now = held - self._kernel_before, time.monotonic()
        if grown > UNSEEN and not self._locks and now >= self._locks_next:
            self._locks, self._locks_next = many_locks(tree, DiskMeter.LONG_SLICE), now + PATIENCE
        return grown if self._locks and grown > UNSEEN else 0

    def _count_memory(self, tree: Dict[int, List[str]], limit: int) -> Optional[int]:
        """Return bytes that the tree holds, by a look at it, or None if that takes longer than one sample may."""
        tree = without_vforked(tree)
        used = PAGE * sum(int(stat[RESIDENT]) for stat in tree.values())
        tables = page_tables(tree, limit // 4)
        files = _tmpfs_used(self._tmpfs)
        unseen = _meminfo(b"Shmem:") - self._shmem_before - files
        if used + tables + files > limit or unseen > UNSEEN:
            # Resident pages count what is shared once for each process, and do not count memory files that
            # nobody maps; so before anybody is killed, look exactly.
            exact = self._exact_memory(tree, used, unseen)
            if exact is None:
                return None
            used = exact
        return used + tables + files

    def _exact_memory(self, tree: Dict[int, List[str]], most: int, unseen: int) -> Optional[int]:
        """Return bytes of the tree without its files, or None if that takes longer than one sample may.

        Reading a process's map waits for its memory lock, which a fork bomb may hold for long. So this goes on
        at the next sample where it had to stop; after `PATIENCE`, the worst is believed.
        """
        started = time.monotonic()
        self._suspect_since = self._suspect_since or started
        for pid, fields in tree.items():
            if pid not in self._holdings:
                if time.monotonic() - started > DiskMeter.SLICE:
                    return max(most, unseen) if started - self._suspect_since > PATIENCE else None
                self._holdings[pid] = Memory(pid, fields)
        holdings = [self._holdings[pid] for pid in tree]
        segments = _sysv_shared(self._pid_namespace)
        self._holdings, self._suspect_since = {}, 0.0
        return sum(one.private for one in holdings) + segments + memory_without_name(holdings, unseen - segments)

    def _check_processes(self, tree: Dict[int, List[str]]) -> Optional[Breach]:
        limit = self._limits["processes"]
        if self._capped:
            return None
        count = sum(int(stat[17]) for stat in tree.values())  # field 20: threads
        if count <= limit:
            return None
        return "failed", "ran %d processes and threads; the limit is %d" % (count, limit)

    def was_short_of_memory(self) -> bool:
        """Whether the kernel has ended a process of the block because the sandbox's control group was full."""
        return self._group is not None and self._group.killings() > self._killings_before

    def files_weigh(self) -> bool:
        """Whether memory-backed directories hold so much that the next block would have next to nothing left."""
        return bool(_tmpfs_used(self._tmpfs) > self._limits["memory"] // 2)

    def filled_up(self) -> Set[str]:
        """Return the memory-backed directories that are full to the brim, and were not before the block."""
        return self._full() - self._full_before

    def _full(self) -> Set[str]:
        full = set()
        for path in self._tmpfs:
            usage = os.statvfs(path)
            if usage.f_blocks and (usage.f_bavail * usage.f_frsize < MIN_FILE or usage.f_favail == 0):
                full.add(path)
        return full


def _tmpfs_used(paths: List[str]) -> int:
    used = 0
    for path in paths:
        try:
            usage = os.statvfs(path)
        except OSError:
            continue
        used += (usage.f_blocks - usage.f_bfree) * usage.f_frsize
    return used + _tmpfs_inodes(paths) * INODE


def _tmpfs_inodes(paths: List[str]) -> int:
    inodes = 0
    for path in paths:
        try:
            usage = os.statvfs(path)
        except OSError:
            continue
        inodes += usage.f_files - usage.f_ffree
    return inodes


def _meminfo(name: bytes) -> int:
    """Return bytes of a kind of memory on the whole machine, whose growth hints at what no process maps."""
    try:
        with open("/proc/meminfo", "rb") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _sysv_shared(pid_namespace: bool) -> int:
    """Return bytes of System V shared memory, where the namespace holds only the block's own."""
    if not pid_namespace:
        return 0
    try:
        with open("/proc/sysvipc/shm", "rb") as file:
            return sum(int(line.split()[14]) for line in file.readlines()[1:])
    except (OSError, IndexError, ValueError):
        return 0
