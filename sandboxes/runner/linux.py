"""The few Linux calls that Python's standard library does not offer, and the process tree."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Dict, List, Tuple

LIBC = ctypes.CDLL(None, use_errno=True)
CLOCK_REALTIME_COARSE = 5 if sys.platform.startswith("linux") else time.CLOCK_REALTIME
"""Python has no name for it. The precise clock runs up to a tick ahead of change times."""
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38


def change_time() -> int:
    """Return what the change time of a file is that is changed now, in ns since the epoch."""
    return time.clock_gettime_ns(CLOCK_REALTIME_COARSE)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process, as the manual has it; nothing on systems without prctl.

    Raises:
        OSError: the kernel refused.
    """
    if not sys.platform.startswith("linux"):
        return
    if LIBC.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, "prctl(%d, %d): %s" % (option, value, os.strerror(error)))


class FilterProgram(ctypes.Structure):
    """A seccomp filter as the kernel takes it: `struct sock_fprog`."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

    @classmethod
    def of(cls, program: bytes) -> FilterProgram:
        """Return one for an array of `struct sock_filter`."""
        return cls(len(program) // 8, program)


def filter_calls(program: bytes) -> None:
    """Put a seccomp filter, an array of `struct sock_filter`, on this process and all it will ever fork.

    Raises:
        OSError: the kernel refused.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)  # without it, only root may
    if LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(FilterProgram.of(program)), 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, "prctl(PR_SET_SECCOMP): %s" % os.strerror(error))


def processes(pid_namespace: bool) -> List[int]:
    """Return the ids of all processes of the block: of the PID namespace, or below this process."""
    if pid_namespace:
        own = os.getpid()
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]
    try:
        return _below(os.getpid())
    except FileNotFoundError:  # a kernel that does not show children
        return descendants(os.getpid(), _parents())


def _below(root: int) -> List[int]:
    found: List[int] = []
    queue = [root]
    while queue:
        pid = queue.pop()
        try:
            for thread in os.listdir("/proc/%d/task" % pid):
                with open("/proc/%d/task/%s/children" % (pid, thread), "rb") as file:
                    children = [int(child) for child in file.read().split()]
                found += children
                queue += children
        except OSError:  # it ended; what it had started is ours now
            if pid == root:
                raise
    return found


def _parents() -> Dict[int, str]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = stat_fields(int(name))[1]
            except (OSError, ValueError, IndexError):
                continue
    return parents


def descendants(root: int, parents: Dict[int, str]) -> List[int]:
    """Return every process below `root`, given each one's parent id."""
    children: Dict[int, List[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(int(parent), []).append(pid)
    found: List[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def stat_fields(pid: int) -> List[str]:
    """Return the fields of /proc/PID/stat after the name: state, ppid, … (proc(5) numbers them from 3)."""
    with open("/proc/%d/stat" % pid, "rb") as file:
        # The name may hold spaces and parentheses, so the fields start after the last one.
        return file.read().rpartition(b")")[2].decode("ascii").split()


def signal_all(pid_namespace: bool, number: int = signal.SIGKILL) -> None:
    """Send a signal to every process of the block.

    In a PID namespace of which this process is PID 1 that is one call, which nothing can dodge. Elsewhere the
    tree is walked; `kill(-1)` there would end everything the user has.
    """
    if pid_namespace and os.getpid() == 1:
        try:
            os.kill(-1, number)
        except ProcessLookupError:
            pass
        return
    for pid in processes(False):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def newest_process() -> int:
    """Return the id that was given out last in this PID namespace, to a process or a thread."""
    with open("/proc/loadavg", "rb") as file:
        return int(file.read().split()[-1])


def cpu_seconds(pid: int) -> float:
    """Return CPU seconds of a process that was not waited for yet, all its threads counted, its children not.

    Raises:
        OSError: there is no such process.
    """
    return time.clock_gettime((~pid << 3) | 2)  # the clock of another process, see clock_getcpuclockid(3)


def usage(pid: int) -> Tuple[float, int]:
    """Return CPU seconds and highest resident bytes of a living process, its children not counted."""
    cpu_time = cpu_seconds(pid)
    with open("/proc/%d/status" % pid, "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return cpu_time, int(line.split()[1]) * 1024
    return cpu_time, 0


def split_status(status: int) -> Tuple[int, int]:
    """Return (exit status, 0) or (0, signal) of a wait status."""
    if os.WIFSIGNALED(status):
        return 0, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), 0
