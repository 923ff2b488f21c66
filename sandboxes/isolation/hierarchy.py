"""Where in the control group hierarchies this process may make groups."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sandboxes.runner.linux import stat_fields

MEMORY, PIDS, CPU = "memory", "pids", "cpuacct"
"""The controllers that are used, by their names in version 1. CPU time is counted in version 2 without one."""
PROC = Path("/proc/self")
PREFIX, OWNERS = "agentexec.", "-owner"
"""How the names of our groups begin; how that of one ends in which the owner of the others is, beside them."""


@dataclass(frozen=True)
class Place:
    """Where groups can be made.

    Attributes:
        version: 1 or 2.
        parents: Controller to the directory that a group for it is made in; in version 2 it is one for all.
        divide: Whether it does not pass its controllers on to groups in it yet (version 2).
    """

    version: int
    parents: Mapping[str, Path]
    divide: bool = False


def own_groups(proc: Path = PROC) -> Iterator[tuple[str, Path, Path]]:
    """Yield controllers (`""` for version 2), mount point and our own group's directory of each hierarchy in sight."""
    paths = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path
    for line in (proc / "mountinfo").read_text().splitlines():
        fields, _, file_system = line.partition(" - ")
        _, _, _, root, mount, *_ = fields.split()
        kind, _, options = file_system.split(" ", 2)
        if kind == "cgroup2":
            names = ""
        elif kind == "cgroup":
            found = [each for each in paths if each and set(each.split(",")) <= set(options.split(","))]
            if not found:
                continue
            names = found[0]
        else:
            continue
        if names not in paths:
            continue
        own = paths[names]
        # A container may see only its own part of the hierarchy, under the whole one's name for it.
        inside = os.path.relpath(own, root) if own == root or own.startswith(root.rstrip("/") + "/") else "."
        point = Path(mount.encode().decode("unicode_escape"))  # a space is \040
        yield names, point, point if inside.startswith("..") else (point / inside)


def find_place(proc: Path = PROC) -> Place | None:
    """Return where this process may make groups with a memory or a pids controller; None if nowhere.

    Raises:
        OSError: there is no /proc here.
    """
    if not (proc / "cgroup").exists():
        return None
    first: dict[str, Path] = {}
    for controllers, mount, own in own_groups(proc):
        if not controllers:
            place = _unified(mount, own)
            if place is not None:
                return place
        for name in {MEMORY, PIDS, CPU}.intersection(controllers.split(",")):
            # At the top, as container engines do it: a group in ours would have to go before ours can.
            if may_make(mount):
                first.setdefault(name, mount)
    return Place(1, first) if first.keys() & {MEMORY, PIDS} else None


def _unified(mount: Path, own: Path) -> Place | None:
    """Look for the nearest group, from our own upwards, that we may divide; so what limits us limits blocks too."""
    directory = own.parent if is_owners(own.name) else own  # where groups of ours have gone before
    while True:
        if may_make(directory):
            everything = dict.fromkeys((MEMORY, PIDS, CPU), directory)
            if {MEMORY, PIDS} <= _words(directory / "cgroup.subtree_control"):
                return Place(2, everything)
            divisible = directory == own and (is_top(directory) or only_ours(directory))
            if divisible and {MEMORY, PIDS} <= _words(directory / "cgroup.controllers"):
                return Place(2, everything, divide=True)
        if directory == mount or not directory.is_relative_to(mount):
            return None
        directory = directory.parent


def is_owners(name: str) -> bool:
    """Whether a group of this name is one that an owner of ours has moved into."""
    return name.startswith(PREFIX) and name.endswith(OWNERS)


def may_make(directory: Path) -> bool:
    """Whether we may make groups here and move our processes into them.

    For a move, the kernel asks for the right to write in the nearest group that has both ends in it.
    """
    return os.access(directory, os.W_OK) and os.access(directory / "cgroup.procs", os.W_OK)


def is_top(directory: Path) -> bool:
    """Whether this is the machine's first group, which alone has no type, and may have processes beside groups."""
    return not (directory / "cgroup.type").exists()


def only_ours(directory: Path) -> bool:
    """Whether nobody but this process, and what it has started, is in a group."""
    try:
        members = [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
    except (OSError, ValueError):
        return False
    return all(_is_below(pid, os.getpid()) for pid in members)


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        try:
            pid = int(stat_fields(pid)[1])
        except (OSError, IndexError, ValueError):
            return False
    return pid == ancestor


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()
