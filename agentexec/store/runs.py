"""The store: runs to list, to read, to branch, to remove; and the way to record one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agentexec.errors import RunNotFound, StoreError, StoreUnavailable
from agentexec.store.database import connect, transaction, translated
from agentexec.store.history import (
    Part,
    end_of_turn,
    parts_of,
    position_after,
    position_of_turn,
    read_rows,
    remove_events,
)
from agentexec.store.locks import RunLock, is_locked
from agentexec.store.summaries import INTERRUPTED, RUNNING, RunSummary, read_summaries

if TYPE_CHECKING:
    from agentexec.events import Event
    from agentexec.store.recorder import Recorder

FILE_NAME = "runs.sqlite"
VARIABLE = "AGENTEXEC_STORE"
LATEST = "last"
_NAMED = 5
"""How many candidates an ambiguous id is answered with."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person said to a waiting run from another process.

    Attributes:
        key: Identity in the store.
        given: Seconds since the epoch.
        content: JSON values; what they mean is the asker's affair.
    """

    key: int
    given: float
    content: Mapping[str, Any]


def default_directory() -> Path:
    """Return where a user's runs are kept: `AGENTEXEC_STORE`, or `agentexec` in the user's data directory."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    from platformdirs import user_data_path

    return user_data_path("agentexec", appauthor=False)


