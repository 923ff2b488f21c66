"""Workspace paths: relative, inside, and nothing clever."""

from __future__ import annotations

import os
from pathlib import Path

from sandboxes.errors import SandboxUnavailable, UnsafePath


def check_workspace(workspace: Path | None) -> None:
    """Refuse a directory of the caller's in which blocks could not work.

    Raises:
        SandboxUnavailable: it is none, or the caller may not write it; says what to do.
    """
    if workspace is None:
        return
    if not workspace.is_dir():
        raise SandboxUnavailable(f"the workspace {workspace} is not a directory; make it first")
    if not os.access(workspace, os.R_OK | os.W_OK | os.X_OK):
        raise SandboxUnavailable(f"the workspace {workspace} is not writable for you; name a directory of your own")


def workspace_path(path: str) -> str:
    """Return `path` in normal form, relative to the workspace.

    This is the lexical half of the check, done before anything is sent or written; the runner does the
    other half inside the sandbox, where it refuses to follow symlinks.

    Args:
        path: As a model or a caller wrote it, e.g. `app/main.py` or `./data.csv`.

    Raises:
        UnsafePath: empty, absolute, leading `~`, a `..` component, a NUL, a directory, a backslash, or a
            name that no file system takes.
    """

    def refuse(why: str) -> UnsafePath:
        return UnsafePath(f"unsafe path {path[:200]!r}: {why}; use a path inside the workspace such as 'data/a.csv'")

    if not path or path.isspace():
        raise refuse("it is empty")
    if "\0" in path:
        raise refuse("it contains a NUL")
    if "\\" in path:
        raise refuse("it contains a backslash")
    if path.startswith("/") or path[1:3] == ":/":
        raise refuse("it is absolute")
    if path.startswith("~"):
        raise refuse("'~' is not expanded")
    if path.endswith("/"):
        raise refuse("it names a directory")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise refuse("'..' leaves the directory")
    if not parts or path.endswith("/."):
        raise refuse("it names a directory")
    try:
        encoded = [part.encode() for part in parts]
    except UnicodeEncodeError:
        raise refuse("it is not valid Unicode") from None
    if any(len(part) > 255 for part in encoded) or sum(map(len, encoded)) + len(encoded) > 4000:
        raise refuse("it is too long")
    return "/".join(parts)


class Pinned:
    """A directory of this machine that must still be the same one when its name is looked up again.

    Args:
        path: Where it is.

    Raises:
        SandboxUnavailable: there is none.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.path = path.resolve(strict=True)
            status = self.path.stat()
        except (OSError, RuntimeError) as error:
            raise SandboxUnavailable(f"{path} cannot be used: {error}") from None
        self._identity = status.st_dev, status.st_ino

    def check(self) -> None:
        """Check that the name still leads there, and not through a link that a block has put in its way.

        Raises:
            SandboxUnavailable: it does not.
        """
        now = Pinned(self.path)
        if (now.path, now._identity) != (self.path, self._identity):
            raise SandboxUnavailable(f"{self.path} is another directory than it was at first; open a new executor")
