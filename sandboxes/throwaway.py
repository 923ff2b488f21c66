"""Throw-away workspaces: removed when they are closed, or by the next owner if theirs was killed."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from pathlib import Path

from sandboxes.runner.files import remove_tree

PREFIX = "agentexec-ws-"
GRACE = 60.0
"""Seconds in which a directory without a lock may belong to somebody who is about to take it."""


class ThrowawayDirectory:
    """A temporary directory, locked as long as its owner lives.

    The lock is on the directory itself, so that it also holds between containers that share a /tmp and see
    each other's process ids differently, or not at all.

    Attributes:
        path: Where it is.
    """

    def __init__(self) -> None:
        remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=_prefix())).resolve()
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove the directory and all in it, however deep or unreadable."""
        try:
            remove_tree(str(self.path))
        finally:
            os.close(self._lock)


def _prefix() -> str:
    return f"{PREFIX}{os.geteuid()}-"


def remove_abandoned(grace: float = GRACE) -> list[str]:
    """Remove the directories of owners that were killed; never one that is in use, or somebody else's.

    Args:
        grace: Seconds that a directory without a lock must have been left alone.

    Returns:
        Their paths.
    """
    removed = []
    for entry in os.scandir(tempfile.gettempdir()):
        if not entry.name.startswith(_prefix()):
            continue
        try:
            status = entry.stat(follow_symlinks=False)
            # What root made it may have given to somebody else, as it does with the workspaces of containers.
            if os.geteuid() not in (0, status.st_uid) or time.time() - status.st_ctime < grace:
                continue
            lock = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(entry.path)
            removed.append(entry.path)
        except OSError:
            pass
        finally:
            os.close(lock)
    return removed
