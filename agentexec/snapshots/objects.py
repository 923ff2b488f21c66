"""Bytes kept once under their hash, in files of a private directory, within a limit."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict

from agentexec.errors import SnapshotCorrupt, SnapshotError, SnapshotStoreFull
from sandboxes.runner.files import write_all
from sandboxes.types import Size

DIGEST = 64
"""Characters of a hash: SHA-256 in hex."""
PIECE = 4 << 20
"""Bytes of a piece: larger files are kept in several, so that one that grows costs only what it grew by.
A multiple of any file system's block, as cloning needs it."""
_ZEROS = hashlib.sha256(bytes(PIECE)).hexdigest()
_FICLONERANGE = 0x4020940D  # linux/fs.h
_BLOCK = 4096


class SnapshotLimits(BaseModel):
    """How much is kept. Sizes in bytes, or strings such as `"512M"`.

    Attributes:
        file_size: A larger file is left out, and named in `Snapshot.skipped`.
        snapshot_size: A workspace with more in it is refused.
        entries: A workspace with more files, directories and links is refused.
        store_size: The store does not grow beyond this on disk.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_size: Size = 1 << 30
    snapshot_size: Size = 4 << 30
    entries: int = 200_000
    store_size: Size = 20 << 30


class Objects:
    """The objects of a store.

    Args:
        root: Directory of the store.
        limit: Bytes on disk.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self._objects, self._incoming = root / "objects", root / "incoming"
        self._usage_file = root / "usage"
        self._limit = limit
        self._clones = True
        for directory in (self._objects, self._incoming):
            directory.mkdir(mode=0o700, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Return where an object is kept."""
        return self._objects / digest[:2] / digest[2:]

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether an object is there, and has the size it should have."""
        try:
            status = os.stat(self.path(digest))
        except FileNotFoundError:
            return False
        return size is None or status.st_size == size

    def put(self, data: bytes) -> str:
        """Keep bytes, and return their hash.

        Raises:
            SnapshotStoreFull: the store is at its limit, or the disk is full.
        """
        digest = hashlib.sha256(data).hexdigest()
        # An object of another size is what a machine left that lost its power.
        if not self.has(digest, len(data)):
            with self._new(len(data)) as (file, keep):
                write_all(file.fileno(), data)  # a disk that fills up takes a part, without an error
                keep(digest)
        return digest

    def put_piece(self, source: int, offset: int, size: int) -> tuple[str, int]:
        """Keep a piece of an open file; return its hash and how many bytes there were (none: an empty hash).

        Where the file system can share blocks (Btrfs, XFS), nothing is copied.
        """
        if self._clones and size >= _BLOCK:
            try:
                with self._new(size) as (file, keep):
                    clone(source, offset, size, file.fileno(), 0)
                    # The clone is read, not the file: nobody can change it between hash and copy.
                    digest = _hash(file.fileno())
                    if not self.has(digest, size):
                        keep(digest)
                    return digest, size
            except CannotClone as error:
                self._clones = not error.final
            except SnapshotStoreFull:  # not if the piece is there already, which `put` finds out first
                pass
        data = _read(source, size, offset)
        return (self.put(data), len(data)) if data else ("", 0)

    @contextlib.contextmanager
    def _new(self, size: int) -> Iterator[tuple[IO[bytes], Callable[[str], None]]]:
        """Give a file that is not seen yet, and a function that puts it in its place."""
        cost = -(-size // _BLOCK) * _BLOCK
        self._reserve(cost)
        path = self._incoming / secrets.token_hex(8)
        try:
            with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+b", 0) as file:

                def keep(digest: str) -> None:
                    nonlocal cost
                    target = self.path(digest)
                    target.parent.mkdir(mode=0o700, exist_ok=True)
                    os.replace(path, target)
                    cost = 0

                yield file, keep
        except OSError as error:
            raise _full(error, self._objects) from error
        finally:
            if cost:
                path.unlink(missing_ok=True)
                self._reserve(-cost)

    def get(self, digest: str) -> bytes:
        """Return the bytes with a hash.

        Raises:
            SnapshotCorrupt: they are missing or damaged.
        """
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise SnapshotCorrupt(f"the snapshot is damaged: object {digest} is missing") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise SnapshotCorrupt(f"the snapshot is damaged: object {digest} has other bytes than it had")
        return data

    def write_out(self, digest: str, target: int, offset: int) -> None:
        """Write an object into an open, empty part of a file; blocks are shared where that can be done.

        Raises:
            SnapshotCorrupt: it is missing or damaged.
            OSError: the disk is full, say.
        """
        if digest == _ZEROS:  # a hole: the file gets its length at the end
            return
        data = self.get(digest)
        if self._clones and len(data) >= _BLOCK:
            try:
                with open(self.path(digest), "rb", 0) as source:
                    clone(source.fileno(), 0, len(data), target, offset)
                return
            except CannotClone as error:
                self._clones = not error.final
        view = memoryview(data)
        while view:
            written = os.pwrite(target, view, offset)
            view, offset = view[written:], offset + written

    def all(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield the hash of every object, and its directory entry."""
        for parent in os.scandir(self._objects):
            for entry in os.scandir(parent.path):
                yield parent.name + entry.name, entry

    def remove_incoming(self) -> None:
        """Remove what killed processes were about to write; nobody may be writing now."""
        for entry in os.scandir(self._incoming):
            os.unlink(entry.path)

    def usage(self) -> int:
        """Return the bytes of all objects on disk, whole blocks."""
        with self._usage() as file:
            return int(file.read() or 0)

    def set_usage(self, size: int) -> None:
        """Correct the count, after counting."""
        with self._usage() as file:
            _overwrite(file, size)

    def _reserve(self, size: int) -> None:
        if size == 0:
            return
        with self._usage() as file:
            total = int(file.read() or 0) + size
            if size > 0 and total > self._limit:
                raise SnapshotStoreFull(
                    f"the snapshots in {self._objects.parent} take {(total - size) >> 20} MiB of "
                    f"{self._limit >> 20} MiB; 'agentexec clean --older-than 30d' makes room"
                )
            _overwrite(file, max(total, 0))

    @contextlib.contextmanager
    def _usage(self) -> Iterator[IO[str]]:
        with open(os.open(self._usage_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def replace_file(path: Path, text: str) -> None:
    """Write a file that only its owner may read, as a whole or not at all; there may be none for a moment."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
        # Not over the old one: ext4 then writes the new one's bytes to the disk at once, and we wait for it.
        path.unlink(missing_ok=True)
        os.rename(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _overwrite(file: IO[str], size: int) -> None:
    file.seek(0)
    file.write(f"{size}\n")
    file.truncate()


def _full(error: OSError, where: Path) -> SnapshotError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SnapshotStoreFull(
            f"no space left for snapshots in {where.parent}; remove something, or use another --store"
        )
    return SnapshotError(f"cannot write snapshots into {where.parent}: {error.strerror}")


class CannotClone(Exception):
    """Blocks are not shared here. `final` says whether trying again makes no sense."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.final = error.errno != errno.EINVAL  # which the end of a file that just shrank gives, too


def clone(source: int, offset: int, size: int, target: int, at: int) -> None:
    """Let `target` share blocks of `source` (ioctl_ficlonerange(2)).

    Raises:
        CannotClone: the file system cannot do that, or the two are on different ones.
    """
    try:
        fcntl.ioctl(target, _FICLONERANGE, struct.pack("qQQQ", source, offset, size, at))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise CannotClone(error) from error


def _read(file: int, size: int, offset: int) -> bytes:
    data = os.pread(file, size, offset)
    while len(data) < size and (more := os.pread(file, size - len(data), offset + len(data))):
        data += more
    return data


def _hash(file: int) -> str:
    digest, offset = hashlib.sha256(), 0
    while data := os.pread(file, 1 << 20, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()
