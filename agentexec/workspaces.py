"""Workspaces of kept runs: saved after each block, and put back as they were where a run goes on or branches off."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from agentexec.errors import SnapshotError
from agentexec.events import BlockFinished, BlockStarted, Event, MessageAdded, RunResumed, WorkspaceSaved
from agentexec.log import EventLog
from agentexec.snapshots import SnapshotStore
from agentexec.store import Store


def snapshots_of(store: Store) -> SnapshotStore:
    """Return the snapshots that are kept beside a store's runs.

    Raises:
        SnapshotError: there is no place for them.
    """
    return SnapshotStore(store.directory / "snapshots")


class WorkspaceSaver:
    """Saves a run's workspace at its begin, after each block, and before it goes on; a listener of its log.

    A snapshot that cannot be taken ends the saving, not the run: a branch then begins with a copy of the workspace as
    it is, and a block that was interrupted is run again on what it left.

    Args:
        log: The run's.
        store: Where the run is kept.
        workspace: The directory.

    Attributes:
        error: Why nothing is saved any more, or None.
    """

    def __init__(self, log: EventLog, store: Store, workspace: Path) -> None:
        self._log, self._store, self._workspace = log, store, workspace
        self._snapshots: SnapshotStore | None = None
        self._last = next((event.snapshot for event in reversed(log) if isinstance(event, WorkspaceSaved)), None)
        self.error: SnapshotError | None = None

    def __call__(self, event: Event) -> None:
        """Save the workspace if the event is one after which it may have changed."""
        if self.error is None and _may_change(event) and self._workspace.is_dir():
            try:
                self._save()
            except SnapshotError as error:
                self.error = error

    def _save(self) -> None:
        if self._snapshots is None:
            self._snapshots = snapshots_of(self._store)
        taken = self._snapshots.take(self._workspace)
        if taken.id != self._last:
            self._last = taken.id
            self._log.append(WorkspaceSaved(snapshot=taken.id, files=taken.files, size=taken.size))


def _may_change(event: Event) -> bool:
    if isinstance(event, BlockFinished):
        # One that was cancelled with its run is run again, from before it.
        return event.result.verdict != "cancelled"
    return isinstance(event, RunResumed) or (isinstance(event, MessageAdded) and event.message.turn == 0)


def last_saved(events: Iterable[Event]) -> str | None:
    """Return the latest snapshot of a run's workspace."""
    return next((event.snapshot for event in reversed(list(events)) if isinstance(event, WorkspaceSaved)), None)


def is_half_done(events: Iterable[Event]) -> bool:
    """Whether a block was interrupted after the workspace was saved: what it did will be done again."""
    half_done = False
    for event in events:
        if isinstance(event, WorkspaceSaved) or (isinstance(event, BlockFinished) and _may_change(event)):
            half_done = False
        elif isinstance(event, BlockStarted):
            half_done = True
    return half_done


def restore(store: Store, events: list[Event], directory: Path) -> bool:
    """Make a directory what the workspace was when it was last saved; return whether it ever was.

    Raises:
        SnapshotError: the snapshot is gone or damaged, or the directory cannot be written.
    """
    snapshot = last_saved(events)
    if snapshot is None:
        return False
    snapshots_of(store).restore(snapshot, directory)
    return True


def remove_workspace(store: Store, run_id: str) -> None:
    """Remove the directory that a store had made for a run."""
    shutil.rmtree(store.workspace(run_id), ignore_errors=True)


def collect_snapshots(store: Store) -> None:
    """Remove snapshots that no run needs any more, but for those of the last hour.

    Raises:
        SnapshotError: they cannot be read.
    """
    if (store.directory / "snapshots").is_dir():
        snapshots_of(store).collect(store.snapshots())
