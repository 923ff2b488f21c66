"""Copies a workspace that others may be writing to, and trusts nothing in it; see `scan`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agentexec.snapshots.scan import open_root, opened_directory, opened_file
from sandboxes.runner.files import write_all

_PIECE = 1 << 20


def copy_workspace(source: Path, target: Path) -> None:
    """Copy all files, directories and links of a workspace into an empty directory.

    No link is followed, also one that is put in the place of a directory meanwhile; what else there is (a FIFO, say),
    is left out, and so is what goes meanwhile.

    Raises:
        SnapshotError: one of both is no directory.
        OSError: something cannot be read or written.
        RecursionError: it is too deep.
    """
    there = open_root(source)
    try:
        here = open_root(target)
        try:
            _copy(there, here)
        finally:
            os.close(here)
    finally:
        os.close(there)


def _copy(source: int, target: int) -> None:
    with os.scandir(source) as found:
        entries = list(found)
    for each in entries:
        try:
            _copy_entry(source, target, each)
        except FileNotFoundError:
            continue


def _copy_entry(source: int, target: int, each: os.DirEntry[str]) -> None:
    kind = each.stat(follow_symlinks=False).st_mode
    if stat.S_ISLNK(kind):
        os.symlink(os.readlink(each.name, dir_fd=source), each.name, dir_fd=target)
    elif stat.S_ISREG(kind):
        with opened_file(each.name, source) as file:
            _copy_file(file, each.name, target)
    elif stat.S_ISDIR(kind):
        with opened_directory(each.name, source) as (below, mode):
            os.mkdir(each.name, 0o700, dir_fd=target)
            with opened_directory(each.name, target) as (made, _):
                _copy(below, made)
                os.fchmod(made, mode & 0o1777)


def _copy_file(file: int, name: str, target: int) -> None:
    status = os.fstat(file)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    copy = os.open(name, flags, 0o600, dir_fd=target)
    try:
        left = status.st_size  # one that grows meanwhile is cut
        while left > 0 and (piece := os.read(file, min(_PIECE, left))):
            write_all(copy, piece)
            left -= len(piece)
        os.fchmod(copy, status.st_mode & 0o777)
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(copy)
