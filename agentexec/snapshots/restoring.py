"""Makes a directory what a snapshot says: first everything is laid out beside it, then moved into place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from agentexec.snapshots.objects import PIECE, Objects
from agentexec.snapshots.scan import DIRECTORY, RESTORING, StatCache, opened_directory, opened_file
from agentexec.snapshots.tree import Entry, Skipped, pieces_of, read_tree
from sandboxes.runner.files import walk


class Restored(BaseModel):
    """What restoring did.

    Attributes:
        written: Files that were written.
        unchanged: Files that were as they should be.
        removed: Names that were not in the snapshot; a directory counts once.
        skipped: What the snapshot does not hold, and so is not there now; at most 100.
        skipped_count: How many there are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    written: int
    unchanged: int
    removed: int
    skipped: tuple[Skipped, ...] = ()
    skipped_count: int = 0


class Restoring:
    """One restoration.

    Args:
        objects: What the snapshot refers to.
        known: What is known of the files that are in the directory.
    """

    def __init__(self, objects: Objects, known: StatCache) -> None:
        self._objects, self._known = objects, known
        self._ready: dict[str, str] = {}
        self._trees: dict[str, list[Entry]] = {}
        self._unchanged = self._removed = 0
        self._aside = self._device = -1
        self._owner: tuple[int, int] | None = None

    def run(self, root: int, tree: str, mode: int) -> Restored:
        """Restore a tree into an open directory.

        Raises:
            SnapshotCorrupt: the tree is damaged; nothing was changed.
            OSError: there is no space (nothing was changed), or a rename failed.
        """
        status = os.fstat(root)
        self._device = status.st_dev
        if os.geteuid() == 0:
            self._owner = status.st_uid, status.st_gid
        usable = status.st_mode | stat.S_IRWXU
        if usable != status.st_mode:
            os.fchmod(root, stat.S_IMODE(usable))
        name = RESTORING + secrets.token_hex(6)
        os.mkdir(name, 0o700, dir_fd=root)
        self._aside = os.open(name, DIRECTORY, dir_fd=root)
        try:
            self._prepare(root, tree, "")
            self._put(root, tree, "", name)
        finally:
            _empty(self._aside)
            os.close(self._aside)
            with contextlib.suppress(OSError):  # snapshots leave it out
                os.rmdir(name, dir_fd=root)
        with contextlib.suppress(PermissionError):  # somebody else's directory, which we may only write to
            os.fchmod(root, mode)
        return Restored(written=len(self._ready), unchanged=self._unchanged, removed=self._removed)

    def _entries(self, tree: str) -> list[Entry]:
        """Return a directory's entries; they are read once, so that what was checked is what is used."""
        if tree not in self._trees:
            self._trees[tree] = list(read_tree(self._objects, tree))
        return self._trees[tree]

    def _prepare(self, directory: int | None, tree: str, prefix: str) -> None:
        """Lay out every file that is not as it should be. `directory` is None where there is none yet."""
        for entry in self._entries(tree):
            path = prefix + entry.name
            if entry.kind == "f":
                if directory is not None and self._is_same(directory, entry):
                    self._unchanged += 1
                else:
                    self._lay_out(entry, path)
            elif entry.kind == "d":
                with _existing(directory, entry.name) as below:
                    self._prepare(below, entry.content, path + "/")

    def _is_same(self, directory: int, entry: Entry) -> bool:
        try:
            status = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
            # A file with several names would stay one file where the snapshot has several.
            if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size or status.st_nlink > 1:
                return False
            if status.st_dev == self._device and (content := self._known.content(status)) is not None:
                return content == entry.content
            with opened_file(entry.name, directory) as file:
                return all(
                    hashlib.sha256(os.pread(file, PIECE, number * PIECE)).hexdigest() == piece
                    for number, piece in enumerate(pieces_of(entry.content))
                )
        except OSError:
            return False

    def _lay_out(self, entry: Entry, path: str) -> None:
        name = f"{len(self._ready)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(name, flags, 0o600, dir_fd=self._aside)
        try:
            os.ftruncate(file, entry.size)
            for number, piece in enumerate(pieces_of(entry.content)):
                self._objects.write_out(piece, file, number * PIECE)
            if self._owner is not None:
                os.fchown(file, *self._owner)
            os.fchmod(file, entry.mode)
            os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(file)
        self._ready[path] = name

    def _put(self, directory: int, tree: str, prefix: str, ours: str = "") -> None:
        entries = self._entries(tree)
        for name in {*os.listdir(directory)} - {entry.name for entry in entries} - {ours}:
            self._removed += 1
            self._move_aside(directory, name)
        for entry in entries:
            path = prefix + entry.name
            if entry.kind == "f":
                self._put_file(directory, entry, self._ready.get(path))
            elif entry.kind == "l":
                self._put_link(directory, entry)
            else:
                self._put_directory(directory, entry, path + "/")

    def _put_file(self, directory: int, entry: Entry, ready: str | None) -> None:
        if ready is None:
            # Nothing is set that is so already: it would change the ctime, and the next snapshot read every file.
            if not self._is_as_told(os.stat(entry.name, dir_fd=directory, follow_symlinks=False), entry):
                with opened_file(entry.name, directory) as file:
                    if self._owner is not None:
                        os.fchown(file, *self._owner)
                    os.fchmod(file, entry.mode)
                    os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
            return
        if stat.S_ISDIR(_mode(directory, entry.name)):
            self._move_aside(directory, entry.name)
        os.replace(ready, entry.name, src_dir_fd=self._aside, dst_dir_fd=directory)

    def _is_as_told(self, status: os.stat_result, entry: Entry) -> bool:
        """Whether a file has the owner, the permission bits and the time that it is to have."""
        told = (stat.S_IFREG | entry.mode, entry.mtime_ns)
        owned = self._owner is None or self._owner == (status.st_uid, status.st_gid)
        return owned and told == (status.st_mode, status.st_mtime_ns)

    def _put_link(self, directory: int, entry: Entry) -> None:
        mode = _mode(directory, entry.name)
        if stat.S_ISLNK(mode) and os.readlink(entry.name, dir_fd=directory) == entry.content:
            return
        if stat.S_ISDIR(mode):
            self._move_aside(directory, entry.name)
        name = f"link-{secrets.token_hex(6)}"
        os.symlink(entry.content, name, dir_fd=self._aside)
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=self._aside, follow_symlinks=False)
        os.replace(name, entry.name, src_dir_fd=self._aside, dst_dir_fd=directory)

    def _put_directory(self, directory: int, entry: Entry, prefix: str) -> None:
        mode = _mode(directory, entry.name)
        if not stat.S_ISDIR(mode):
            if mode:
                self._move_aside(directory, entry.name)
            os.mkdir(entry.name, 0o700, dir_fd=directory)
        with opened_directory(entry.name, directory, keep_mode=False) as (below, _):
            self._put(below, entry.content, prefix)
            if self._owner is not None:
                os.fchown(below, *self._owner)
            os.fchmod(below, entry.mode)

    def _move_aside(self, directory: int, name: str) -> None:
        """Take away what is in the way, whatever it is and however much is in it; it is removed at the end."""
        if stat.S_ISDIR(_mode(directory, name)):
            # To move a directory one has to be allowed to write to it.
            with opened_directory(name, directory, keep_mode=False):
                pass
        os.rename(name, f"old-{secrets.token_hex(6)}", src_dir_fd=directory, dst_dir_fd=self._aside)


def _mode(directory: int, name: str) -> int:
    """Return the type and permission bits of what has a name; 0 if nothing does."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _existing(parent: int | None, name: str) -> Iterator[int | None]:
    if parent is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            below, _ = stack.enter_context(opened_directory(name, parent))
        except OSError:
            yield None
            return
        yield below


def _empty(directory: int) -> None:
    for parent, name, _, status in walk(directory):
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)
