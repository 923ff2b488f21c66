"""One process at a time works on a run: a lock that the system takes back when its owner dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from agentexec.errors import RunBusy

LOOKS = 100
"""Milliseconds to wait for those who look whether a run has an owner: a look takes some microseconds."""


class RunLock:
    """Held from its making until `release`, or until the process ends.

    `flock(2)` rather than a record of the owner: nothing stale can be left, and two runs in one process exclude
    each other too.

    Raises:
        RunBusy: another process, or another part of this one, holds it.
    """

    def __init__(self, directory: Path, run_id: str) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = directory / f"{run_id}.lock"
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            if not _try_exclusive(fd):
                owner = os.pread(fd, 32, 0).decode(errors="replace").strip()
                os.close(fd)
                raise RunBusy(
                    f"run {run_id} is being worked on by process {owner or '?'}; wait for it, or end that first"
                ) from None
            if self._is_current(fd):
                break
            os.close(fd)  # its last owner removed it between our two calls
        self._fd: int | None = fd
        with contextlib.suppress(OSError):  # for people only, and the disk may be full
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others have it. Releasing twice has no effect."""
        if self._fd is None:
            return
        # Removed while still held, so that nobody can lose a file that they have just locked.
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._fd)
        self._fd = None


def _try_exclusive(fd: int) -> bool:
    """Lock a file; whoever only looks at it (`is_locked`) shares it for a moment, which is waited out."""
    for _ in range(LOOKS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # it has an owner
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)
        time.sleep(0.001)
    return False


def is_locked(directory: Path, run_id: str) -> bool:
    """Whether a process holds a run's lock at this moment."""
    try:
        fd = os.open(directory / f"{run_id}.lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who look at once do not take each other for an owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def lock_names(directory: Path) -> frozenset[str]:
    """Return the runs that have a lock, held or left behind."""
    try:
        return frozenset(name.removesuffix(".lock") for name in os.listdir(directory))
    except FileNotFoundError:
        return frozenset()
