"""The SQLite file: how it is opened, migrated and written, and what its errors mean to a user."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentexec.errors import StoreDamaged, StoreError, StoreFull, StoreTooNew, StoreUnavailable

APPLICATION_ID = 0x61676578
"""`agex`: tells the file from other programs' databases (`PRAGMA application_id`)."""

BUSY_SECONDS = 10.0
"""How long to wait while another process writes. Transactions here take milliseconds."""

MIGRATIONS = (
    # Append only: a store of version N has the first N applied.
    """
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL UNIQUE,
        parent INTEGER REFERENCES runs (id),
        base INTEGER NOT NULL DEFAULT 0,
        began REAL NOT NULL,
        updated REAL NOT NULL,
        status TEXT NOT NULL DEFAULT 'running',
        stop_reason TEXT NOT NULL DEFAULT '',
        task TEXT NOT NULL DEFAULT '',
        model TEXT NOT NULL DEFAULT '',
        executor TEXT NOT NULL DEFAULT '',
        workspace TEXT,
        turns INTEGER NOT NULL DEFAULT 0,
        blocks INTEGER,
        tokens INTEGER,
        cost TEXT,
        settings TEXT NOT NULL DEFAULT '{}'
    );
    CREATE INDEX runs_parent ON runs (parent) WHERE parent IS NOT NULL;
    CREATE TABLE events (
        run INTEGER NOT NULL REFERENCES runs (id),
        position INTEGER NOT NULL,
        turn INTEGER,
        type TEXT NOT NULL,
        event TEXT NOT NULL,
        PRIMARY KEY (run, position)
    );
    CREATE TABLE answers (
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL REFERENCES runs (id),
        given REAL NOT NULL,
        answer TEXT NOT NULL
    );
    CREATE INDEX answers_run ON answers (run);
    """,
    # One key in place of two and an index: see `agentexec.store.history.SPAN`.
    """
    CREATE TABLE placed (
        place INTEGER PRIMARY KEY,
        turn INTEGER,
        type TEXT NOT NULL,
        event TEXT NOT NULL
    );
    INSERT INTO placed SELECT (run << 32) + position, turn, type, event FROM events ORDER BY run, position;
    DROP TABLE events;
    ALTER TABLE placed RENAME TO events;
    """,
)

CHECKPOINT_PAGES = 4000
"""Pages of 4 KiB in the write-ahead log before it is brought into the file, for which SQLite waits for the disk twice.
Four times SQLite's own: a busy run pays that every few minutes, not several times in one."""


def connect(file: Path, *, create: bool) -> sqlite3.Connection:
    """Open the store's file, and bring an older one up to date.

    Write-ahead logging with `synchronous=NORMAL` (https://www.sqlite.org/pragma.html#pragma_synchronous): what is
    committed survives the end of the process, however it ends. A power cut may cost the last moments of
    a run, but does not damage the file.

    Raises:
        StoreError: see `agentexec.errors`.
    """
    with translated(file):
        if create:
            _make(file)
        # mode=rw: a file that is missing is an error and not a new store.
        db = sqlite3.connect(
            f"{file.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            _prepare(db, file)
        except BaseException:
            db.close()
            raise
    return db


def _make(file: Path) -> None:
    """Make the file, for its owner alone; SQLite gives its companions (-wal, -shm) the same mode."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))


def _prepare(db: sqlite3.Connection, file: Path) -> None:
    version = _version(db)
    if version > len(MIGRATIONS):
        raise StoreTooNew(
            f"{file} was written by a newer agentexec (its version is {version}, this one knows {len(MIGRATIONS)}): "
            "type 'pip install --upgrade agentexec-toolkit', or name another store with --store"
        )
    if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise StoreUnavailable(f"{file} is another program's database; name another directory with --store")
    if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
        raise StoreUnavailable(f"{file} is on a file system without shared memory; name another with --store")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    db.execute("PRAGMA foreign_keys=ON")
    if version < len(MIGRATIONS):
        _migrate(db)


def _version(db: sqlite3.Connection) -> int:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    ours = db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    return version if ours else 0


def _migrate(db: sqlite3.Connection) -> None:
    with transaction(db):
        # Again, now that no other process can be doing the same.
        for number, statements in enumerate(MIGRATIONS[_version(db) :], _version(db) + 1):
            for statement in statements.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={number}")
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and on disk (or in the system's hands, see `connect`) when the block ends."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def translated(file: Path) -> Iterator[None]:
    """Raise errors of SQLite and of the file system as ours, with what to do about them."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explained(error, file) from error
    except OSError as error:
        raise StoreUnavailable(
            f"cannot open the store {file}: {error.strerror}; name another directory with --store or AGENTEXEC_STORE"
        ) from error


def _explained(error: sqlite3.Error, file: Path) -> StoreError:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or name.startswith(("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_TRUNC")):
        return StoreFull(f"nothing more can be written to the store {file} ({error}): make room on its disk")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "malformed" in str(error):
        return StoreDamaged(
            f"the store {file} is damaged ({error}): move it away and go on with a new one; "
            f"'sqlite3 {file.name} .recover' saves what can be read"
        )
    if name.startswith("SQLITE_BUSY"):
        return StoreError(f"another process has been writing to the store {file} for {BUSY_SECONDS:g} s: try again")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return StoreUnavailable(f"cannot write to the store {file} ({error}): name another directory with --store")
    return StoreError(f"the store {file} failed: {error}")
