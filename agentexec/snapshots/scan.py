"""Reads a workspace that others may be writing to, and trusts nothing in it.

Names are looked up one by one from open directories, and links are not followed. What is opened is first held
without being opened (`O_PATH`), so that no FIFO, socket or device ever is, whatever is swapped in meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agentexec.errors import SnapshotError, SnapshotGivenUp, SnapshotTooLarge
from agentexec.snapshots.objects import PIECE, Objects, SnapshotLimits, replace_file
from agentexec.snapshots.tree import Entry, Skipped, write_tree

DEPTH = 200
"""Levels of directories; what lies deeper is left out."""
MAX_SKIPPED = 100
"""How many of those that are left out are named."""
RESTORING = ".agentexec-restore-"
"""Start of the name of a directory in a workspace that a killed restore left there."""

_RACY, _COARSE = 20_000_000, 2_000_000_000
"""Nanoseconds within which a second change may leave the same time: a clock tick (10 ms at HZ=100), and where times
are kept in seconds, FAT's two."""

PATH_ONLY = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class StatCache:
    """What files held when they were last read, by what the kernel says of them.

    A file is the same if inode, size, mtime and ctime are: no program can set ctime. As in Git's index, a file that
    was changed so shortly before it was read that a later change may bear the same ctime is not remembered.

    Attributes:
        generation: That of the store's objects when all of the contents here were in it.
    """

    def __init__(self, generation: int = 0, entries: dict[int, tuple[int, int, int, str]] | None = None) -> None:
        self.generation = generation
        self._entries = entries or {}

    @classmethod
    def load(cls, path: Path) -> StatCache:
        """Read a cache; a damaged one is an empty one."""
        try:
            data = json.loads(path.read_bytes())
            entries = {int(inode): (int(a), int(b), int(c), str(d)) for inode, (a, b, c, d) in data["entries"].items()}
            return cls(int(data["generation"]), entries)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def save(self, path: Path) -> None:
        """Write it. After a loss of power there may be none."""
        data = {"generation": self.generation, "entries": self._entries}
        replace_file(path, json.dumps(data, separators=(",", ":")))

    def content(self, status: os.stat_result) -> str | None:
        """Return what a file holds, or None if that has to be read."""
        known = self._entries.get(status.st_ino)
        if known is None or known[:3] != (status.st_size, status.st_mtime_ns, status.st_ctime_ns):
            return None
        return known[3]

    def learn(self, status: os.stat_result, content: str, read_ns: int) -> None:
        """Remember what a file held, unless it may change without that being seen.

        Args:
            status: Before and after it was read.
            content: Hashes of its pieces.
            read_ns: When reading began, in ns since the epoch.
        """
        window = _RACY if status.st_ctime_ns % 1_000_000_000 else _COARSE
        if status.st_ctime_ns + window < read_ns:
            self._entries[status.st_ino] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, content)

    def contents(self) -> Iterator[tuple[int, str]]:
        """Yield inode and content of every file."""
        for inode, (_, _, _, content) in self._entries.items():
            yield inode, content

    def adopt(self, other: StatCache) -> None:
        """Take over what another cache knows and this one does not."""
        self._entries = {**other._entries, **self._entries}

    def forget(self, inode: int) -> None:
        """Forget a file."""
        self._entries.pop(inode, None)

    def __len__(self) -> int:
        return len(self._entries)


