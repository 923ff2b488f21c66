"""Answers what a block's seccomp filter leaves open: calls whose target the filter cannot see.

Landlock does not ask about modes, owners and times of files. So the runner, not the block, changes them, after it has
looked at what the name leads to; what the block could change meanwhile is not looked at again. It also counts new
processes: one more than allowed is refused, and when a block is to end, nobody is allowed any more.

The protocol is that of seccomp_unotify(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
import time

from . import linux

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

QUESTION = struct.Struct("=QIIiIQ6Q")
"""`struct seccomp_notif`: id, thread, flags; number, architecture, instruction pointer and arguments of the call."""
ANSWER = struct.Struct("=QqiI")
"""`struct seccomp_notif_resp`: id, result, negative error number, flags."""
RECEIVE, SEND, STILL_THERE = 0xC0502100, 0xC0182101, 0x40082102
CONTINUE = 1
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH = -100, 0x100, 0x1000
PATH_MAX = 4096
AT_ONCE = 64
"""Questions answered before the supervisor looks after its other business."""
FULL = 0.005
"""Seconds for which a tree that was full counts as full: a fork bomb must not make us count all the time."""
TIMES = {"utime": struct.Struct("=qq"), "utimes": struct.Struct("=qqqq"), "futimesat": struct.Struct("=qqqq")}
TIMESPECS = struct.Struct("=qqqq")


class Guard:
    """Answers the calls of one block.

    Args:
        listener: Where they arrive.
        config: As `sandboxes.isolation.landlock.confinement` returns it.
        processes: How many processes and threads the block may have.

    Attributes:
        listener: As above.
        forks: How many processes and threads the block has started.
    """

    def __init__(self, listener: int, config: Dict[str, Any], processes: int) -> None:
        self.listener = listener
        self.forks = 0
        self._calls: Dict[str, str] = config["asked"]
        self._roots: List[str] = config["writable"]
        self._processes = processes
        self._alive = 1
        self._full_until = 0.0
        self._poller = select.poll()
        self._poller.register(listener, select.POLLIN)

    def answer(self) -> None:
        """Answer what is asked now."""
        for _ in range(AT_ONCE):
            ready = self._poller.poll(0)
            if not ready or not ready[0][1] & select.POLLIN:
                return
            question = bytearray(QUESTION.size)
            try:
                fcntl.ioctl(self.listener, RECEIVE, question)
            except OSError:  # whoever asked was interrupted, or has ended
                continue
            number, thread, _, call, _, _, *words = QUESTION.unpack(question)
            error, flags = self._decide(number, thread, self._calls.get(str(call), ""), words)
            try:
                fcntl.ioctl(self.listener, SEND, ANSWER.pack(number, 0, -error, flags))
            except OSError:  # likewise
                continue

    def _decide(self, number: int, thread: int, name: str, words: List[int]) -> Tuple[int, int]:
        """Return an error number and flags."""
        if name in ("clone", "fork", "vfork"):
            return self._start_process()
        if name in ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
            return self._signal(thread, name, words)
        try:
            self._change(number, thread, name, words)
        except OSError as error:
            return error.errno or errno.EPERM, 0
        return 0, 0

    # Processes

    def _start_process(self) -> Tuple[int, int]:
        if self._alive >= self._processes:
            now = time.monotonic()
            if now >= self._full_until:
                self._alive = self._count()
                self._full_until = now + FULL
            if self._alive >= self._processes:
                return errno.EAGAIN, 0
        self._alive += 1
        self.forks += 1
        return 0, CONTINUE

    def _count(self) -> int:
        count = 0
        for pid in linux.processes(False):
            try:
                count += int(linux.stat_fields(pid)[17])  # field 20 of proc(5): threads
            except (OSError, IndexError, ValueError):
                continue
        return count

    def _signal(self, thread: int, name: str, words: List[int]) -> Tuple[int, int]:
        """Let a signal through to the block's own. The words cannot change any more, unlike what they point to."""
        own = set(linux.processes(False))
        target = _signed(words[0])
        if name == "kill" and target == -1:
            for pid in own - {_process(thread)}:
                try:
                    os.kill(pid, words[1])
                except OSError:
                    continue
            return 0, 0
        if name == "kill" and target <= 0:
            group = -target or os.getpgid(thread)
            members = {pid for pid in own if _group(pid) == group}
            return (0, CONTINUE) if members and group != os.getpgid(0) else (errno.EPERM, 0)
        return (0, CONTINUE) if _process(target) in own else (errno.EPERM, 0)

    # Files

    def _change(self, number: int, thread: int, name: str, words: List[int]) -> None:
        """Change a file as the call would, if it is one of the block's own.

        Raises:
            OSError: it is not, or the kernel refuses.
        """
        target = self._target(thread, name, words)
        try:
            # Only now is it certain that all that was read belongs to whoever asked.
            fcntl.ioctl(self.listener, STILL_THERE, struct.pack("=Q", number))
            path = "/proc/self/fd/%d" % target
            where = os.readlink(path)
            if not any(where == root or where.startswith(root + "/") for root in self._roots):
                raise OSError(errno.EPERM, "not the block's own")
            if "chmod" in name:
                os.chmod(path, words[1 if name in ("chmod", "fchmod") else 2] & 0o7777)
            elif "chown" in name:
                first = 2 if name == "fchownat" else 1
                os.chown(path, _signed(words[first]), _signed(words[first + 1]))
            else:
                _set_times(path, self._times(thread, name, words))
        finally:
            os.close(target)

    def _target(self, thread: int, name: str, words: List[int]) -> int:
        """Return a descriptor of the file that a call means."""
        if name in ("fchmod", "fchown") or (name == "utimensat" and words[1] == 0):
            return self._descriptor(thread, _signed(words[0]))
        if name in ("chmod", "chown", "lchown", "utime", "utimes"):
            return self._named(thread, AT_FDCWD, words[0], AT_SYMLINK_NOFOLLOW if name == "lchown" else 0)
        flags = {"fchownat": 4, "fchmodat2": 3, "utimensat": 3}.get(name)
        return self._named(thread, _signed(words[0]), words[1], words[flags] if flags is not None else 0)

    def _named(self, thread: int, directory: int, pointer: int, flags: int) -> int:
        path = self._string(thread, pointer)
        if not path:
            if not flags & AT_EMPTY_PATH:
                raise OSError(errno.ENOENT, "no name")
            return self._descriptor(thread, directory)
        for alias in (b"/proc/self/", b"/proc/thread-self/"):
            if path.startswith(alias):  # theirs, not ours
                path = b"/proc/%d/" % thread + path[len(alias) :]
        how = os.O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if flags & AT_SYMLINK_NOFOLLOW else 0)
        if path.startswith(b"/"):
            return os.open(path, how)
        base = self._descriptor(thread, directory)
        try:
            return os.open(path, how, dir_fd=base)
        finally:
            os.close(base)

    def _descriptor(self, thread: int, number: int) -> int:
        """Return a descriptor of ours to what one of theirs refers to."""
        name = "cwd" if number == AT_FDCWD else "fd/%d" % number
        try:
            return os.open("/proc/%d/%s" % (thread, name), os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            raise OSError(errno.EBADF, "no such descriptor") from None

    def _string(self, thread: int, pointer: int) -> bytes:
        text = b""
        while b"\0" not in text:
            if len(text) >= PATH_MAX:
                raise OSError(errno.ENAMETOOLONG, "name too long")
            # Not across a page that may not be there.
            text += self._memory(thread, pointer + len(text), PATH_MAX - (pointer + len(text)) % PATH_MAX)
        return text[: text.index(b"\0")]

    def _memory(self, thread: int, pointer: int, size: int) -> bytes:
        try:
            memory = os.open("/proc/%d/mem" % thread, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it made itself undumpable
            raise OSError(errno.EPERM, "its memory is closed") from None
        try:
            data = os.pread(memory, size, pointer)
        except (OSError, OverflowError):
            data = b""
        finally:
            os.close(memory)
        if not data:
            raise OSError(errno.EFAULT, "bad address")
        return data

    def _times(self, thread: int, name: str, words: List[int]) -> Tuple[int, ...]:
        """Return seconds and nanoseconds of the two times that a call gives; nothing for the present time."""
        pointer = words[2 if name in ("utimensat", "futimesat") else 1]
        if pointer == 0:
            return ()
        form = TIMES.get(name, TIMESPECS)
        data = self._memory(thread, pointer, form.size)
        if len(data) < form.size:
            raise OSError(errno.EFAULT, "bad address")
        times: Tuple[int, ...] = form.unpack(data)
        if name == "utime":
            return times[0], 0, times[1], 0
        if name == "utimensat":
            return times
        if not all(0 <= times[part] < 1_000_000 for part in (1, 3)):
            raise OSError(errno.EINVAL, "bad time")
        return times[0], times[1] * 1000, times[2], times[3] * 1000


def _signed(word: int) -> int:
    """Return the `int` that the kernel makes of a word."""
    return ctypes.c_int(word & 0xFFFFFFFF).value


def _process(thread: int) -> int:
    """Return the process that a thread belongs to; 0 if there is none."""
    try:
        with open("/proc/%d/status" % thread, "rb") as file:
            for line in file:
                if line.startswith(b"Tgid:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def _set_times(path: str, times: Tuple[int, ...]) -> None:
    given = None if not times else ctypes.create_string_buffer(TIMESPECS.pack(*times), TIMESPECS.size)
    if linux.LIBC.utimensat(AT_FDCWD, path.encode(), given, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
