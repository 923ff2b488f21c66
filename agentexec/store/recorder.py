"""Writes a run as it happens: the first listener of its log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agentexec.events import BlockFinished, Event, MessageAdded, ModelCalled, RunFinished, RunResumed, RunStarted
from agentexec.store.codec import write_event
from agentexec.store.database import transaction, translated
from agentexec.store.history import add_event, parts_of, position_after, remove_events
from agentexec.store.locks import RunLock

if TYPE_CHECKING:
    from agentexec.store.runs import Store

_SUMMED = MessageAdded, RunResumed, RunFinished, RunStarted
"""Events that change the row of a run."""


def totals(store: Store, run_id: str) -> tuple[int, int | None, Decimal | None]:
    """Return blocks, tokens and cost of a run, None where something was not counted or has no price."""
    blocks, tokens, cost = 0, 0, Decimal(0)
    counted = priced = True
    for kind, text in store.rows(run_id, "block_finished", "model_called"):
        if kind == "block_finished":
            blocks += 1
            continue
        call = json.loads(text)
        usage = call.get("usage")
        counted &= usage is not None
        tokens += 0 if usage is None else usage["input_tokens"] + usage["output_tokens"]
        priced &= call.get("cost") is not None
        cost += Decimal(call.get("cost") or 0)
    return blocks, tokens if counted else None, cost if priced else None


class Recorder:
    """Commits each kept event before anybody else hears of it (`EventLog(recorder=...)`).

    So whatever was shown is in the store, and what is not in the store has not happened: an event that cannot be
    written raises, which stops the run.

    Made by `Store.record`. Close it, so that others may have the run.

    Attributes:
        run_id: The run.
        position: How many events it has.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        lock: RunLock,
        settings: Mapping[str, Any] | None = None,
        place: Mapping[str, str] | None = None,
    ) -> None:
        self.run_id = run_id
        self.store = store
        self._lock = lock
        self._db = store.db
        self._settings = settings
        self._place = dict(place or {})
        self._run: int | None = None
        self.position = 0
        self._turns, self._blocks, self._tokens, self._cost = 0, 0, 0, Decimal(0)
        self._counted, self._priced = True, True
        with translated(store.file):
            self._find()

    def _find(self) -> None:
        row = self._db.execute("SELECT id, turns FROM runs WHERE run_id = ?", (self.run_id,)).fetchone()
        if row is None:
            return
        self._run, self._turns = row
        self.position = position_after(self._db, parts_of(self._db, self.run_id)[-1])
        self._blocks, tokens, cost = totals(self.store, self.run_id)
        self._counted, self._priced = tokens is not None, cost is not None
        self._tokens, self._cost = tokens or 0, cost or Decimal(0)
        if self._settings is not None:
            self.store.update(self.run_id, settings=self._settings)

    def __call__(self, event: Event) -> None:
        """Write an event, unless it is transient.

        Raises:
            StoreError: it was not written.
        """
        if event.transient:
            return
        text = write_event(event, self.store.secrets)
        turn = event.message.turn if isinstance(event, MessageAdded) else None
        kind = str(getattr(event, "type", ""))
        with translated(self.store.file):
            if self._run is None or isinstance(event, _SUMMED):
                known = self._run
                try:
                    with transaction(self._db):
                        if self._run is None:
                            self._begin(event.time)
                        self._insert(turn, kind, text)
                        self._count(event)
                        self._sum_up(event, text)
                except BaseException:
                    self._run = known  # one that was not begun after all has no row, and the next run takes its number
                    raise
            else:  # one statement is a transaction of its own, at a third of the price
                self._insert(turn, kind, text)
                self._count(event)
        self.position += 1

    def move(self, workspace: str) -> None:
        """Say where the run works from now on."""
        self._place["workspace"] = workspace

    def close(self) -> None:
        """Let others have the run. Closing twice has no effect."""
        self._lock.release()

    def _begin(self, moment: float) -> None:
        self._run = self._db.execute(
            "INSERT INTO runs (run_id, began, updated, settings) VALUES (?, ?, ?, ?)",
            (self.run_id, moment, moment, json.dumps(dict(self._settings or {}))),
        ).lastrowid
        assert self._run is not None
        remove_events(self._db, self._run)  # of one that was never begun: earlier versions could leave some

    def _insert(self, turn: int | None, kind: str, text: str) -> None:
        assert self._run is not None
        add_event(self._db, self._run, self.position, turn, kind, text)

    def _count(self, event: Event) -> None:
        """Count what the row of the run tells with its next change."""
        if isinstance(event, BlockFinished):
            self._blocks += 1
        elif isinstance(event, ModelCalled):
            self._counted &= event.usage is not None
            self._tokens += 0 if event.usage is None else event.usage.total_tokens
            self._priced &= event.cost is not None
            self._cost += event.cost or 0

    def _sum_up(self, event: Event, text: str) -> None:
        """Bring the row of the run up to date with an event; those of `_SUMMED` change it."""
        if isinstance(event, MessageAdded):
            self._turns += event.message.sender != "task"
            self._set(event, turns=self._turns, status="running", stop_reason="")
        elif isinstance(event, RunResumed):
            self._set(event, status="running", stop_reason="", **self._place)
        elif isinstance(event, RunFinished):
            self._set(event, status=event.status, stop_reason=event.stop_reason)
        elif isinstance(event, RunStarted):
            started = json.loads(text)  # in which secrets are masked
            names = ("task", "model", "executor", "workspace")
            columns = {name: started[name] for name in names} | self._place
            self._set(event, status="running", stop_reason="", **columns)

    def _set(self, event: Event, **columns: object) -> None:
        columns |= {
            "updated": event.time,
            "blocks": self._blocks,
            "tokens": self._tokens if self._counted else None,
            "cost": str(self._cost) if self._priced else None,
        }
        names = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"UPDATE runs SET {names} WHERE id = ?", (*columns.values(), self._run))  # noqa: S608
