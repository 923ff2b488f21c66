"""Where the events of a run are: its own, and before them those of the runs that it branched off."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

SPAN = 1 << 32
"""`events.place` is the row of the run times this, plus the event's position in the run.

One number and no index: a commit for each event then writes half of the pages.
"""


BELONGING = ("workspace_saved", "workspace_not_saved", "plan_updated")
"""Types of events that follow a message and belong to it."""


class Part(NamedTuple):
    """Events of one run in a row.

    Attributes:
        run: Row of the run that they were written for.
        first: Position of the first.
        end: Position after the last that counts, whether there are so many or not.
    """

    run: int
    first: int
    end: int

    @property
    def places(self) -> tuple[int, int]:
        """Its first place, and the one after its last."""
        return self.run * SPAN + self.first, self.run * SPAN + self.end


def parts_of(db: sqlite3.Connection, run_id: str) -> list[Part]:
    """Return where a run's events are, in order; nothing if there is no such run."""
    parts: list[Part] = []
    row = db.execute("SELECT id, parent, base FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    end = SPAN
    while row is not None:
        run, parent, base = row
        if base < end:
            parts.append(Part(run, base, end))
            end = base
        row = db.execute("SELECT id, parent, base FROM runs WHERE id = ?", (parent,)).fetchone()
    parts.reverse()
    return parts


def read_rows(db: sqlite3.Connection, part: Part, types: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return type and JSON text of events in order, of all of them or those of some types."""
    only = f"AND type IN ({', '.join('?' * len(types))})" if types else ""
    query = f"SELECT type, event FROM events WHERE place >= ? AND place < ? {only} ORDER BY place"  # noqa: S608 - marks
    return db.execute(query, (*part.places, *types)).fetchall()


def position_after(db: sqlite3.Connection, part: Part) -> int:
    """Return the position after the last event that there is."""
    last = db.execute("SELECT max(place) FROM events WHERE place >= ? AND place < ?", part.places).fetchone()[0]
    return part.first if last is None else int(last) % SPAN + 1


def position_of_turn(db: sqlite3.Connection, part: Part, turn: int) -> int | None:
    """Return the position of a turn's message, or None if it is not there."""
    row = db.execute(
        "SELECT place FROM events WHERE place >= ? AND place < ? AND turn = ? LIMIT 1", (*part.places, turn)
    ).fetchone()
    return None if row is None else int(row[0]) % SPAN


def end_of_turn(db: sqlite3.Connection, part: Part, position: int) -> int:
    """Return the position after a message and what came of it at once, such as the workspace at the begin."""
    rows = db.execute(
        "SELECT type FROM events WHERE place > ? AND place < ? ORDER BY place",
        (part.run * SPAN + position, part.places[1]),
    )
    for (kind,) in rows:
        if kind not in BELONGING:
            break
        position += 1
    return position + 1


def add_event(db: sqlite3.Connection, run: int, position: int, turn: int | None, kind: str, text: str) -> None:
    """Write an event."""
    db.execute(
        "INSERT INTO events (place, turn, type, event) VALUES (?, ?, ?, ?)", (run * SPAN + position, turn, kind, text)
    )


def remove_events(db: sqlite3.Connection, run: int) -> None:
    """Remove all events that were written for a run."""
    db.execute("DELETE FROM events WHERE place >= ? AND place < ?", Part(run, 0, SPAN).places)
