"""A cap on processes by a control group, for root, whom the kernel exempts from RLIMIT_NPROC."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Self

from sandboxes.runner.linux import stat_fields

ROOT = Path("/sys/fs/cgroup")
PREFIX = "agentexec-"


class PidsGroup:
    """A control group with `pids.max`; removed by `close`, or by the next owner if ours was killed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def create(cls, most: int) -> Self | None:
        """Make a group that holds at most so many tasks; None where that is not possible."""
        for parent in (ROOT / "pids", ROOT):
            if not (parent / "cgroup.procs").exists():
                continue
            _remove_stale(parent)
            path = parent / f"{PREFIX}{os.getpid()}-{_start_time(os.getpid())}-{secrets.token_hex(4)}"
            try:
                path.mkdir()
            except OSError:
                continue
            group = cls(path)
            try:
                (path / "pids.max").write_text(str(most))
            except OSError:
                group.close()
                continue
            return group
        return None

    def add(self, pid: int) -> None:
        """Move a process into the group; what it forks from then on is in it too."""
        (self._path / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        """Remove the group, which must be empty."""
        with contextlib.suppress(OSError):
            self._path.rmdir()


def pids_groups_usable() -> bool:
    """Whether this process may make groups that cap processes."""
    return any(
        os.access(parent, os.W_OK) and (parent / "cgroup.procs").exists() and _has_pids(parent)
        for parent in (ROOT / "pids", ROOT)
    )


def _has_pids(parent: Path) -> bool:
    if parent.name == "pids":
        return True
    try:
        return "pids" in (parent / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False


def _remove_stale(parent: Path) -> None:
    """Remove groups whose owner was killed. A group that is in use cannot be removed, whoever tries."""
    for path in parent.glob(f"{PREFIX}*"):
        try:
            pid, started = path.name.removeprefix(PREFIX).split("-")[:2]
            alive = _start_time(int(pid)) == started
        except OSError:
            alive = False
        except ValueError:
            continue
        if not alive:
            with contextlib.suppress(OSError):
                path.rmdir()


def _start_time(pid: int) -> str:
    """Return when a process started, which tells it from a later one with the same id."""
    return stat_fields(pid)[19]  # field 22 of proc(5)
