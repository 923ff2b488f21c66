"""The store: what was recorded is there, whoever reads it, and nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from agentexec.errors import (
    RunBusy,
    RunNotFound,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreTooNew,
    StoreUnavailable,
)
from agentexec.events import BlockOutput, Event, ModelText, RunFinished, RunResumed
from agentexec.log import EventLog, new_run_id
from agentexec.store import Store, locks
from agentexec.store.codec import write_event
from agentexec.store.database import APPLICATION_ID, MIGRATIONS
from agentexec.store.history import add_event
from agentexec.store.runs import FILE_NAME
from tests.agentexec.store.events import message, started, turn, whole


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as made:
        yield made


def keep(store: Store, events: list[Event] | None = None, run_id: str | None = None) -> str:
    name = run_id or new_run_id()
    recorder = store.record(name, settings={"max_turns": 9})
    try:
        for event in events if events is not None else whole(name):
            recorder(event)
    finally:
        recorder.close()
    return name


# What is written is there


def test_a_run_is_there_until_all_that_belongs_to_it_is_removed(store: Store) -> None:
    run_id = keep(store)
    with pytest.raises(RunNotFound, match="nothing"):
        store.remove(run_id, first=lambda: store.summary("nothing"))
    assert len(store.events(run_id)) == len(whole(run_id))
    branch = store.branch(run_id)
    with pytest.raises(StoreError, match=f"{branch} branched off"):
        store.remove(run_id, first=lambda: store.summary("nothing"))
    store.remove(branch)
    store.remove(run_id, first=lambda: store.summary(run_id))
    assert store.runs() == []


def test_a_run_whose_beginning_could_not_be_written_costs_no_other_one(store: Store) -> None:
    keep(store)
    pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    store.db.execute(f"PRAGMA max_page_count={pages + 2}")
    recorder = store.record("a")
    with pytest.raises(StoreFull):
        recorder(started("a").model_copy(update={"task": "x" * 100_000}))
    recorder(RunFinished(status="interrupted", stop_reason="store", message="full"))  # which is small
    recorder.close()
    store.db.execute("PRAGMA max_page_count=1000000")
    assert [type(event) for event in store.events("a")] == [RunFinished]
    assert store.events(keep(store, run_id="b"))
    assert {run.run_id: run.status for run in store.runs()}.items() >= {"a": "interrupted", "b": "solved"}.items()


def test_what_an_earlier_version_left_of_a_run_that_never_began_costs_no_other_one(store: Store) -> None:
    add_event(store.db, 1, 0, None, "run_finished", "{}")
    run_id = keep(store)
    assert len(store.events(run_id)) == len(whole(run_id))


def test_events_come_back_as_they_were(store: Store) -> None:
    events = whole("a")
    keep(store, events, "a")
    assert store.events("a") == events


def test_an_event_is_committed_before_anybody_hears_of_it(store: Store) -> None:
    run_id = new_run_id()
    recorder = store.record(run_id)
    log = EventLog(run_id, recorder=recorder)
    stored: list[int] = []

    def look(event: Event) -> None:
        with sqlite3.connect(f"file:{store.file}?mode=ro", uri=True) as other:
            stored.append(other.execute("SELECT count(*) FROM events").fetchone()[0])
        other.close()

    log.subscribe(look)
    for event in whole(run_id, 2):
        log.append(event)
    recorder.close()
    assert stored == list(range(1, len(log) + 1))


def test_what_cannot_be_written_has_not_happened(store: Store) -> None:
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise StoreFull("no room")

    log = EventLog("a", recorder=broken)
    log.subscribe(seen.append)
    with pytest.raises(StoreFull):
        log.append(message(0))
    assert (len(log), seen) == (0, [])
    log.append(ModelText(agent="coder", text="transient events need no room"))
    assert len(seen) == 1


def test_transient_events_are_not_stored(store: Store) -> None:
    pieces: list[Event] = [
        ModelText(agent="coder", text="a"),
        BlockOutput(turn=1, index=0, stream="stdout", data=b"\xff"),
    ]
    keep(store, [started("a"), *pieces], "a")
    assert [type(event).__name__ for event in store.events("a")] == ["RunStarted"]


def test_a_run_is_summed_up(store: Store) -> None:
    run_id = keep(store)
    (run,) = store.runs()
    assert (run.run_id, run.status, run.stop_reason, run.task) == (run_id, "solved", "final_answer", "Count the stars.")
    assert (run.turns, run.blocks, run.tokens, run.cost) == (3, 3, 9, Decimal("0.3"))
    assert (run.model, run.executor, run.workspace, run.settings) == ("m", "local", "/w", {"max_turns": 9})


def test_totals_go_on_where_they_were(store: Store) -> None:
    keep(store, whole("a", 2)[:-1], "a")
    recorder = store.record("a")
    for event in turn(3):
        recorder(event)
    recorder(message(4))
    recorder.close()
    run = store.summary("a")
    assert (run.turns, run.blocks, run.tokens, run.cost) == (4, 3, 9, Decimal("0.3"))


def test_what_was_not_counted_is_unknown(store: Store) -> None:
    events = [event.model_copy(update={"usage": None, "cost": None}) for event in whole("a")]
    run = store.summary(keep(store, events, "a"))
    assert (run.tokens, run.cost) == (None, None)


# Several processes


def test_a_look_at_a_run_keeps_nobody_from_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOOKS", 10_000)
    store.record("a").close()
    looking = os.open(store.locks / "a.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)  # as `is_locked` does, which was stopped in the middle of it
    threading.Timer(0.01, os.close, [looking]).start()
    with contextlib.closing(store.record("a")), pytest.raises(RunBusy):
        store.record("a")


def test_one_process_at_a_time_has_a_run(store: Store) -> None:
    recorder = store.record("a")
    recorder(started("a"))
    program = "import sys; from agentexec.store import Store; Store(sys.argv[1]).record('a')"
    done = subprocess.run([sys.executable, "-c", program, store.directory], capture_output=True, text=True)
    assert f"RunBusy: run a is being worked on by process {os.getpid()}" in done.stderr
    with pytest.raises(RunBusy):
        store.record("a")
    assert store.summary("a").status == "running"
    recorder.close()
    recorder.close()
    assert store.summary("a").status == "interrupted"
    store.record("a").close()
    assert list(store.locks.iterdir()) == []


def test_a_run_whose_process_was_killed_is_free_and_whole(store: Store) -> None:
    program = (
        "import sys\n"
        "from agentexec.store import Store\n"
        "from tests.agentexec.store.events import started, turn\n"
        "recorder = Store(sys.argv[1]).record('a')\n"
        "recorder(started('a'))\n"
        "for number in range(1, 1000000):\n"
        "    for event in turn(number):\n"
        "        recorder(event)\n"
        "        print(recorder.position, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, store.directory], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert process.stdout is not None
    for _ in range(50):
        shown = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    shown = (shown + process.stdout.read()).split(b"\n")[-2]
    process.wait()
    process.stdout.close()
    assert store.summary("a").status == "interrupted"
    assert len(store.events("a")) >= int(shown)
    recorder = store.record("a")
    assert recorder.position == len(store.events("a"))
    recorder.close()


def test_processes_write_side_by_side(store: Store) -> None:
    program = (
        "import sys\n"
        "from agentexec.store import Store\n"
        "from tests.agentexec.store.events import whole\n"
        "recorder = Store(sys.argv[1]).record(sys.argv[2])\n"
        "for event in whole(sys.argv[2], 60): recorder(event)\n"
    )
    root = Path(__file__).parents[3]
    writers = [subprocess.Popen([sys.executable, "-c", program, store.directory, name], cwd=root) for name in "abcd"]
    assert [writer.wait(40) for writer in writers] == [0] * 4
    assert {run.run_id: run.turns for run in store.runs()} == dict.fromkeys("abcd", 60)
    assert all(len(store.events(name)) == 303 for name in "abcd")


# Finding


def test_ids_are_abbreviated_from_either_end(store: Store) -> None:
    first, second = "20261120T120000-7a120c3f1", "20261121T120000-7a120c3f2"
    for name in (first, second):
        keep(store, run_id=name)
    assert store.find("20261120").run_id == first
    assert store.find("3f2").run_id == second
    assert store.find("last").run_id == second
    assert store.find(first).run_id == first
    with pytest.raises(RunNotFound, match=f"'2026' may be {second}, {first}: give more"):
        store.find("2026")
    for wrong in ("zzz", "%", "_", "'", "3f"):
        with pytest.raises(RunNotFound, match="agentexec runs"):
            store.find(wrong)
    with pytest.raises(RunNotFound):
        store.find("")


def test_an_id_that_another_one_begins_with_is_found(store: Store) -> None:
    keep(store, run_id="a")
    keep(store, run_id="ab")
    assert store.find("a").run_id == "a"


def test_ids_sort_by_time() -> None:
    ids = [new_run_id() for _ in range(100)]
    assert [name[:22] for name in ids] == sorted(name[:22] for name in ids)


def test_lists_are_filtered(store: Store) -> None:
    before = time.time()
    keep(store, whole("a", task="Draw a MAP"), "a")
    keep(store, whole("b")[:-1], "b")
    keep(store, run_id="c")
    assert [run.run_id for run in store.runs()] == ["a", "b", "c"]
    assert [run.run_id for run in store.runs(limit=2)] == ["b", "c"]
    assert [run.run_id for run in store.runs(text="map")] == ["a"]
    assert [run.run_id for run in store.runs(status="interrupted")] == ["b"]
    assert [run.run_id for run in store.runs(status="running")] == []
    assert [run.run_id for run in store.runs(status="solved", limit=1)] == ["c"]
    assert store.runs(before=before) == []
    assert len(store.runs(since=before)) == 3


# Branches


def test_a_branch_shares_events_and_copies_none(store: Store) -> None:
    keep(store, whole("a", 5), "a")
    count = store.db.execute("SELECT count(*) FROM events").fetchone()
    new = store.branch("a", 3)
    assert store.db.execute("SELECT count(*) FROM events").fetchone() == count
    assert store.events(new) == store.events("a")[:15]
    run = store.summary(new)
    assert (run.parent, run.status, run.turns, run.task) == ("a", "interrupted", 3, "Count the stars.")
    assert run.workspace is None, "two runs in one workspace would disturb each other"


def test_a_branch_goes_on_by_itself(store: Store) -> None:
    events = whole("a", 5)
    keep(store, events, "a")
    new = store.branch("a", 2)
    recorder = store.record(new)
    recorder(message(3, "another way"))
    recorder.close()
    assert store.events(new) == [*events[:10], store.events(new)[-1]]
    assert store.events("a") == events
    assert store.summary(new).blocks == 1, "the block of turn 2 came after its message"
    newer = store.branch(new, 3)
    assert store.events(newer) == store.events(new)
    assert store.events(store.branch(newer, 1)) == events[:5]
    assert store.events(store.branch("a")) == events


def test_branching_names_what_is_wrong(store: Store) -> None:
    keep(store, run_id="a")
    with pytest.raises(ValueError, match="run a has no turn 9; its last is 3"):
        store.branch("a", 9)
    with pytest.raises(RunNotFound):
        store.branch("b", 1)


# Removing


def test_a_removed_run_is_gone(store: Store) -> None:
    keep(store, run_id="a")
    store.answer("a", {"decision": "approve"})
    store.remove("a")
    assert store.runs() == []
    assert store.db.execute("SELECT count(*) FROM events").fetchone() == (0,)
    with pytest.raises(RunNotFound):
        store.remove("a")


def test_what_others_need_is_not_removed(store: Store) -> None:
    keep(store, run_id="a")
    new = store.branch("a", 1)
    with pytest.raises(StoreError, match=f"{new} branched off a"):
        store.remove("a")
    recorder = store.record(new)
    with pytest.raises(RunBusy):
        store.remove(new)
    recorder.close()
    store.remove(new)
    store.remove("a")


# Answers


def test_answers_wait_in_order_until_they_are_dropped(store: Store) -> None:
    keep(store, run_id="a")
    with Store(store.directory) as other:
        other.answer("a", {"decision": "reject", "text": "first"})
        other.answer("a", {"decision": "approve"})
    first, second = store.answers("a")
    assert (first.content, second.content) == ({"decision": "reject", "text": "first"}, {"decision": "approve"})
    store.drop(first)
    assert store.answers("a") == [second]
    with pytest.raises(RunNotFound):
        store.answer("b", {})


# Secrets and rights


KEY = 'sk-"secret"\\-0123456789'


def test_secrets_never_reach_the_disk(tmp_path: Path) -> None:
    with Store(tmp_path, secrets=[KEY, "", "x"]) as store:
        keep(store, [*whole("a", task=f"use {KEY}"), message(4, f"{{'Authorization': 'Bearer {KEY}'}} xx")], "a")
        store.answer("a", {"text": f"take {KEY}"})
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
        assert b"0123456789" not in written
        assert store.summary("a").task == "use ***"
        assert store.events("a")[-1].message.content == "{'Authorization': 'Bearer ***'} xx"  # type: ignore[attr-defined]
        assert store.answers("a")[0].content == {"text": "take ***"}


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with Store(tmp_path / "a" / "store") as store:
            keep(store)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.directory.iterdir()}
            assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    finally:
        os.umask(old)
    assert modes == {FILE_NAME: 0o600, f"{FILE_NAME}-wal": 0o600, f"{FILE_NAME}-shm": 0o600, "locks": 0o700}


# What goes wrong


def test_a_newer_store_is_refused(store: Store) -> None:
    store.db.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    with pytest.raises(StoreTooNew, match="pip install --upgrade agentexec-toolkit"):
        Store(store.directory)


def test_an_older_store_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path) as old:
        keep(old, run_id="a")
    further = "ALTER TABLE runs ADD COLUMN note TEXT; UPDATE runs SET note = 'old'"
    monkeypatch.setattr("agentexec.store.database.MIGRATIONS", (*MIGRATIONS, further))
    with Store(tmp_path) as new:
        assert new.db.execute("SELECT note FROM runs").fetchone() == ("old",)
        assert new.events("a")
    with Store(tmp_path) as again:
        assert again.db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path).close()
    with monkeypatch.context() as patched:
        patched.setattr(
            "agentexec.store.database.MIGRATIONS", (*MIGRATIONS, "ALTER TABLE runs ADD COLUMN note TEXT; wrong")
        )
        with pytest.raises(StoreError):
            Store(tmp_path)
    with Store(tmp_path) as store:
        assert "note" not in [row[1] for row in store.db.execute("PRAGMA table_info(runs)")]


def test_a_store_of_the_first_version_keeps_its_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that a branch shares with the run that it left."""
    texts = [write_event(event) for event in whole("a", 2)]
    with monkeypatch.context() as patched:
        patched.setattr("agentexec.store.database.MIGRATIONS", MIGRATIONS[:1])
        with Store(tmp_path) as old:
            for key, parent, base in ((1, None, 0), (2, 1, 3)):
                name = "ab"[key - 1]
                old.db.execute(
                    "INSERT INTO runs (id, run_id, parent, base, began, updated) VALUES (?, ?, ?, ?, 1, 2)",
                    (key, name, parent, base),
                )
                for position, text in enumerate(texts[base:], base):
                    old.db.execute(
                        "INSERT INTO events (run, position, turn, type, event) VALUES (?, ?, NULL, 'x', ?)",
                        (key, position, text),
                    )
            old.db.execute("UPDATE events SET turn = 1 WHERE position = 4")
    with Store(tmp_path) as store:
        assert store.event_texts("a") == store.event_texts("b") == texts
        assert store.position_after("b", 1) == 5
        recorder = store.record("b")
        assert recorder.position == len(texts)
        recorder(RunResumed())
        recorder.close()
        assert len(store.events("b")) == len(texts) + 1


