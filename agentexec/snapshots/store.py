"""The store: takes snapshots, gives them back, and forgets what is no longer needed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from agentexec.errors import SnapshotCorrupt, SnapshotError, SnapshotNotFound
from agentexec.snapshots.objects import Objects, SnapshotLimits, replace_file
from agentexec.snapshots.restoring import Restored, Restoring
from agentexec.snapshots.scan import Scan, StatCache, open_root
from agentexec.snapshots.tree import Entry, Kind, Skipped, SnapshotEntry, parts_of, pieces_of, read_tree

GRACE = 3600.0
"""Seconds in which a snapshot is kept although nobody named it yet."""
_CACHE_AGE = 30 * 86400.0
_ID = re.compile(r"[0-9a-f]{64}")
_KINDS: dict[str, Kind] = {"f": "file", "d": "directory", "l": "link"}


class _Manifest(BaseModel):
    """What the hash of a snapshot is taken of: no time and no place, so that equal workspaces have equal ids."""

    model_config = ConfigDict(frozen=True)

    version: int = 1
    tree: str
    mode: int
    files: int
    size: int
    skipped: tuple[Skipped, ...]
    skipped_count: int


class Snapshot(BaseModel):
    """A workspace as it was.

    Attributes:
        id: Equal for equal workspaces.
        files: Regular files in it.
        size: Their bytes.
        skipped: What it does not hold, and why; at most 100 of them.
        skipped_count: How many there are.
        added: Bytes on disk that the store grew by meanwhile.
        duration: Seconds it took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    files: int
    size: int
    skipped: tuple[Skipped, ...] = ()
    skipped_count: int = 0
    added: int = 0
    duration: float = 0.0


