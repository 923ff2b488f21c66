"""Sockets that programs of this machine keep in a directory which a sandbox is to have."""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path

BOUND = "/proc/net/unix"
NAME = 7
"""Column of a socket's name, as its program has given it; see proc_net(5)."""


def sockets_in(directory: Path) -> list[str]:
    """Return the paths below a directory, relative to it, at which programs of this machine have sockets.

    A namespace of its own keeps nobody from these: who may write to the file may connect. Names that are relative are
    looked for in the directory itself, since nobody tells to what they were.
    """
    inside = os.path.realpath(directory)
    real = functools.cache(os.path.realpath)  # there may be hundreds of sockets, in a few directories
    found = set()
    try:
        lines = Path(BOUND).read_text(errors="surrogateescape").splitlines()[1:]
    except OSError:  # no Linux
        return []
    for line in lines:
        columns = line.split(None, NAME)
        if len(columns) <= NAME or columns[NAME].startswith("@"):  # it has none, or one that is no file's
            continue
        path = os.path.join(inside, columns[NAME])
        if _is_socket(path):
            path = os.path.join(real(os.path.dirname(path)), os.path.basename(path))
            if path.startswith(inside + os.sep):
                found.add(path[len(inside) + 1 :])
    return sorted(found)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False
