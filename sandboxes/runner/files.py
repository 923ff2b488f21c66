"""Files of the workspace, seen from inside: put, get, walk, remove.

Paths are resolved component by component without following symlinks. Only regular files are opened, and
those never in a way that could block, since everything in a workspace may have been put there by a block.
"""

from __future__ import annotations

import os
import stat
import time

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Iterator, List, Optional, Tuple

    Entry = Tuple[int, str, str, os.stat_result]
    Step = Tuple[int, str, str, Optional[os.stat_result]]

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
O_PATH = getattr(os, "O_PATH", None)
MIN_FILE = 4096
"""Bytes that every file counts at least, as a block of a file system."""
STOP = 8
"""Directories in one, after which a walk gives its caller a chance to stop."""
MAX_PATH = 4000
"""Characters of a path that are kept; the file is found by its directory's descriptor, not by its path."""


class Refused(Exception):
    """A request about a file that is not granted. `kind` is one of unsafe_path, not_found, too_large, io."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def refusal(error: OSError, path: str) -> Refused:
    """Return what an `OSError` about a workspace path means to the caller."""
    import errno

    if error.errno == errno.ENOENT:
        return Refused("not_found", "no file %r in the workspace" % path)
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return Refused("unsafe_path", "unsafe path %r: it crosses a symlink or a file" % path)
    if error.errno in (errno.EISDIR, errno.ENXIO):
        return Refused("unsafe_path", "unsafe path %r: it is not a regular file" % path)
    return Refused("io", "%s: %s" % (path, error.strerror))


def open_parent(root: int, path: str, make: bool = False) -> Tuple[int, str]:
    """Return a descriptor of the directory that holds `path`, and the last component.

    Raises:
        Refused: a component is a symlink, no directory, or `..`.
    """
    *directories, name = path.split("/")
    if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in (*directories, name)):
        raise Refused("unsafe_path", "unsafe path %r" % path)
    current = os.dup(root)
    try:
        for part in directories:
            if make:
                try:
                    os.mkdir(part, 0o755, dir_fd=current)
                except FileExistsError:
                    pass
            below = os.open(part, DIRECTORY, dir_fd=current)
            os.close(current)
            current = below
    except OSError as error:
        os.close(current)
        raise refusal(error, path) from None
    return current, name


def write_new(root: int, name: str, data: bytes) -> None:
    """Write a file that must not exist yet, directly in `root`.

    Raises:
        OSError: it exists, as a symlink perhaps, or there is no space.
    """
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=root)
    try:
        write_all(file, data)
    except OSError:
        os.unlink(name, dir_fd=root)
        raise
    finally:
        os.close(file)


def write_all(file: int, data: bytes) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


class Upload:
    """Writes a file beside its place and moves it there when it is complete, so that no reader sees half of it."""

    def __init__(self, root: int, path: str) -> None:
        self.path = path
        self._parent, self._name = open_parent(root, path, make=True)
        self._temporary = ".upload-%s" % os.urandom(6).hex()
        try:
            self._check_target()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self._temporary, flags, 0o644, dir_fd=self._parent)
        except OSError as error:
            os.close(self._parent)
            raise refusal(error, path) from None
        except Refused:
            os.close(self._parent)
            raise

    def _check_target(self) -> None:
        try:
            mode = os.stat(self._name, dir_fd=self._parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            raise Refused("unsafe_path", "unsafe path %r: it is not a regular file" % self.path)

    def write(self, data: bytes) -> None:
        """Append a piece."""
        write_all(self._file, data)

    def finish(self, keep: bool) -> None:
        """Close; move the file to its place, or remove it."""
        os.close(self._file)
        try:
            if keep:
                os.replace(self._temporary, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            else:
                os.unlink(self._temporary, dir_fd=self._parent)
        except OSError:
            if keep:  # what a kernel goes on with has put a directory in the way, say
                self._forget()
            raise
        finally:
            os.close(self._parent)

    def _forget(self) -> None:
        try:
            os.unlink(self._temporary, dir_fd=self._parent)
        except OSError:
            pass


def write_file(root: int, path: str, data: bytes) -> None:
    """Write a file below a directory, as `Upload` does it.

    Raises:
        Refused: the path is unsafe.
        OSError: there is no space, say; what was there before stays.
    """
    upload = Upload(root, path)
    try:
        upload.write(data)
    except OSError:
        upload.finish(keep=False)
        raise
    upload.finish(keep=True)


def open_regular(root: int, path: str) -> int:
    """Return a descriptor of a regular file with one name, for reading.

    Raises:
        Refused: there is none, or it is something else.
    """
    parent, name = open_parent(root, path)
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise refusal(error, path) from None
    finally:
        os.close(parent)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(file)
        raise Refused("unsafe_path", "unsafe path %r: it is not a regular file with one name" % path)
    return file


def reopen(root: int) -> None:
    """Make a directory usable again for its owner, after a block that took its own rights to it away."""
    mode = stat.S_IMODE(os.fstat(root).st_mode)
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        try:
            os.fchmod(root, mode | stat.S_IRWXU)
        except OSError:  # it is somebody else's, and was like that before
            pass


def walk(root: int) -> Iterator[Entry]:
    """Yield what `steps` does, without the stops on the way down."""
    for directory, name, path, status in steps(root):
        if status is not None:
            yield directory, name, path, status


def steps(root: int, remove: bool = False) -> Iterator[Step]:
    """Yield (directory descriptor, name, path, lstat) of everything below `root`, directories after their content.

    Holds two descriptors at any depth and no path that the kernel would have to resolve, so that a tree of
    10,000 levels is no harder than a flat one; and of what is still to come no more than names. Paths end at
    `MAX_PATH` characters. Directories that were made unreadable are made readable. A tree that is changed meanwhile
    may be seen in part. On the way down, and among many directories, entries without an lstat give callers a chance
    to stop: deep down, Landlock makes each step take a millisecond.

    Args:
        root: Descriptor of the directory.
        remove: Whether empty directories are removed instead of entered, which takes a tenth of the time.
    """
    again = _enter(root, ".")
    if again is None:  # a kernel, which goes on while we look, locks it again and again
        return
    current = again
    prefix = ""
    levels: List[Tuple[int, List[str], int, int]] = []  # length of the prefix, names to enter, device and inode
    todo: List[str] = []
    entered = True
    try:
        while True:
            if entered:
                todo = []
                yield from _files(current, prefix, todo)
            gone = remove and bool(todo) and _removed(current, todo[-1])
            if gone:
                yield current, "", prefix, None
            below = _enter(current, todo[-1]) if todo and not gone else None
            entered = below is not None
            if below is not None:
                here = os.fstat(current)
                levels.append((len(prefix), todo, here.st_dev, here.st_ino))
                os.close(current)
                current, prefix = below, (prefix + todo[-1] + "/")[:MAX_PATH]
                yield current, "", prefix, None
            elif todo:
                todo.pop()
            elif levels:
                length, todo, device, inode = levels.pop()
                prefix = prefix[:length]
                above = _leave(current, device, inode)
                if above is None:  # it was locked or moved while we were in it
                    return
                os.close(current)
                current = above
                name = todo.pop()
                status = _lstat(current, name)
                if status is not None:
                    yield current, name, prefix + name, status
            else:
                return
    finally:
        os.close(current)


def _files(current: int, prefix: str, directories: List[str]) -> Iterator[Step]:
    """Yield what is in a directory as `steps` does, but for the directories in it, whose names are added to a list."""
    with os.scandir(current) as entries:
        for entry in entries:
            if _is_directory(entry):
                directories.append(entry.name)
                if len(directories) % STOP == 0:
                    yield current, "", prefix, None
                continue
            status = _lstat(current, entry.name)
            if status is not None:
                yield current, entry.name, prefix + entry.name, status


def _leave(current: int, device: int, inode: int) -> Optional[int]:
    """Return a descriptor of the directory above, or None if it cannot be had, or is not this one any more."""
    try:
        above = os.open("..", DIRECTORY, dir_fd=current)
    except OSError:
        return None
    here = os.fstat(above)
    if (here.st_dev, here.st_ino) == (device, inode):
        return above
    os.close(above)
    return None


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _lstat(directory: int, name: str) -> Optional[os.stat_result]:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None


def _enter(current: int, name: str) -> Optional[int]:
    for _ in range(3):
        try:
            if name == ".":
                reopen(current)
            directory = os.open(name, DIRECTORY, dir_fd=current)
            reopen(directory)  # without the right to search it, there would be no way back
            return directory
        except PermissionError:
            try:
                set_mode(current, name, 0o700)
            except OSError:
                return None
        except OSError:
            return None
    return None


def set_mode(directory: int, name: str, mode: int) -> None:
    """Set the mode of what is there, even if it may not be opened; never that of what a symlink leads to.

    A block may put a symlink there at any moment, and where it shares the file tree with us, that leads anywhere.

    Raises:
        OSError: it is a symlink, or somebody else's.
    """
    if O_PATH is None:
        os.chmod(name, mode, dir_fd=directory, follow_symlinks=False)
        return
    file = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.chmod("/proc/self/fd/%d" % file, mode)
    finally:
        os.close(file)


def _open_locked(path: str) -> Optional[int]:
    """Return a descriptor of a directory whose mode may keep even its owner out; None if there is none."""
    try:
        return os.open(path, DIRECTORY)
    except PermissionError:
        above, name = os.path.split(path.rstrip("/"))
    except OSError:
        return None
    try:
        parent = os.open(above or ".", (O_PATH or os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _enter(parent, name)
    finally:
        os.close(parent)


def remove_tree(path: str) -> None:
    """Remove a directory and all below it, however deep, wide or unreadable. What cannot be removed stays."""
    empty_directory(path)
    try:
        os.rmdir(path)
    except OSError:
        pass


def _removed(directory: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError:  # it holds something, most likely
        return False
    return True


def empty_directory(path: str, seconds: float = 1e9) -> bool:
    """Remove all below a directory, however deep, wide or unreadable; return false if time ran out before the end."""
    end = time.monotonic() + seconds
    root = _open_locked(path)
    if root is None:
        return True
    try:
        for directory, name, _, status in steps(root, remove=True):
            if time.monotonic() > end:
                return False
            if status is None:
                continue
            try:
                if stat.S_ISDIR(status.st_mode):
                    os.rmdir(name, dir_fd=directory)
                else:
                    os.unlink(name, dir_fd=directory)
            except OSError:
                continue
    except OSError:  # not even its owner may look into it
        pass
    finally:
        os.close(root)
    return True