class Store:
    """Runs in one directory: `runs.sqlite`, and beside it their locks and workspaces.

    A context manager. Several processes may use one store at a time. Not for network file systems.

    Args:
        directory: None takes `default_directory()`.
        create: Make it if it is missing; else that is an error.
        secrets: Texts that must never be written, such as keys; `***` is, in their place.

    Raises:
        StoreError: it cannot be opened; see `agentexec.errors`.
    """

    def __init__(
        self, directory: str | Path | None = None, *, create: bool = True, secrets: Iterable[str] = ()
    ) -> None:
        self.directory = default_directory() if directory is None else Path(directory)
        self.file = self.directory / FILE_NAME
        self.secrets = tuple(secrets)
        if not create and not self.file.exists():
            raise StoreUnavailable(f"there is no store in {self.directory}: no run has been kept there yet")
        self.db = connect(self.file, create=create)

    def close(self) -> None:
        """Close the file. Closing twice has no effect."""
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def locks(self) -> Path:
        """Where the locks of runs are."""
        return self.directory / "locks"

    def workspace(self, run_id: str) -> Path:
        """Return where a run may keep its workspace if its user named none. Nothing is made."""
        return self.directory / "workspaces" / run_id

    # Reading

    def runs(
        self,
        *,
        status: str | None = None,
        text: str | None = None,
        since: float | None = None,
        before: float | None = None,
        limit: int | None = None,
    ) -> list[RunSummary]:
        """Return runs, the latest last.

        Args:
            status: Only those that are now in this state.
            text: Only those whose task or id contains it, in upper or lower case.
            since: Only those that had an event at this time (seconds since the epoch) or later.
            before: Only those that had none since this time.
            limit: At most so many, the latest ones.
        """
        where, values = ["1"], list[Any]()
        if status is not None:
            # An interrupted run may still be written down as one that runs.
            where.append("(r.status = ? OR r.status = ?)")
            values += [status, RUNNING if status == INTERRUPTED else status]
        if text is not None:
            where.append("(instr(lower(r.task), lower(?)) OR instr(r.run_id, ?))")
            values += [text, text]
        for sign, moment in ((">=", since), ("<", before)):
            if moment is not None:
                where.append(f"r.updated {sign} ?")
                values.append(moment)
        found = []
        for run in self._summaries(" AND ".join(where), values):
            if status is None or run.status == status:
                found.append(run)
                if len(found) == limit:
                    break
        found.reverse()
        return found

    def summary(self, run_id: str) -> RunSummary:
        """Return what a list tells of one run, by its whole id.

        Raises:
            RunNotFound: there is none.
        """
        for run in self._summaries("r.run_id = ?", [run_id]):
            return run
        raise self._not_found(f"there is no run {run_id}")

    def find(self, abbreviation: str) -> RunSummary:
        """Return the run whose id is, begins with or ends in a text; `last` is the latest run.

        Raises:
            RunNotFound: there is none, or more than one.
        """
        if abbreviation == LATEST:
            for run in self._summaries("1", [], 1):
                return run
        elif abbreviation:
            size = len(abbreviation)
            found = list(
                self._summaries(
                    "r.run_id = ? OR substr(r.run_id, 1, ?) = ? OR substr(r.run_id, -?) = ?",
                    [abbreviation, size, abbreviation, size, abbreviation],
                )
            )
            if exact := [run for run in found if run.run_id == abbreviation]:
                return exact[0]
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(run.run_id for run in found[:_NAMED])
                more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
                raise RunNotFound(f"{abbreviation!r} may be {names}{more}: give more of the id")
        raise self._not_found(f"there is no run {abbreviation!r}")

    def events(self, run_id: str) -> list[Event]:
        """Return all events of a run in order, those it shares with runs it branched off included.

        Raises:
            RunNotFound: there is no such run.
            StoreDamaged: one of them cannot be read.
        """
        from agentexec.store.codec import read_event

        return [read_event(text) for text in self.event_texts(run_id)]

    def event_texts(self, run_id: str) -> list[str]:
        """Return all events of a run as JSON texts."""
        return [text for _, text in self.rows(run_id)]

    def rows(self, run_id: str, *types: str) -> list[tuple[str, str]]:
        """Return type and JSON text of a run's events in order, of all of them or those of some types."""
        with translated(self.file):
            return [row for part in self._parts(run_id) for row in read_rows(self.db, part, types)]

    def position_of(self, run_id: str, turn: int) -> int:
        """Return how many events of a run there are before the message of a turn.

        Raises:
            ValueError: the run has no such turn.
        """
        return self._turn(run_id, turn)[1]

    def position_after(self, run_id: str, turn: int) -> int:
        """Return how many events of a run there are up to the end of a turn: its message, and what belongs to it.

        Raises:
            ValueError: the run has no such turn.
        """
        with translated(self.file):
            return end_of_turn(self.db, *self._turn(run_id, turn))

    def _turn(self, run_id: str, turn: int) -> tuple[Part, int]:
        with translated(self.file):
            for part in self._parts(run_id):
                position = position_of_turn(self.db, part, turn)
                if position is not None:
                    return part, position
        raise ValueError(f"run {run_id} has no turn {turn}; its last is {self.summary(run_id).turns}")

    def is_busy(self, run_id: str) -> bool:
        """Whether a process works on the run at this moment."""
        return is_locked(self.locks, run_id)

    def snapshots(self) -> set[str]:
        """Return the ids of all snapshots of workspaces that runs refer to."""
        with translated(self.file):
            rows = self.db.execute("SELECT event FROM events WHERE type = 'workspace_saved'")
            return {str(json.loads(text)["snapshot"]) for (text,) in rows}

    # Writing

    def record(
        self, run_id: str, *, settings: Mapping[str, Any] | None = None, place: Mapping[str, str] | None = None
    ) -> Recorder:
        """Return the writer of a run that has not begun, or of one to go on with; no other may have it.

        Args:
            run_id: The run.
            settings: What it will take to go on with it. None keeps what there is. No secrets.
            place: `executor` and `workspace` where `RunStarted` does not tell, as with an executor of the user's own.

        Raises:
            RunBusy: another process has it.
            StoreError: it cannot be written.
        """
        from agentexec.store.recorder import Recorder

        with translated(self.file):
            lock = RunLock(self.locks, run_id)
        try:
            return Recorder(self, run_id, lock, settings, place)
        except BaseException:
            lock.release()
            raise

    def branch(self, run_id: str, at: int | None = None, *, before: int | None = None) -> str:
        """Make a run that shares the first events of another, and return its id. Nothing is copied.

        Args:
            run_id: The run to branch off, which is left as it is.
            at: Turn whose message is the last shared one; None shares all there is.
            before: In place of `at`: turn whose message is the first that is not shared. Before 0 nothing is.

        Raises:
            RunNotFound: there is no such run.
            ValueError: it has no such turn.
        """
        from agentexec.log import new_run_id

        turns = self.summary(run_id).turns
        if before is not None:
            turns = max(0, before - 1)
            base = self.position_of(run_id, before) if before else 0
        elif at is not None:
            turns, base = at, self.position_after(run_id, at)
        else:
            with translated(self.file):
                base = position_after(self.db, self._parts(run_id)[-1])
        new, now = new_run_id(), time.time()
        with self._writing():
            self.db.execute(
                "INSERT INTO runs (run_id, parent, base, began, updated, status, task, model, executor, turns, "
                "settings) SELECT ?, id, ?, ?, ?, ?, task, model, executor, ?, settings FROM runs WHERE run_id = ?",
                (new, base, now, now, INTERRUPTED, turns, run_id),
            )
        return new

    def update(self, run_id: str, *, workspace: str | None = None, settings: Mapping[str, Any] | None = None) -> None:
        """Change where a run works, or what it takes to go on with it. None leaves it."""
        with self._writing():
            self.db.execute(
                "UPDATE runs SET workspace = coalesce(?, workspace), settings = coalesce(?, settings) WHERE run_id = ?",
                (workspace, None if settings is None else json.dumps(dict(settings)), run_id),
            )

    def remove(self, run_id: str, *, first: Callable[[], object] | None = None) -> None:
        """Forget a run. Its workspace is not touched.

        Args:
            run_id: The run.
            first: Removes what belongs to it elsewhere, once nothing speaks against it; where it raises, or the process
                ends in it, the run is still there, to be removed again.

        Raises:
            RunNotFound: there is none.
            RunBusy: a process works on it.
            StoreError: other runs branched off it, which need its events.
        """
        with translated(self.file):
            lock = RunLock(self.locks, run_id)
        try:
            if first is not None:
                with translated(self.file):
                    self._removable(run_id)
                first()
            with self._writing():
                row = self._removable(run_id)
                remove_events(self.db, row[0])
                self.db.execute("DELETE FROM answers WHERE run = ?", row)
                self.db.execute("DELETE FROM runs WHERE id = ?", row)
        finally:
            lock.release()

    def _removable(self, run_id: str) -> tuple[int]:
        row: tuple[int] | None = self.db.execute("SELECT id FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if row is None:
            raise self._not_found(f"there is no run {run_id}")
        names = self.db.execute("SELECT run_id FROM runs WHERE parent = ? ORDER BY run_id", row).fetchall()
        if names:
            branches = " ".join(name for (name,) in names)
            raise StoreError(f"{branches} branched off {run_id} and needs its events: remove that first")
        return row

    def answer(self, run_id: str, content: Mapping[str, Any]) -> None:
        """Leave an answer for the process that works on a run, or that will.

        Raises:
            RunNotFound: there is no such run.
        """
        from agentexec.store.codec import mask

        with self._writing():
            done = self.db.execute(
                "INSERT INTO answers (run, given, answer) SELECT id, ?, ? FROM runs WHERE run_id = ?",
                (time.time(), mask(json.dumps(dict(content)), self.secrets), run_id),
            )
            if done.rowcount == 0:
                raise self._not_found(f"there is no run {run_id}")

    def answers(self, run_id: str) -> list[Answer]:
        """Return the answers that were left and not yet dropped, the oldest first."""
        with translated(self.file):
            rows = self.db.execute(
                "SELECT a.id, a.given, a.answer FROM answers a JOIN runs r ON r.id = a.run "
                "WHERE r.run_id = ? ORDER BY a.id",
                (run_id,),
            ).fetchall()
        return [Answer(key, given, json.loads(content)) for key, given, content in rows]

    def drop(self, answer: Answer) -> None:
        """Remove an answer that is of no more use."""
        with self._writing():
            self.db.execute("DELETE FROM answers WHERE id = ?", (answer.key,))

    # Inside

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with translated(self.file), transaction(self.db):
            yield

    def _parts(self, run_id: str) -> list[Part]:
        parts = parts_of(self.db, run_id)
        if not parts:
            raise self._not_found(f"there is no run {run_id}")
        return parts

    def _summaries(self, where: str, values: list[Any], limit: int | None = None) -> Iterator[RunSummary]:
        """Yield runs, the latest first."""
        with translated(self.file):
            yield from read_summaries(self.db, self.locks, where, values, limit)

    def _not_found(self, what: str) -> RunNotFound:
        return RunNotFound(f"{what} in {self.directory}: 'agentexec runs' lists them")
