"""What a block holds where a sum of resident pages does not show it: memory and files without a name.

Looking costs time, so the watcher looks only where the machine as a whole lost more than the block shows.
"""

from __future__ import annotations

import os
import stat
import time

from .linux import LIBC, stat_fields

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Dict, Iterator, List, Tuple

    File = Tuple[int, int]
    """Device and inode."""

# Fields of proc(5), counted from the state.
STATE, PARENT, THREADS, STARTED, VIRTUAL, RESIDENT = 0, 1, 17, 19, 20, 21
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
IPC_RMID = 0
MANY_LOCKS = 10_000
"""Locks on files, which no program holds that means well."""
VFORK = 1.0
"""Seconds that a child may take from vfork to exec; they are milliseconds on an idle machine."""


class Opaque(Exception):
    """A process hides what it holds: it is undumpable, or it sent descriptors that nobody has received yet."""


def task_fields(pid: int) -> List[str]:
    """Return a process's `stat_fields`; of a living thread where the first thread has ended.

    Raises:
        OSError: the process has ended.
    """
    fields = stat_fields(pid)
    if fields[STATE] == "Z" and int(fields[THREADS]) > 1:
        alive = _path(pid)
        with open(alive + "/stat", "rb") as file:
            memory = file.read().rpartition(b")")[2].decode("ascii").split()
        fields[VIRTUAL : RESIDENT + 1] = memory[VIRTUAL : RESIDENT + 1]
    return fields


def _path(pid: int) -> str:
    """Return where /proc shows a process's memory, which is not at a first thread that has ended."""
    path = "/proc/%d" % pid
    fields = stat_fields(pid)
    if fields[STATE] == "Z" and int(fields[THREADS]) > 1:
        for thread in os.listdir(path + "/task"):
            if int(thread) != pid:
                return "%s/task/%s" % (path, thread)
    return path


def without_vforked(tree: Dict[int, List[str]]) -> Dict[int, List[str]]:
    """Leave out children between vfork and exec, which have their parent's memory, not as much again."""
    counted = {}
    now = time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS
    for pid, fields in tree.items():
        parent = tree.get(int(fields[PARENT]))
        shares = (
            parent is not None
            and parent[STATE] == "D"
            and parent[VIRTUAL] == fields[VIRTUAL]
            and abs(int(parent[RESIDENT]) - int(fields[RESIDENT])) < 256
            and now - int(fields[STARTED]) < VFORK * TICKS
        )
        if not shares:
            counted[pid] = fields
    return counted


def page_tables(tree: Dict[int, List[str]], worth: int) -> int:
    """Return bytes of page tables, if they could be as many as are worth looking: a 512th of what is mapped."""
    if sum(int(fields[VIRTUAL]) for fields in tree.values()) // 512 < worth:
        return 0
    total = 0
    for pid in tree:
        try:
            with open(_path(pid) + "/status", "rb") as file:
                for line in file:
                    if line.startswith((b"VmPTE:", b"VmPMD:")):
                        total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def many_locks(tree: Dict[int, List[str]], seconds: float) -> bool:
    """Whether processes hold very many locks on files, or may, as they hide what they hold or have too much to look at.

    For each lock the kernel takes 200 bytes, which it counts as nobody's, and it sets no bound to their number.
    """
    end = time.monotonic() + seconds
    count = 0
    for pid, fields in tree.items():
        try:
            for path, _ in descriptors(pid):
                with open(path.replace("/fd/", "/fdinfo/"), "rb") as file:
                    count += file.read().count(b"\nlock:")
                if count > MANY_LOCKS or time.monotonic() > end:
                    return True
        except PermissionError:
            if int(fields[VIRTUAL]) > 0:
                return True
        except Opaque:
            return True
        except OSError:  # it ended, or closed it
            continue
    return False


def remove_segments() -> None:
    """Remove all System V shared memory of the namespace; it outlives its processes."""
    try:
        with open("/proc/sysvipc/shm", "rb") as file:
            for line in file.readlines()[1:]:
                LIBC.shmctl(int(line.split()[1]), IPC_RMID, None)
    except (OSError, ValueError, IndexError):
        pass


