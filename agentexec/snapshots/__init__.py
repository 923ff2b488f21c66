"""Snapshots of workspaces: content-addressed, deduplicated, bounded, and collected when nobody needs them.

    store = SnapshotStore(directory)
    snapshot = store.take(workspace)            # cheap if little has changed since the last one
    store.restore(snapshot.id, workspace)       # exactly as it was
    store.collect(keep=[snapshot.id])           # what no kept snapshot needs is removed

All calls block; in an event loop call them with `asyncio.to_thread`. Any number of processes may share a store.

A snapshot holds regular files (bytes, permission bits, mtime), directories (also empty ones) and symbolic links (as
links, never followed). It does not hold owners, ACLs, extended attributes or setuid bits; hard links become files of
their own. FIFOs, sockets and devices are never opened; they, and files that are too large, are named in
`Snapshot.skipped`.
"""

from __future__ import annotations

from agentexec.snapshots.objects import SnapshotLimits
from agentexec.snapshots.restoring import Restored
from agentexec.snapshots.store import Collected, Snapshot, SnapshotStore
from agentexec.snapshots.tree import Skipped, SnapshotEntry

__all__ = [
    "Collected",
    "Restored",
    "Skipped",
    "Snapshot",
    "SnapshotEntry",
    "SnapshotLimits",
    "SnapshotStore",
]
