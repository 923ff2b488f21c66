"""What a list tells of runs: their rows in the store, in which their logs are summed up."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from agentexec.store.locks import is_locked, lock_names

RUNNING = "running"
INTERRUPTED = "interrupted"

_QUERY = (
    "SELECT r.run_id, r.status, r.stop_reason, r.task, r.model, r.executor, r.workspace, r.began, r.updated, r.turns, "
    "r.blocks, r.tokens, r.cost, p.run_id, r.base, r.settings FROM runs r LEFT JOIN runs p ON p.id = r.parent"
)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a list tells of a run.

    Attributes:
        run_id: Its whole id; ids sort by time.
        status: `running`, or as in `SolveResult`. A run whose process died is `interrupted`.
        stop_reason: See `RunFinished`; empty while it runs.
        task: The task.
        model: Name of the model.
        executor: Spec of the executor.
        workspace: Its directory, or None.
        began: Seconds since the epoch.
        updated: Likewise: its latest event.
        turns: Messages after the task.
        blocks: Blocks that were run; this and the next two count what a branch shares, and are None until it goes on.
        tokens: Input and output tokens; None if a call was not counted.
        cost: USD; None if the price of a call is unknown.
        parent: Run that it branched off, or None.
        base: How many events of `parent` are also its own first ones.
        settings: What else it takes to go on with it, as the recorder was given.
    """

    run_id: str
    status: str
    stop_reason: str
    task: str
    model: str
    executor: str
    workspace: str | None
    began: float
    updated: float
    turns: int
    blocks: int | None
    tokens: int | None
    cost: Decimal | None
    parent: str | None
    base: int
    settings: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return a dictionary for `json.dumps`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "cost": None if self.cost is None else float(self.cost), "settings": dict(self.settings)}


def read_summaries(
    db: sqlite3.Connection, locks: Path, where: str, values: list[Any], limit: int | None = None
) -> Iterator[RunSummary]:
    """Yield runs, the latest first.

    Args:
        db: The store.
        locks: Directory of the locks of runs, which tell whether one that was begun still runs.
        where: Condition in SQL; the runs are `r` there.
        values: Of its parameters.
        limit: At most so many are looked at.
    """
    rows = db.execute(
        f"{_QUERY} WHERE {where} ORDER BY r.run_id DESC LIMIT ?", [*values, -1 if limit is None else limit]
    )
    # Looked up once: most runs of a list have no lock that could be held.
    lockable = lock_names(locks)
    for row in rows:
        yield _summary(row, locks, lockable)


def _summary(row: tuple[Any, ...], locks: Path, lockable: Container[str]) -> RunSummary:
    run_id, status, reason, task, model, executor, workspace, began, updated = row[:9]
    turns, blocks, tokens, cost, parent, base, settings = row[9:]
    if status == RUNNING and not (run_id in lockable and is_locked(locks, run_id)):
        status = INTERRUPTED
    return RunSummary(
        run_id=run_id,
        status=status,
        stop_reason=reason,
        task=task,
        model=model,
        executor=executor,
        workspace=workspace,
        began=began,
        updated=updated,
        turns=turns,
        blocks=blocks,
        tokens=tokens,
        cost=None if cost is None else Decimal(cost),
        parent=parent,
        base=base,
        settings={} if settings == "{}" else json.loads(settings),
    )
