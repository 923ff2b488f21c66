"""Directories as objects: a tree lists names, and refers to contents and to further trees by their hashes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agentexec.errors import SnapshotCorrupt
from agentexec.snapshots.objects import DIGEST, Objects

Kind = Literal["file", "directory", "link"]

_AIM, _MOST = 128, 1024
"""Entries in a part of a large directory: the mean, and the most."""


class Skipped(BaseModel):
    """Something in the workspace that a snapshot does not hold.

    Attributes:
        path: Relative to the workspace.
        reason: For people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    reason: str


class Entry(tuple[str, str, int, int, int, str]):
    """(name, kind, mode, size, mtime in ns, content), as trees keep it.

    `content` is the hashes of a file's pieces one after the other, the hash of a directory's tree, or the target
    of a link. A tuple, since a workspace may have 100,000 of them.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """Last component, with bytes that are not UTF-8 as surrogates."""
        return self[0]

    @property
    def kind(self) -> str:
        """`f`, `d` or `l`."""
        return self[1]

    @property
    def mode(self) -> int:
        """Permission bits."""
        return self[2]

    @property
    def size(self) -> int:
        """Bytes of a file."""
        return self[3]

    @property
    def mtime_ns(self) -> int:
        """Modification time of a file."""
        return self[4]

    @property
    def content(self) -> str:
        """See the class."""
        return self[5]


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """Something in a snapshot.

    Attributes:
        path: Relative to the workspace. Bytes that are not UTF-8 are surrogates, as `os.fsdecode` makes them.
        kind: `file`, `directory` or `link`.
        mode: Permission bits.
        size: Bytes of a file, else 0.
        content: What it holds: equal contents are equal here. The target of a link.
    """

    path: str
    kind: Kind
    mode: int
    size: int = 0
    content: str = ""


def write_tree(objects: Objects, entries: list[Entry]) -> str:
    """Keep a directory and return its hash.

    A large one is kept in parts, which end at names that their own hash chooses, so that a changed file costs one
    part and not the whole list.
    """
    entries.sort(key=lambda entry: entry[0].encode("utf-8", "surrogateescape"))
    parts: list[list[Entry]] = [[]]
    for entry in entries:
        parts[-1].append(entry)
        if len(parts[-1]) >= _MOST or zlib.crc32(entry[0].encode("utf-8", "surrogateescape")) % _AIM == 0:
            parts.append([])
    kept = [_write(objects, part) for part in parts if part]
    if len(kept) == 1:
        return kept[0]
    return _write(objects, kept)


def _write(objects: Objects, content: list[Entry] | list[str]) -> str:
    return objects.put(json.dumps(content, separators=(",", ":")).encode())


def read_tree(objects: Objects, digest: str) -> Iterator[Entry]:
    """Yield the entries of a directory.

    Raises:
        SnapshotCorrupt: the tree is missing or damaged.
    """
    for line in _read(objects, digest):
        if isinstance(line, str):
            yield from (_entry(each, digest) for each in _read(objects, line))
        else:
            yield _entry(line, digest)


def parts_of(objects: Objects, digest: str) -> list[str]:
    """Return the hashes of the parts of a large directory; none if it is kept in one."""
    return [line for line in _read(objects, digest) if isinstance(line, str)]


def _read(objects: Objects, digest: str) -> list[object]:
    try:
        lines = json.loads(objects.get(digest))
    except ValueError:
        lines = None
    if not isinstance(lines, list):
        raise SnapshotCorrupt(f"the snapshot is damaged: object {digest} is no directory")
    return lines


def _entry(line: object, digest: str) -> Entry:
    match line:
        case [str(name), "f" | "d" | "l" as kind, int(mode), int(size), int(mtime), str(content)]:
            # What names a place on this machine is checked although we wrote it: stores can be copied about.
            if name not in ("", ".", "..") and "/" not in name and "\0" not in name:
                return Entry((name, kind, mode & 0o1777, size, mtime, content))
    raise SnapshotCorrupt(f"the snapshot is damaged: object {digest} has an entry that makes no sense")


def pieces_of(content: str) -> list[str]:
    """Return the hashes of a file's pieces."""
    return [content[at : at + DIGEST] for at in range(0, len(content), DIGEST)]