class Memory:
    """What one process holds.

    Attributes:
        private: Bytes of anonymous memory of its own.
        shared: Bytes of shared memory without a name, each page divided by its users.
        rooms: Each of these files to the size of its mappings. It may hold as much even where no page of it is
            mapped any more (MADV_DONTNEED).
        files: Each open memory file without a name to its size in bytes.
        opaque: Whether it hides something.
    """

    def __init__(self, pid: int, fields: List[str]) -> None:
        self.private = self.shared = 0
        self.rooms: Dict[File, int] = {}
        self.files: Dict[File, int] = {}
        self.opaque = False
        try:
            self._read_maps(_path(pid))
            self._read_descriptors(pid)
        except PermissionError:
            self.private, self.shared, self.opaque = PAGE * int(fields[RESIDENT]), 0, int(fields[VIRTUAL]) > 0
        except Opaque:
            self.opaque = True
        except OSError:  # it ended
            pass

    def _read_maps(self, path: str) -> None:
        pss = 0
        nameless = False
        with open(path + "/smaps", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    pss = int(line.split()[1]) * 1024
                    if nameless:
                        self.shared += pss
                elif line.startswith(b"Anonymous:") and not nameless:
                    self.private += min(pss, int(line.split()[1]) * 1024)
                elif line[:1] in b"0123456789abcdef" and b"-" in line[:20]:
                    fields = line.split(None, 5)
                    # Files in memory-backed directories and System V segments are counted where they are.
                    nameless = len(fields) > 5 and fields[5].startswith((b"/dev/zero", b"/memfd:"))
                    if nameless:
                        add_room(self.rooms, fields)

    def _read_descriptors(self, pid: int) -> None:
        for path, target in descriptors(pid):
            if target.startswith("/memfd:"):
                add_file(self.files, path)


def memory_without_name(holdings: List[Memory], unseen: int) -> int:
    """Return bytes of shared memory that processes hold without a name.

    Args:
        holdings: The processes.
        unseen: Bytes by which the machine's shared memory grew that nothing explains. Where a process hides what
            it holds, or could hold more than it shows, these are its own.
    """
    files: Dict[File, int] = {}
    rooms: Dict[File, int] = {}
    for one in holdings:
        files.update(one.files)
        for file, size in one.rooms.items():
            rooms[file] = max(size, rooms.get(file, 0))
    shown = max(sum(one.shared for one in holdings), sum(files.values()))
    if any(one.opaque for one in holdings):
        return max(shown, unseen)
    return max(shown, min(unseen, sum({**rooms, **files}.values())))


def unlinked_files(tree: Dict[int, List[str]], device: int, unseen: int) -> int:
    """Return bytes of the workspace's files that have no name any more, but are open or mapped.

    Args:
        tree: The processes.
        device: The workspace's, as stat(2) tells it.
        unseen: Bytes of the file system's space that went and nothing explains.
    """
    files: Dict[File, int] = {}
    rooms: Dict[File, int] = {}
    opaque = False
    for pid, fields in tree.items():
        try:
            for path, _ in descriptors(pid):
                add_file(files, path, device)
            with open(_path(pid) + "/maps", "rb") as file:
                for line in file:
                    if line.endswith(b"(deleted)\n") and b"/dev/zero" not in line and b"/memfd:" not in line:
                        add_room(rooms, line.split(None, 5))
        except PermissionError:
            opaque = opaque or int(fields[VIRTUAL]) > 0
        except Opaque:
            opaque = True
        except OSError:  # it ended
            continue
    shown = sum(files.values())
    return max(shown, unseen) if opaque else max(shown, min(unseen, shown + sum(rooms.values())))


def descriptors(pid: int) -> Iterator[Tuple[str, str]]:
    """Yield path in /proc and target of each open descriptor, of each thread, since threads may have their own.

    Raises:
        Opaque: descriptors are on their way through a socket.
        PermissionError: the process is undumpable, or has no memory any more.
        OSError: it ended.
    """
    for thread in os.listdir("/proc/%d/task" % pid):
        base = "/proc/%d/task/%s/fd" % (pid, thread)
        try:
            names = os.listdir(base)
        except PermissionError:
            if int(thread) == pid and _path(pid) != "/proc/%d" % pid:
                continue  # the first thread has ended
            raise
        for name in names:
            path = "%s/%s" % (base, name)
            try:
                target = os.readlink(path)
            except OSError:
                continue
            if target.startswith("socket:") and _in_flight("/proc/%d/task/%s/fdinfo/%s" % (pid, thread, name)):
                raise Opaque
            yield path, target


def _in_flight(info: str) -> bool:
    try:
        with open(info, "rb") as file:
            return any(line.startswith(b"scm_fds:") and int(line.split()[1]) > 0 for line in file)
    except OSError:
        return False


def add_file(found: Dict[File, int], path: str, device: int = -1) -> None:
    """Add the size of an open regular file; if a device is given, of one without a name that lies there."""
    try:
        status = os.stat(path)
    except OSError:
        return
    if stat.S_ISREG(status.st_mode) and (device < 0 or (status.st_dev == device and status.st_nlink == 0)):
        found[status.st_dev, status.st_ino] = status.st_blocks * 512


def add_room(rooms: Dict[File, int], mapping: List[bytes]) -> None:
    """Add the size of a mapping, given the words of its line in /proc/PID/maps."""
    start, end = (int(address, 16) for address in mapping[0].split(b"-"))
    major, minor = (int(number, 16) for number in mapping[3].split(b":"))
    file = os.makedev(major, minor), int(mapping[4])
    rooms[file] = rooms.get(file, 0) + end - start
