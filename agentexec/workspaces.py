"""Workspaces of kept runs: saved after each block, and put back as they were where a run goes on or branches off."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from agentexec.errors import SnapshotError
from agentexec.events import (
    BlockFinished,
    BlockStarted,
    Event,
    MessageAdded,
    RunResumed,
    WorkspaceNotSaved,
    WorkspaceSaved,
)
from agentexec.log import EventLog, Kinds
from agentexec.snapshots import Restored, Snapshot, SnapshotStore
from agentexec.store import Store
from sandboxes.runner.files import remove_tree
from sandboxes.waiting import uninterrupted

T = TypeVar("T")


def snapshots_of(store: Store) -> SnapshotStore:
    """Return the snapshots that are kept beside a store's runs.

    Raises:
        SnapshotError: there is no place for them.
    """
    return SnapshotStore(store.directory / "snapshots")


class WorkspaceSaver:
    """Saves a run's workspace at its begin, after each block, and before it goes on; a listener of its log.

    In a thread, while the run waits and others go on. A snapshot that cannot be taken costs the run nothing but that:
    the log says why (`WorkspaceNotSaved`), and the next block is followed by another try. Where agents run blocks at
    the same time, it may hold a part of what another's block is doing; the one after that block holds all of it.

    Args:
        log: The run's.
        store: Where the run is kept.
        workspace: Tells the directory; None where there is none on this machine, or none yet.
    """

    HEARS: ClassVar[Kinds] = (BlockFinished, RunResumed, MessageAdded)

    def __init__(self, log: EventLog, store: Store, workspace: Callable[[], Path | None]) -> None:
        self._log, self._store, self._workspace = log, store, workspace
        self._snapshots: SnapshotStore | None = None

    def __call__(self, event: Event) -> None:
        """Have the workspace saved if the event is one after which it may have changed."""
        if _may_change(event):
            self._log.defer(self._save)

    async def _save(self) -> None:
        workspace = self._workspace()
        if workspace is None or not workspace.is_dir():
            return
        try:
            taken = await in_thread(functools.partial(self._take, workspace))
        except SnapshotError as error:
            self._log.append(WorkspaceNotSaved(reason=str(error)))
        else:
            self._log.append(
                WorkspaceSaved(snapshot=taken.id, files=taken.files, size=taken.size, skipped=taken.skipped_count)
            )

    def _take(self, workspace: Path, given_up: Callable[[], bool]) -> Snapshot:
        if self._snapshots is None:
            self._snapshots = snapshots_of(self._store)
        return self._snapshots.take(workspace, given_up=given_up)


async def in_thread(call: Callable[[Callable[[], bool]], T]) -> T:
    """Make a call in a thread. If that is cancelled, the call is told to give up, and its end is awaited.

    Nothing may change or remove the workspace under it.
    """
    given_up = threading.Event()
    work = asyncio.create_task(asyncio.to_thread(call, given_up.is_set))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        given_up.set()
        await uninterrupted(asyncio.wait([work]))
        if not work.cancelled():
            work.exception()  # which nobody waits for
        raise


def _may_change(event: Event) -> bool:
    if isinstance(event, BlockFinished):
        # One that was cancelled with its run is run again, from before it.
        return event.result.verdict != "cancelled"
    return isinstance(event, RunResumed) or (isinstance(event, MessageAdded) and event.message.turn == 0)


def last_saved(events: Iterable[Event]) -> str | None:
    """Return the latest snapshot of a run's workspace."""
    return next((event.snapshot for event in reversed(list(events)) if isinstance(event, WorkspaceSaved)), None)


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What the last snapshot of a workspace does not hold.

    Attributes:
        turn: Of the first block whose changes are missing; None if nothing was ever saved.
        reason: Why.
    """

    turn: int | None
    reason: str

    def __str__(self) -> str:
        since = "it was never saved" if self.turn is None else f"what was done from turn {self.turn} on was not saved"
        return f"{since}: {self.reason}"


def unsaved(events: Iterable[Event]) -> Unsaved | None:
    """Return what is missing in the last snapshot at the end of some events; None if that is nothing.

    Also None for a run of which nobody knows the workspace, so that it was not even tried.
    """
    ever = tried = False
    turn: int | None = None
    reason = ""
    for event in events:
        if isinstance(event, WorkspaceSaved):
            ever, tried, turn, reason = True, True, None, ""
        elif isinstance(event, WorkspaceNotSaved):
            tried, reason = True, event.reason
        elif isinstance(event, BlockFinished) and _may_change(event) and turn is None:
            turn, reason = event.turn, "its process ended before that"
    if not tried or (ever and turn is None):
        return None
    return Unsaved(turn if ever else None, reason)


def is_half_done(events: Iterable[Event]) -> bool:
    """Whether a block was interrupted after the workspace was saved: what it did will be done again."""
    half_done = False
    for event in events:
        if isinstance(event, WorkspaceSaved) or (isinstance(event, BlockFinished) and _may_change(event)):
            half_done = False
        elif isinstance(event, BlockStarted):
            half_done = True
    return half_done


def restore(store: Store, events: list[Event], directory: Path) -> Restored | None:
    """Make a directory what the workspace was when it was last saved; None if it never was.

    See `unsaved` for what is missing then.

    Raises:
        SnapshotError: the snapshot is gone or damaged, or the directory cannot be written.
    """
    snapshot = last_saved(events)
    return None if snapshot is None else snapshots_of(store).restore(snapshot, directory)


def remove_workspace(store: Store, run_id: str) -> None:
    """Remove the directory that a store had made for a run, however deep or unreadable what blocks left in it."""
    remove_tree(str(store.workspace(run_id)))


def collect_snapshots(store: Store) -> None:
    """Remove snapshots that no run needs any more, but for those of the last hour.

    Raises:
        SnapshotError: they cannot be read.
    """
    if (store.directory / "snapshots").is_dir():
        snapshots_of(store).collect(store.snapshots())
