"""A run and the store: where `solve` gets a run's past from, and where its events go."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentexec.answering import take_answers
from agentexec.errors import SnapshotError, StoreError
from agentexec.events import Event, MessageAdded, RunStarted
from agentexec.log import EventLog, new_run_id
from agentexec.models.base import Model
from agentexec.store import Recorder, Store
from agentexec.workspaces import WorkspaceSaver, restore, unsaved
from sandboxes.executor import Executor
from sandboxes.waiting import uninterrupted

KEY_VARIABLES = ("OPENAI_API_KEY",)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run begins with.

    Attributes:
        past: Its events so far; None if it has not begun.
        recorder: Writes further ones; None if nothing is kept.
    """

    past: Sequence[Event] | None
    recorder: Recorder | None

    def log(self, workspace: Callable[[], Path | None]) -> EventLog:
        """Return the log of the run, with listeners that keep it and its workspace.

        Args:
            workspace: Tells where it works, or None where that is not known yet, or on another machine.
        """
        first = self.past[0] if self.past else None
        run_id = first.run_id if isinstance(first, RunStarted) else None
        if self.recorder is not None:
            run_id = self.recorder.run_id
        log = EventLog(run_id, self.recorder, self.past or ())
        if self.recorder is not None:
            log.subscribe(WorkspaceSaver(log, self.recorder.store, workspace), WorkspaceSaver.HEARS)
        return log

    async def put_back(self, executor: Executor) -> None:
        """Give the new workspace of a run that goes on what the one had that was thrown away.

        Raises:
            SnapshotError: it cannot be done, or something would be missing.
        """
        directory, events = executor.local_workspace, list(self.past or ())
        if self.recorder is None or directory is None:
            return
        if (missing := unsaved(events)) is not None:
            raise SnapshotError(
                f"the workspace of run {self.recorder.run_id} cannot be put back, as {missing}; "
                "give workspace= to go on in a directory of yours"
            )
        # To its end: what is being written while the directory is removed would stay.
        await uninterrupted(asyncio.to_thread(restore, self.recorder.store, events, directory))


@contextmanager
def keep(
    store: Store | Recorder | str | Path | None,
    resume: Sequence[Event] | str | None,
    *,
    secrets: Iterable[str | None] = (),
) -> Iterator[Kept]:
    """Open what is needed to keep a run, for as long as it runs.

    Args:
        store: See `solve`.
        resume: See `solve`.
        secrets: What must never be written, besides the keys in the environment.

    Raises:
        StoreError: it cannot be opened, another process has the run, or the past is not what is stored.
        ValueError: `resume` is an id, and there is no store.
    """
    if store is None:
        if isinstance(resume, str):
            raise ValueError("resume= is the id of a run: say in which store, with store=")
        yield Kept(resume, None)
        return
    with ExitStack() as stack:
        if isinstance(store, Recorder):
            recorder = store
        else:
            opened = store if isinstance(store, Store) else stack.enter_context(Store(store))
            recorder = opened.record(_run_id(opened, resume))
            stack.callback(recorder.close)
        keys = (*secrets, *map(os.environ.get, KEY_VARIABLES))
        recorder.store.secrets = tuple({*recorder.store.secrets, *(key for key in keys if key)})
        past: Sequence[Event] | None = None if isinstance(resume, str) else resume
        if isinstance(resume, str):
            past = take_answers(recorder, recorder.store.events(recorder.run_id))
        if recorder.position != len(past or ()):
            raise StoreError(
                f"run {recorder.run_id} has {recorder.position} events in the store, not the {len(past or ())} that "
                "were given: resume it by its id"
            )
        yield Kept(past, recorder)


def _run_id(store: Store, resume: Sequence[Event] | str | None) -> str:
    if isinstance(resume, str):
        return store.find(resume).run_id
    first = resume[0] if resume else None
    return first.run_id if isinstance(first, RunStarted) else new_run_id()


def fast_forward(models: Iterable[Model], past: Iterable[Event]) -> None:
    """Tell recorded runs which of their replies a run that is resumed has had already."""
    played = Counter(event.message.sender for event in past if isinstance(event, MessageAdded))
    for model in models:
        model.skip(played)
