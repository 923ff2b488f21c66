"""Tells which files of the workspace a block created or changed."""

from __future__ import annotations

import json
import os
import stat
import time

from .files import MAX_PATH, Refused, open_regular, set_mode, steps

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    Signature = Tuple[int, int, int, int]

MAX_KNOWN = 20_000
"""Entries of the workspace that are looked at."""
MAX_LISTED = 1_000
"""Files that are named in a report."""
MAX_NAMES = 4 << 20
"""Characters of paths that are remembered, each of which may take the runner 4 bytes; most trees have fewer."""
MAX_REPORTED = 512 << 10
"""Bytes of paths in a report, as JSON, which must fit into a frame."""
MAX_HASHED = 256 << 20
"""Bytes that are hashed for a report; larger files have no digest."""


class Listing:
    """Tells which files a block created or changed, by comparing with what was known before it.

    A file counts if its change time, which no program can set, is not older than the block, and its
    signature is not the one that was seen or uploaded before; the clock behind change times ticks only every
    few milliseconds, so the time alone would also name files that were put there just before.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._known: Dict[str, Signature] = {}
        self.changed(1 << 62, 10.0)

    def learn(self, path: str) -> None:
        """Remember a file that was put there by the host."""
        try:
            self._known[path] = _signature(os.stat(path, dir_fd=self._root, follow_symlinks=False))
        except OSError:
            self._known.pop(path, None)

    def changed(self, since: int, seconds: float) -> List[Dict[str, Any]]:
        """Return path, size and sha256 of what changed since a time (ns since the epoch), sorted by path.

        Looks at `MAX_KNOWN` entries and `MAX_NAMES` characters of paths at the most, and returns `MAX_LISTED` entries
        and `MAX_REPORTED` bytes of paths at the most. Gives up looking, and then hashing, when `seconds` have passed.
        """
        known: Dict[str, Signature] = {}
        found: List[str] = []
        room = MAX_NAMES
        end = time.monotonic() + seconds
        for count, (directory, name, path, status) in enumerate(steps(self._root)):
            if count >= MAX_KNOWN or (count % 8 == 7 and time.monotonic() > end):
                break
            if status is None or not stat.S_ISREG(status.st_mode) or len(path) >= MAX_PATH:
                continue
            room -= len(path)
            if room < 0:
                break
            signature = _signature(status)
            if status.st_ctime_ns >= since and signature != self._known.get(path):
                if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
                    signature = _strip_setuid(directory, name) or signature
                found.append(path)
            known[path] = signature
        self._known = known
        budget, room = MAX_HASHED, MAX_REPORTED
        listed = []
        for path in sorted(found)[:MAX_LISTED]:
            size = known[path][1]
            record = _record(self._root, path, size <= budget, end)
            if record is not None:
                room -= len(json.dumps(record["path"]))
                if room < 0:
                    break
                budget -= size
                listed.append(record)
        return listed


def _signature(status: os.stat_result) -> Signature:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _strip_setuid(directory: int, name: str) -> Optional[Signature]:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return _strip_unreadable(directory, name)
    try:
        os.fchmod(file, stat.S_IMODE(os.fstat(file).st_mode) & 0o777)
        return _signature(os.fstat(file))
    except OSError:
        return None
    finally:
        os.close(file)


def _strip_unreadable(directory: int, name: str) -> Optional[Signature]:
    try:
        set_mode(directory, name, stat.S_IRUSR | stat.S_IWUSR)
        return _signature(os.stat(name, dir_fd=directory, follow_symlinks=False))
    except OSError:
        return None


def _record(root: int, path: str, hashed: bool, end: float) -> Optional[Dict[str, Any]]:
    try:
        file = open_regular(root, path)
    except Refused:
        return None
    try:
        size = os.fstat(file).st_size
        digest = _sha256(file, end) if hashed else None
    except OSError:
        return None
    finally:
        os.close(file)
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return {"path": name, "size": size, "sha256": digest}


def _sha256(file: int, end: float) -> Optional[str]:
    # Imported only where a block left a file: OpenSSL would be a third of an idle runner's memory.
    # The interpreter's own prefix is read-only, so what is loaded here is what the host meant.
    import hashlib

    digest = hashlib.sha256()
    while time.monotonic() < end:
        piece = os.read(file, 1 << 18)
        if not piece:
            return digest.hexdigest()
        digest.update(piece)
    return None