def test_migrations_never_change() -> None:
    """Stores of users were made by them: what is to be different needs a further one."""
    assert APPLICATION_ID == 0x61676578
    texts = [re.sub(r"\s+", " ", text).encode() for text in MIGRATIONS]
    assert [hashlib.sha256(text).hexdigest()[:16] for text in texts] == [
        "58cf29b9dff19828",
        "07be6f03c9956f59",
    ]


@pytest.mark.parametrize("damage", [b"not a database at all" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(damage)
    with pytest.raises(StoreDamaged, match=r"is damaged .* move it away"):
        Store(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == damage


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        keep(store, whole("a", 200), "a")
    file = tmp_path / FILE_NAME
    data = bytearray(file.read_bytes())
    data[8192:] = b"\x55" * (len(data) - 8192)
    file.write_bytes(data)
    with pytest.raises(StoreDamaged, match="recover"), Store(tmp_path) as store:
        store.events("a")


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("CREATE TABLE theirs (a)")
    db.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(StoreUnavailable, match="another program's"):
        Store(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_places_where_no_store_can_be_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="--store"):
        Store(tmp_path / "file")
    with pytest.raises(StoreUnavailable, match="no run has been kept"):
        Store(tmp_path / "nothing", create=False)
    assert not (tmp_path / "nothing").exists()


def test_a_full_disk_stops_the_run_and_keeps_it(store: Store) -> None:
    """By a limit on file sizes, which writes run into as into a full disk."""
    recorder = store.record("a")
    recorder(started("a"))

    def fill() -> None:
        for number in range(10_000):
            recorder(message(number, "x" * 1000))

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, old[1]))
    try:
        with pytest.raises(StoreFull, match="make room"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    written = recorder.position
    assert 5 < written < 1000
    assert len(store.events("a")) == written
    recorder(message(written, "there is room again"))
    recorder.close()
    assert len(store.events("a")) == written + 1