class Scan:
    """One pass over a workspace.

    Args:
        objects: Where contents are kept; None only reads them.
        known: What is known from the last pass.
        limits: What is left out, and what is refused.
        given_up: Whether to stop, as nobody waits for it any more.

    Attributes:
        seen: What is known now; only of files that are there.
        changed: Whether `seen` holds anything that `known` did not.
    """

    def __init__(
        self, objects: Objects, known: StatCache, limits: SnapshotLimits, given_up: Callable[[], bool] = bool
    ) -> None:
        self._objects, self._known, self._limits, self._given_up = objects, known, limits, given_up
        self.seen = StatCache(known.generation)
        self.changed = False
        self.skipped: list[Skipped] = []
        self.skipped_count = self.files = self.size = self.entries = 0
        self._device = -1

    def root(self, root: int) -> str:
        """Keep all that is in an open directory, and return the hash of its tree.

        Raises:
            SnapshotGivenUp: nobody waits for it any more.
            SnapshotTooLarge: there is more than the limits allow.
            SnapshotStoreFull: the store or its disk is full.
        """
        self._device = os.fstat(root).st_dev
        return self._directory(root, "", 0)

    def _directory(self, directory: int, prefix: str, depth: int) -> str:
        entries: list[Entry] = []
        with os.scandir(directory) as found:  # read at once, to hold one descriptor a level
            names = list(itertools.islice(found, self._limits.entries + 1))
        if len(names) > self._limits.entries:  # whatever they are: what was not looked at may be a file
            raise self._too_many()
        for each in names:
            if not prefix and each.name.startswith(RESTORING):
                continue
            path = prefix + each.name
            self._go_on()
            try:
                entry = self._entry(directory, each, path, depth)
            except FileNotFoundError:  # gone meanwhile, which is as if it had never been there
                continue
            except OSError as error:
                self._skip(path, f"cannot be read: {error.strerror}")
                continue
            if entry is not None:
                self._count(entry)
                entries.append(entry)
        return write_tree(self._objects, entries)

    def _count(self, entry: Entry) -> None:
        self.entries += 1
        if entry.kind == "f":
            self.files += 1
            self.size += entry.size
        if self.size > self._limits.snapshot_size:
            raise SnapshotTooLarge(
                f"the workspace holds more than {self._limits.snapshot_size >> 20} MiB, so no snapshot of it is kept"
            )
        if self.entries > self._limits.entries:
            raise self._too_many()

    def _too_many(self) -> SnapshotTooLarge:
        return SnapshotTooLarge(
            f"the workspace holds more than {self._limits.entries:,} files, so no snapshot of it is kept"
        )

    def _go_on(self) -> None:
        if self._given_up():
            raise SnapshotGivenUp("the snapshot is no longer wanted")

    def _skip(self, path: str, reason: str) -> None:
        self.skipped_count += 1
        if len(self.skipped) < MAX_SKIPPED:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            self.skipped.append(Skipped(path=shown, reason=reason))

    def _entry(self, directory: int, each: os.DirEntry[str], path: str, depth: int) -> Entry | None:
        status = each.stat(follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISREG(mode):
            if status.st_size > self._limits.file_size:
                self._skip(path, f"larger than {self._limits.file_size >> 20} MiB")
                return None
            if status.st_dev == self._device and (content := self._known.content(status)) is not None:
                self.seen.learn(status, content, time.time_ns())
                return Entry((each.name, "f", mode & 0o777, status.st_size, status.st_mtime_ns, content))
            return self._file(directory, each.name, path)
        if stat.S_ISLNK(mode):
            return Entry((each.name, "l", 0, 0, 0, os.readlink(each.name, dir_fd=directory)))
        if not stat.S_ISDIR(mode):
            self._skip(path, "neither a file, a directory nor a link")
            return None
        if depth >= DEPTH:
            self._skip(path, f"deeper than {DEPTH} directories")
            return None
        with opened_directory(each.name, directory) as (below, mode):
            return Entry((each.name, "d", mode & 0o1777, 0, 0, self._directory(below, path + "/", depth + 1)))

    def _file(self, directory: int, name: str, path: str) -> Entry | None:
        with opened_file(name, directory) as file:
            began, before = time.time_ns(), os.fstat(file)
            pieces: list[str] = []
            size = 0
            while size <= self._limits.file_size:
                self._go_on()
                digest, read = self._objects.put_piece(file, size, min(PIECE, max(before.st_size - size, 1)))
                if read == 0:
                    break
                pieces.append(digest)
                size += read
            else:
                self._skip(path, f"larger than {self._limits.file_size >> 20} MiB")
                return None
            after = os.fstat(file)
        content = "".join(pieces)
        if after.st_dev == self._device and signature(before) == signature(after) and size == after.st_size:
            self.changed = True
            self.seen.learn(after, content, began)
        return Entry((name, "f", after.st_mode & 0o777, size, after.st_mtime_ns, content))


def signature(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return what changes whenever a file does."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextlib.contextmanager
def opened_directory(name: str, parent: int, *, keep_mode: bool = True) -> Iterator[tuple[int, int]]:
    """Open a directory by its name, also one that its owner may not look into.

    Yields:
        Its descriptor, and the permission bits that it had, and has again afterwards if `keep_mode`.
    """
    held = os.open(name, PATH_ONLY | os.O_DIRECTORY, dir_fd=parent)
    try:
        mode = stat.S_IMODE(os.fstat(held).st_mode)
        with permitted(held, mode, stat.S_IRWXU, keep_mode=keep_mode) as changed:
            file = os.open(".", DIRECTORY, dir_fd=held)
            if not changed:
                os.close(held)
                held = -1
            try:
                yield file, mode
            finally:
                os.close(file)
    finally:
        if held >= 0:
            os.close(held)


@contextlib.contextmanager
def opened_file(name: str, parent: int) -> Iterator[int]:
    """Open a regular file by its name for reading, also one that its owner may not read.

    Raises:
        OSError: it is something else by now.
    """
    held = os.open(name, PATH_ONLY, dir_fd=parent)
    try:
        status = os.fstat(held)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "it was replaced by something that is no file")
        with permitted(held, stat.S_IMODE(status.st_mode), stat.S_IRUSR):
            # Through /proc, since the name may lead elsewhere by now.
            file = (
                os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC) if hasattr(os, "O_PATH") else os.dup(held)
            )
        try:
            yield file
        finally:
            os.close(file)
    finally:
        os.close(held)


@contextlib.contextmanager
def permitted(held: int, mode: int, needed: int, *, keep_mode: bool = True) -> Iterator[bool]:
    """Grant the owner what a block took from them, for as long as it is needed; yield whether that was so."""
    lacking = mode & needed != needed and os.geteuid() != 0
    if lacking:
        # Of exactly what is held: by its name, it could be a link to a file of ours.
        with contextlib.suppress(PermissionError):
            os.chmod(f"/proc/self/fd/{held}", mode | needed)
    try:
        yield lacking
    finally:
        if lacking and keep_mode:
            with contextlib.suppress(PermissionError):
                os.chmod(f"/proc/self/fd/{held}", mode)


def open_root(path: Path) -> int:
    """Open a workspace.

    Raises:
        SnapshotError: there is no such directory.
    """
    try:
        return os.open(path.resolve(), DIRECTORY)
    except OSError as error:
        raise SnapshotError(f"cannot read the workspace {path}: {error.strerror}") from None