class Collected(BaseModel):
    """What was removed: snapshots, and bytes on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshots: int
    freed: int


class SnapshotStore:
    """Keeps snapshots of workspaces in a directory. For what a snapshot holds, and what it does not, see the package.

    Args:
        directory: Made if it is missing, closed to other users. Not inside a workspace.
        limits: How much is kept.

    Raises:
        SnapshotError: the directory cannot be made, or belongs to somebody else.
    """

    def __init__(self, directory: str | Path, limits: SnapshotLimits | None = None) -> None:
        self.limits = limits or SnapshotLimits()
        try:
            Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory = Path(directory).resolve(strict=True)
            _make_private(self.directory)
            self._objects = Objects(self.directory, self.limits.store_size)
            self._snapshots, self._caches = self.directory / "snapshots", self.directory / "caches"
            for each in (self._snapshots, self._caches):
                each.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise SnapshotError(f"cannot keep snapshots in {directory}: {error.strerror}") from error
        self._known: dict[str, StatCache] = {}

    def take(self, workspace: str | Path, *, given_up: Callable[[], bool] = bool) -> Snapshot:
        """Keep a workspace as it is now.

        It is kept from collection for an hour, or as long as `collect` is told to. What was read before it failed is
        remembered, so that trying again costs little.

        Args:
            workspace: The directory.
            given_up: Asked at each file and every few MiB, by whoever may no longer want it (from another thread).

        Raises:
            SnapshotGivenUp: it is no longer wanted.
            SnapshotTooLarge: the workspace holds more than the limits allow.
            SnapshotStoreFull: the store is at its limit, or the disk is full.
            SnapshotError: the workspace cannot be read, or the store not written.
        """
        began, place = time.monotonic(), Path(workspace).resolve()
        self._refuse_overlap(place)
        with self._locked(fcntl.LOCK_SH):
            root = open_root(place)
            try:
                status = os.fstat(root)
                before = self._objects.usage()
                known = self._cache(status)
                scan = Scan(self._objects, known, self.limits, given_up)
                try:
                    tree = scan.root(root)
                except SnapshotError:
                    scan.seen.adopt(known)
                    with contextlib.suppress(OSError):  # why it failed matters more
                        self._remember(status, scan, known)
                    raise
                manifest = _Manifest(
                    tree=tree,
                    mode=stat.S_IMODE(status.st_mode) & 0o1777,
                    files=scan.files,
                    size=scan.size,
                    skipped=tuple(sorted(scan.skipped, key=lambda each: each.path)),
                    skipped_count=scan.skipped_count,
                )
                snapshot = self._objects.put(manifest.model_dump_json().encode())
                (self._snapshots / snapshot).touch(mode=0o600)
                self._remember(status, scan, known)
            except OSError as error:
                raise SnapshotError(f"cannot take a snapshot of {place}: {error.strerror}") from error
            finally:
                os.close(root)
            added = max(0, self._objects.usage() - before)
        return _described(snapshot, manifest).model_copy(update={"added": added, "duration": time.monotonic() - began})

    def restore(self, snapshot: str, directory: str | Path) -> Restored:
        """Make a directory what the workspace was: files that are not in the snapshot are removed.

        Everything that is needed is read, checked and written beside its place first; until then nothing in the
        directory changes. The rest is renames. If it is interrupted in these, doing it again completes it.
        Where root restores, everything gets the directory's owner. The directory itself stays the same one.

        Args:
            snapshot: Its id.
            directory: Made if it is missing.

        Raises:
            SnapshotNotFound: there is no such snapshot.
            SnapshotCorrupt: something of it is missing or damaged; nothing was changed.
            SnapshotError: the directory cannot be written.
        """
        place = Path(directory)
        with self._locked(fcntl.LOCK_SH):
            manifest = self._manifest(snapshot)
            try:
                place.mkdir(parents=True, exist_ok=True)
                place = place.resolve(strict=True)
                self._refuse_overlap(place)
                root = open_root(place)
            except OSError as error:
                raise SnapshotError(f"cannot restore into {directory}: {error.strerror}") from error
            try:
                known = self._cache(os.fstat(root))
                restored = Restoring(self._objects, known).run(root, manifest.tree, manifest.mode)
            except OSError as error:
                raise SnapshotError(f"restoring into {place} failed: {error.strerror}; try again") from error
            finally:
                os.close(root)
        return restored.model_copy(update={"skipped": manifest.skipped, "skipped_count": manifest.skipped_count})

    def get(self, snapshot: str) -> Snapshot:
        """Return what is known of a snapshot.

        Raises:
            SnapshotNotFound: there is no such snapshot.
            SnapshotCorrupt: it is damaged.
        """
        return _described(snapshot, self._manifest(snapshot))

    def entries(self, snapshot: str) -> Iterator[SnapshotEntry]:
        """Yield all that is in a snapshot, sorted within each directory, which comes before its content.

        Raises:
            SnapshotNotFound: there is no such snapshot.
            SnapshotCorrupt: it is damaged.
        """
        yield from self._walk(self._manifest(snapshot).tree, "")

    def _walk(self, tree: str, prefix: str) -> Iterator[SnapshotEntry]:
        for entry in read_tree(self._objects, tree):
            yield SnapshotEntry(
                path=prefix + entry.name,
                kind=_KINDS[entry.kind],
                mode=entry.mode,
                size=entry.size,
                content=entry.content,
            )
            if entry.kind == "d":
                yield from self._walk(entry.content, f"{prefix}{entry.name}/")

    def read(self, snapshot: str, path: str, *, max_bytes: int = 256 << 20) -> bytes:
        """Return a file of a snapshot.

        Raises:
            SnapshotNotFound: there is no such snapshot, or no such file in it.
            SnapshotError: it is larger than `max_bytes`.
        """
        entry: Entry | None = Entry(("", "d", 0, 0, 0, self._manifest(snapshot).tree))
        for part in path.split("/"):
            inside = read_tree(self._objects, entry.content) if entry is not None and entry.kind == "d" else ()
            entry = next((each for each in inside if each.name == part), None)
        if entry is None or entry.kind != "f":
            raise SnapshotNotFound(f"no file {path!r} in the snapshot")
        if entry.size > max_bytes:
            raise SnapshotError(f"{path!r} has {entry.size} bytes; at most {max_bytes} were asked for")
        return b"".join(map(self._objects.get, pieces_of(entry.content)))

    def ids(self) -> list[str]:
        """Return the ids of all snapshots."""
        return sorted(name for name in os.listdir(self._snapshots) if _ID.fullmatch(name))

    def size(self) -> int:
        """Return the bytes that the store takes on disk."""
        return self._objects.usage()

    def collect(self, keep: Iterable[str], *, grace: float = GRACE) -> Collected:
        """Remove snapshots, and what no remaining one needs.

        Args:
            keep: Ids of snapshots that stay.
            grace: Seconds; younger snapshots stay too, since whoever took them may not have noted it yet.

        Raises:
            SnapshotError: the store cannot be changed.
        """
        try:
            return self._collect(set(keep), grace)
        except OSError as error:
            raise SnapshotError(f"cannot clean {self.directory}: {error.strerror}") from error

    def _collect(self, kept: set[str], grace: float) -> Collected:
        removed = freed = total = 0
        with self._locked(fcntl.LOCK_EX):
            for name in self.ids():
                path = self._snapshots / name
                if name not in kept and path.stat().st_mtime <= time.time() - grace:
                    path.unlink()
                    removed += 1
            needed: set[str] = set()
            for name in self.ids():
                # What is damaged is no reason to keep all the rest.
                with contextlib.suppress(SnapshotCorrupt, SnapshotNotFound):
                    self._mark(name, needed)
            # First, so that no cache trusts objects that are gone, if this is where we are killed.
            (self.directory / "generation").unlink(missing_ok=True)  # which needs no space, where there is none
            self._objects.remove_incoming()
            for digest, entry in self._objects.all():
                size = -(-entry.stat().st_size // 4096) * 4096
                if digest in needed:
                    total += size
                else:
                    os.unlink(entry.path)
                    freed += size
            self._objects.set_usage(total)
            self._remove_old_caches()
        return Collected(snapshots=removed, freed=freed)

    def _mark(self, snapshot: str, needed: set[str]) -> None:
        needed.add(snapshot)
        todo = [self._manifest(snapshot).tree]
        while todo:
            tree = todo.pop()
            if tree in needed:
                continue
            needed.add(tree)
            with contextlib.suppress(SnapshotCorrupt):
                needed.update(parts_of(self._objects, tree))
                for entry in read_tree(self._objects, tree):
                    if entry.kind == "d":
                        todo.append(entry.content)
                    elif entry.kind == "f":
                        needed.update(pieces_of(entry.content))

    def _manifest(self, snapshot: str) -> _Manifest:
        if not _ID.fullmatch(snapshot) or not (self._snapshots / snapshot).exists():
            raise SnapshotNotFound(f"there is no snapshot {snapshot[:80]!r} in {self.directory}")
        try:
            return _Manifest.model_validate_json(self._objects.get(snapshot))
        except ValidationError:
            raise SnapshotCorrupt(f"the snapshot {snapshot} is damaged") from None

    def _refuse_overlap(self, place: Path) -> None:
        if place == self.directory or self.directory.is_relative_to(place) or place.is_relative_to(self.directory):
            raise SnapshotError(
                f"{self.directory} and the workspace {place} lie in each other: blocks could change what is kept; "
                "use another --store or another --workspace"
            )

    def _cache_path(self, status: os.stat_result) -> Path:
        return self._caches / f"{status.st_dev:x}-{status.st_ino:x}"

    def _cache(self, status: os.stat_result) -> StatCache:
        """Return what is known of the files of a workspace; their contents are in the store."""
        path = self._cache_path(status)
        cache = self._known.get(path.name) or StatCache.load(path)
        generation = self._generation()
        if cache.generation != generation:
            found: dict[str, bool] = {}
            for inode, content in list(cache.contents()):
                for piece in pieces_of(content):
                    if piece not in found:
                        found[piece] = self._objects.has(piece)
                    if not found[piece]:
                        cache.forget(inode)
            cache.generation = generation
        return cache

    def _remember(self, status: os.stat_result, scan: Scan, known: StatCache) -> None:
        path = self._cache_path(status)
        self._known[path.name] = scan.seen
        if scan.changed or len(scan.seen) != len(known):
            scan.seen.save(path)

    def _remove_old_caches(self) -> None:
        for entry in os.scandir(self._caches):
            if entry.stat().st_mtime < time.time() - _CACHE_AGE:
                os.unlink(entry.path)

    def _generation(self) -> int:
        path = self.directory / "generation"
        try:
            return int(path.read_text())
        except (FileNotFoundError, ValueError):
            now = time.time_ns()  # never one that a cache may still know
            replace_file(path, f"{now}\n")
            return now

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the store: shared by all who add to it, alone for who removes."""
        file = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, how)
            yield
        finally:
            os.close(file)


def _described(snapshot: str, manifest: _Manifest) -> Snapshot:
    return Snapshot(
        id=snapshot,
        files=manifest.files,
        size=manifest.size,
        skipped=manifest.skipped,
        skipped_count=manifest.skipped_count,
    )


def _make_private(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise SnapshotError(f"{directory} belongs to another user; keep snapshots elsewhere with --store")
    if status.st_mode & 0o077:
        directory.chmod(0o700)
