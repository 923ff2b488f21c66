"""Snapshots give back exactly what was there, cost what changed, and trust nothing in a workspace."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentexec.errors import (
    SnapshotCorrupt,
    SnapshotError,
    SnapshotNotFound,
    SnapshotStoreFull,
    SnapshotTooLarge,
)
from agentexec.snapshots import SnapshotLimits, SnapshotStore, copying, scan
from agentexec.snapshots.copying import copy_workspace

ROOT = os.geteuid() == 0


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "store")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace"
    path.mkdir()
    return path


def tell(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Return all that a snapshot promises to keep."""
    found: dict[bytes, tuple[object, ...]] = {}
    for parent, directories, files in os.walk(os.fsencode(root)):
        for name in (*directories, *files):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            shown = os.path.relpath(path, os.fsencode(root))
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                found[shown] = ("link", os.readlink(path))
            elif stat.S_ISDIR(status.st_mode):
                found[shown] = ("directory", mode)
            else:
                found[shown] = ("file", mode, status.st_mtime_ns, Path(os.fsdecode(path)).read_bytes())
    return found


def populate(root: Path) -> None:
    (root / "a/b/c").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o750)
    (root / "a/b/data.bin").write_bytes(os.urandom(100_000))
    (root / "run.sh").write_text("#!/bin/sh\necho hi\n")
    (root / "run.sh").chmod(0o755)
    (root / "nothing").touch()
    (root / "link").symlink_to("a/b/data.bin")
    (root / "dangling").symlink_to("/nowhere/at/all")
    (root / "outside").symlink_to("/etc")
    os.mkdir(os.fsencode(root) + b"/\xff\n\x1b[2J")
    Path(os.fsdecode(os.fsencode(root) + b'/\xff\n\x1b[2J/\xfe "name')).write_text("hostile")
    os.utime(root / "run.sh", ns=(1_000_000_007, 1_000_000_007))


def settle() -> None:
    """Let the clock behind change times tick, so that what was written before is not suspect any more."""
    end = time.time_ns() + 30_000_000
    while time.time_ns() < end:
        time.sleep(0.005)


@pytest.mark.parametrize("into", ["new", "empty", "changed"])
def test_restores_exactly(store: SnapshotStore, workspace: Path, tmp_path: Path, into: str) -> None:
    populate(workspace)
    before = tell(workspace)
    snapshot = store.take(workspace)
    assert (snapshot.files, snapshot.skipped) == (4, ())
    target = tmp_path / "target"
    if into == "empty":
        target.mkdir()
    elif into == "changed":
        target = workspace
        inode = target.stat().st_ino
        (target / "a/b/data.bin").write_bytes(b"other")
        (target / "run.sh").unlink()
        (target / "run.sh").mkdir()
        (target / "run.sh/inside").touch()
        (target / "extra/deep").mkdir(parents=True)
        (target / "empty").rmdir()
        (target / "empty").symlink_to("/etc")
        (target / "link").unlink()
        (target / "link").write_text("now a file")
        (target / "nothing").chmod(0o600)
    restored = store.restore(snapshot.id, target)
    assert tell(target) == before
    assert restored.written + restored.unchanged == 4
    if into == "changed":
        assert target.stat().st_ino == inode
        assert (restored.written, restored.removed) == (2, 1)
    assert not Path("/etc/inside").exists()


def test_equal_workspaces_have_equal_ids_and_are_kept_once(
    store: SnapshotStore, workspace: Path, tmp_path: Path
) -> None:
    populate(workspace)
    first = store.take(workspace)
    size = store.size()
    again = store.take(workspace)
    assert (again.id, again.added) == (first.id, 0)
    store.restore(first.id, tmp_path / "copy")
    (tmp_path / "copy").chmod(stat.S_IMODE(workspace.stat().st_mode))
    assert store.take(tmp_path / "copy").id == first.id
    assert store.size() == size


def test_a_change_costs_its_size(store: SnapshotStore, workspace: Path) -> None:
    for directory in range(10):
        (workspace / f"d{directory}").mkdir()
        for number in range(100):
            (workspace / f"d{directory}/f{number}").write_bytes(os.urandom(1000))
    first = store.take(workspace)
    (workspace / "d3/f7").write_bytes(b"changed")
    second = store.take(workspace)
    # the file, its directory's part, that directory, the root and the manifest
    assert 0 < second.added <= 64 << 10
    assert first.added >= 1000 * 4096
    changed = {entry.path for entry in store.entries(first.id)} | {entry.path for entry in store.entries(second.id)}
    before = {entry.path: entry.content for entry in store.entries(first.id) if entry.kind == "file"}
    after = {entry.path: entry.content for entry in store.entries(second.id) if entry.kind == "file"}
    assert {path for path in changed if before.get(path) != after.get(path)} == {"d3/f7"}
    assert store.read(second.id, "d3/f7") == b"changed"
    assert len(store.read(first.id, "d3/f7")) == 1000


def test_a_large_file_that_grows_costs_what_it_grew_by(store: SnapshotStore, workspace: Path) -> None:
    log = workspace / "log"
    log.write_bytes(os.urandom(12 << 20))
    store.take(workspace)
    with log.open("ab") as file:
        file.write(b"one more line\n")
    assert store.take(workspace).added <= 32 << 10


def test_one_of_many_files_in_a_directory_costs_little(store: SnapshotStore, workspace: Path) -> None:
    for number in range(2000):
        (workspace / f"file-{number}").touch()
    store.take(workspace)
    (workspace / "file-1500").write_text("x")
    # The list of 2,000 names is some 80 KB; only the part with this one is new.
    assert store.take(workspace).added <= 48 << 10


def test_unchanged_files_are_not_read_again(
    store: SnapshotStore, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "a").write_bytes(os.urandom(1 << 20))
    (workspace / "b").write_text("b")
    settle()
    store.take(workspace)
    (workspace / "b").write_text("c")
    read: list[int] = []
    pread = os.pread

    def counted(file: int, size: int, at: int) -> bytes:
        read.append(size)
        return pread(file, size, at)

    monkeypatch.setattr(os, "pread", counted)
    fresh = SnapshotStore(store.directory)  # what is known survives the process
    fresh.take(workspace)
    assert sum(read) < 4096


def test_restoring_touches_only_what_differs(store: SnapshotStore, workspace: Path) -> None:
    same, moded, timed = (workspace / name for name in ("same", "moded", "timed"))
    for each in (same, moded, timed):
        each.write_bytes(b"x")
        each.chmod(0o640)
        os.utime(each, ns=(10**18, 10**18))
    snapshot = store.take(workspace)
    moded.chmod(0o600)
    os.utime(timed, ns=(10**18 + 1, 10**18 + 1))
    before = {each: each.stat() for each in (same, moded, timed)}
    assert store.restore(snapshot.id, workspace).written == 0
    # Whatever is set on a file changes its ctime, and a changed ctime has it read again.
    assert same.stat().st_ctime_ns == before[same].st_ctime_ns
    for each in (same, moded, timed):
        status = each.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o640, 10**18)
        assert status.st_ino == before[each].st_ino


def test_a_change_in_the_same_clock_tick_is_seen(store: SnapshotStore, workspace: Path) -> None:
    file = workspace / "racy"
    for number in range(60):
        file.write_text(f"{number:04}")
        os.utime(file, ns=(1_000_000_000_123, 1_000_000_000_123))  # mtime, which a program may set, tells nothing
        snapshot = store.take(workspace)
        assert store.read(snapshot.id, "racy") == f"{number:04}".encode()


def test_a_file_with_forged_times_is_read_again(store: SnapshotStore, workspace: Path) -> None:
    file = workspace / "file"
    file.write_text("old")
    os.utime(file, ns=(5, 5))
    settle()
    store.take(workspace)
    file.write_text("new")
    os.utime(file, ns=(5, 5))
    assert store.read(store.take(workspace).id, "file") == b"new"


def test_special_files_are_named_and_never_opened(store: SnapshotStore, workspace: Path) -> None:
    os.mkfifo(workspace / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(workspace / "socket"))
        listener.listen()
        if ROOT:
            os.mknod(workspace / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (workspace / "kept").touch()
        snapshot = store.take(workspace)
    assert {each.path for each in snapshot.skipped} == {"fifo", "socket"} | ({"null"} if ROOT else set())
    assert {entry.path for entry in store.entries(snapshot.id)} == {"kept"}


def test_links_are_kept_as_links_and_never_followed(store: SnapshotStore, workspace: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("hunter2")
    (workspace / "directory").symlink_to(secret)
    (workspace / "file").symlink_to(secret / "key")
    snapshot = store.take(workspace)
    assert {(entry.path, entry.kind) for entry in store.entries(snapshot.id)} == {
        ("directory", "link"),
        ("file", "link"),
    }
    assert not any(b"hunter2" in path.read_bytes() for path in store.directory.rglob("*") if path.is_file())
    # and nothing is written through one that was put where the snapshot has a directory
    (workspace / "directory").unlink()
    (workspace / "directory").mkdir()
    (workspace / "directory/key").write_text("mine")
    snapshot = store.take(workspace)
    (workspace / "directory/key").unlink()
    (workspace / "directory").rmdir()
    (workspace / "directory").symlink_to(secret)
    store.restore(snapshot.id, workspace)
    assert (secret / "key").read_text() == "hunter2"
    assert (workspace / "directory/key").read_text() == "mine"


def test_nothing_outside_is_read_while_names_are_swapped(store: SnapshotStore, workspace: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("hunter2")
    swapped = threading.Event()
    end = threading.Event()

    def swap() -> None:
        file, directory = workspace / "file", workspace / "directory"
        while not end.is_set():
            for way in range(2):
                for path, real in ((file, secret / "key"), (directory, secret)):
                    (workspace / "new").unlink(missing_ok=True)
                    if path.is_dir() and not path.is_symlink():
                        path.joinpath("key").unlink(missing_ok=True)
                        path.rmdir()
                    else:
                        path.unlink(missing_ok=True)
                    if way:
                        path.symlink_to(real)
                    elif path is file:
                        path.write_text("harmless")
                    else:
                        path.mkdir()
                        path.joinpath("key").write_text("harmless")
            swapped.set()

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        assert swapped.wait(10)
        for _ in range(100):
            store.take(workspace)
    finally:
        end.set()
        thread.join()
    assert not any(b"hunter2" in path.read_bytes() for path in store.directory.rglob("*") if path.is_file())


def test_large_files_are_left_out_and_named(tmp_path: Path, workspace: Path) -> None:
    store = SnapshotStore(tmp_path / "store", SnapshotLimits(file_size="1M"))
    (workspace / "small").write_bytes(bytes(1 << 20))
    (workspace / "large").write_bytes(bytes((1 << 20) + 1))
    snapshot = store.take(workspace)
    assert [(each.path, each.reason) for each in snapshot.skipped] == [("large", "larger than 1 MiB")]
    restored = store.restore(snapshot.id, tmp_path / "copy")
    assert [each.path for each in restored.skipped] == ["large"]
    assert os.listdir(tmp_path / "copy") == ["small"]


@pytest.mark.parametrize("limits", [SnapshotLimits(snapshot_size="1M"), SnapshotLimits(entries=9)])
def test_a_workspace_that_is_too_large_is_refused(tmp_path: Path, workspace: Path, limits: SnapshotLimits) -> None:
    for number in range(10):
        (workspace / f"{number}").write_bytes(bytes(200_000))
    with pytest.raises(SnapshotTooLarge, match="holds more than"):
        SnapshotStore(tmp_path / "store", limits).take(workspace)


def test_names_that_hide_files_among_them_are_too_many_too(tmp_path: Path, workspace: Path) -> None:
    for number in range(20):
        os.mkfifo(workspace / f"fifo{number}")
        (workspace / f"file{number}").touch()
    with pytest.raises(SnapshotTooLarge, match="more than 9 files"):
        SnapshotStore(tmp_path / "store", SnapshotLimits(entries=9)).take(workspace)
    for number in range(20):
        (workspace / f"file{number}").unlink()
    with pytest.raises(SnapshotTooLarge, match="more than 9 files"):
        SnapshotStore(tmp_path / "store", SnapshotLimits(entries=9)).take(workspace)


def test_the_store_does_not_grow_beyond_its_limit(tmp_path: Path, workspace: Path) -> None:
    store = SnapshotStore(tmp_path / "store", SnapshotLimits(store_size="1M"))
    (workspace / "a").write_bytes(os.urandom(600_000))
    kept = store.take(workspace)
    (workspace / "b").write_bytes(os.urandom(600_000))
    with pytest.raises(SnapshotStoreFull, match="clean --older-than"):
        store.take(workspace)
    assert store.size() <= 1 << 20
    (workspace / "b").unlink()
    assert store.take(workspace).id == kept.id
    # room is made by forgetting
    (workspace / "a").unlink()
    (workspace / "b").write_bytes(os.urandom(600_000))
    store.collect([], grace=0)
    assert store.size() == 0
    store.take(workspace)


def test_collect_keeps_what_is_needed_and_removes_the_rest(
    store: SnapshotStore, workspace: Path, tmp_path: Path
) -> None:
    populate(workspace)
    (workspace / "big").write_bytes(os.urandom(5 << 20))
    wanted = tell(workspace)
    kept = store.take(workspace)
    (workspace / "more").write_bytes(os.urandom(500_000))
    gone = store.take(workspace)
    collected = store.collect([kept.id], grace=0)
    assert (collected.snapshots, collected.freed >= 500_000) == (1, True)
    assert store.ids() == [kept.id]
    on_disk = sum(-(-path.stat().st_size // 4096) * 4096 for path in (store.directory / "objects").glob("*/*"))
    assert store.size() == on_disk
    with pytest.raises(SnapshotNotFound):
        store.restore(gone.id, tmp_path / "gone")
    store.restore(kept.id, tmp_path / "kept")
    assert tell(tmp_path / "kept") == wanted
    # what was forgotten is not taken for known: the file that is still there is kept again
    again = store.take(workspace)
    assert again.id == gone.id
    store.restore(again.id, tmp_path / "again")
    assert tell(tmp_path / "again") == tell(workspace)


def test_collect_by_another_process_is_noticed(store: SnapshotStore, workspace: Path, tmp_path: Path) -> None:
    (workspace / "a").write_bytes(os.urandom(10_000))
    settle()
    store.take(workspace)
    store.take(workspace)
    SnapshotStore(store.directory).collect([], grace=0)
    store.restore(store.take(workspace).id, tmp_path / "copy")
    assert tell(tmp_path / "copy") == tell(workspace)


def test_collect_leaves_what_was_taken_just_now(store: SnapshotStore, workspace: Path) -> None:
    snapshot = store.take(workspace)
    assert store.collect([]).snapshots == 0
    assert store.ids() == [snapshot.id]


def test_collect_beside_takes_loses_nothing(store: SnapshotStore, workspace: Path, tmp_path: Path) -> None:
    end = threading.Event()
    errors: list[Exception] = []

    def collect() -> None:
        while not end.is_set():
            try:
                SnapshotStore(store.directory).collect([])
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        taken = []
        for number in range(60):
            (workspace / f"{number % 7}").write_bytes(os.urandom(5000))
            taken.append(store.take(workspace).id)
    finally:
        end.set()
        thread.join()
    assert errors == []
    for number, snapshot in enumerate(taken):
        store.restore(snapshot, tmp_path / f"copy{number}")


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed", "empty tree"])
def test_damage_is_found_before_anything_changes(
    store: SnapshotStore, workspace: Path, tmp_path: Path, damage: str
) -> None:
    populate(workspace)
    snapshot = store.take(workspace)
    entry = next(each for each in store.entries(snapshot.id) if each.path == "a/b/data.bin")
    digest = entry.content
    if damage == "empty tree":
        digest = next(each.content for each in store.entries(snapshot.id) if each.path == "a")
    path = store.directory / "objects" / digest[:2] / digest[2:]
    if damage == "missing":
        path.unlink()
    elif damage in ("truncated", "empty tree"):
        os.truncate(path, 0)
    else:
        data = bytearray(path.read_bytes())
        data[77] ^= 1
        path.write_bytes(data)
    (workspace / "a/b/data.bin").write_text("mine")
    (workspace / "new").touch()
    before = tell(workspace)
    with pytest.raises(SnapshotCorrupt, match="damaged"):
        store.restore(snapshot.id, workspace)
    assert tell(workspace) == before


def test_a_truncated_object_is_written_again(store: SnapshotStore, workspace: Path, tmp_path: Path) -> None:
    (workspace / "a").write_bytes(b"x" * 5000)
    first = store.take(workspace)
    digest = next(iter(store.entries(first.id))).content
    os.truncate(store.directory / "objects" / digest[:2] / digest[2:], 0)  # as after a loss of power
    (workspace / "b").write_bytes(b"x" * 5000)
    store.restore(store.take(workspace).id, tmp_path / "copy")
    assert (tmp_path / "copy/b").read_bytes() == b"x" * 5000


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", "", "abc"])
def test_unknown_snapshots_are_named(store: SnapshotStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(SnapshotNotFound, match="there is no snapshot"):
        store.restore(name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_store_is_closed_to_others(tmp_path: Path, workspace: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    (tmp_path / "store").chmod(0o755)
    store = SnapshotStore(tmp_path / "store")
    (workspace / "secret").write_text("x")
    (workspace / "secret").chmod(0o666)
    previous = os.umask(0)
    try:
        store.take(workspace)
    finally:
        os.umask(previous)
    for path in (store.directory, *store.directory.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_store_and_workspace_may_not_lie_in_each_other(tmp_path: Path) -> None:
    (tmp_path / "store/inside").mkdir(parents=True)
    store = SnapshotStore(tmp_path / "store")
    for place in (tmp_path, tmp_path / "store", tmp_path / "store/inside"):
        with pytest.raises(SnapshotError, match="lie in each other"):
            store.take(place)


def test_a_workspace_that_is_gone_is_an_error(store: SnapshotStore, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="cannot read the workspace"):
        store.take(tmp_path / "gone")


def test_a_deep_tree_is_cut_off_and_named(store: SnapshotStore, workspace: Path) -> None:
    current = os.open(workspace, os.O_RDONLY)
    for _ in range(500):
        os.mkdir("d", dir_fd=current)
        below = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(current)
    snapshot = store.take(workspace)
    assert [each.reason for each in snapshot.skipped] == ["deeper than 200 directories"]
    store.restore(snapshot.id, workspace)
    assert len(list(store.entries(snapshot.id))) == 200


def test_holes_stay_holes(store: SnapshotStore, workspace: Path, tmp_path: Path) -> None:
    with (workspace / "sparse").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(20 << 20)
        file.write(b"here")
    snapshot = store.take(workspace)
    assert store.size() <= 9 << 20
    store.restore(snapshot.id, tmp_path / "copy")
    assert (tmp_path / "copy/sparse").stat().st_blocks * 512 <= 5 << 20
    assert (tmp_path / "copy/sparse").read_bytes() == (workspace / "sparse").read_bytes()


def test_setuid_bits_are_not_brought_back(store: SnapshotStore, workspace: Path, tmp_path: Path) -> None:
    (workspace / "su").write_text("#!/bin/sh")
    (workspace / "su").chmod(0o6755)
    store.restore(store.take(workspace).id, tmp_path / "copy")
    assert stat.S_IMODE((tmp_path / "copy/su").stat().st_mode) == 0o755


UNREADABLE = """
import ctypes, os, stat, sys
from pathlib import Path
from agentexec.snapshots import SnapshotStore
os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE, as if this user had started it: /proc/self/fd is ours again
base = Path(sys.argv[1])
workspace = base / "workspace"
(workspace / "closed").mkdir(parents=True)
(workspace / "closed/file").write_text("inside")
(workspace / "mute").write_text("mute")
(workspace / "locked").mkdir()
(workspace / "locked/file").write_text("locked")
for name, mode in (("closed", 0), ("mute", 0), ("locked", 0o500)):
    (workspace / name).chmod(mode)
store = SnapshotStore(base / "store")
snapshot = store.take(workspace)
assert snapshot.skipped == (), snapshot.skipped
assert stat.S_IMODE((workspace / "closed").stat().st_mode) == 0
assert stat.S_IMODE((workspace / "mute").stat().st_mode) == 0
other = base / "other"
for target in (workspace, other):
    if target is workspace:
        (workspace / "closed").chmod(0o700)
        (workspace / "closed/more/than").mkdir(parents=True)
        (workspace / "closed/more").chmod(0)
        (workspace / "closed").chmod(0)
    store.restore(snapshot.id, target)
    assert stat.S_IMODE((target / "closed").stat().st_mode) == 0
    assert stat.S_IMODE((target / "locked").stat().st_mode) == 0o500
    assert store.take(target).id == snapshot.id or target is other
    (target / "closed").chmod(0o700); (target / "mute").chmod(0o600)
    assert sorted(os.listdir(target / "closed")) == ["file"], os.listdir(target / "closed")
    assert (target / "mute").read_text() == "mute"
    assert [name for name in os.listdir(target) if name.startswith(".")] == []
    if target is workspace:
        (target / "locked").chmod(0o700)
        (target / "locked/file").unlink()
        (target / "locked").rmdir()
        (target / "locked").write_text("")
        store.restore(snapshot.id, target)
        assert (target / "locked/file").read_text() == "locked"
print("well")
"""


@pytest.mark.skipif(not ROOT, reason="becomes another user")
def test_what_a_block_made_unreadable_is_kept_for_an_ordinary_user() -> None:
    import shutil
    import tempfile

    base = Path(tempfile.mkdtemp(prefix="agentexec-test-"))
    try:
        os.chown(base, 65534, 65534)
        done = subprocess.run([sys.executable, "-c", UNREADABLE, base], capture_output=True, text=True, timeout=50)
        assert (done.stderr, done.stdout.strip()) == ("", "well")
    finally:
        shutil.rmtree(base)


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_root_gives_what_it_restores_to_the_owner_of_the_directory(
    store: SnapshotStore, workspace: Path, tmp_path: Path
) -> None:
    populate(workspace)
    snapshot = store.take(workspace)
    target = tmp_path / "target"
    target.mkdir()
    os.chown(target, 65534, 65534)
    for _ in range(2):
        store.restore(snapshot.id, target)
        assert {path.lstat().st_uid for path in target.rglob("*")} == {65534}


@pytest.fixture(params=["btrfs", "xfs"])
def sharing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system that can share blocks between files."""
    import shutil

    tool = shutil.which(f"mkfs.{request.param}")
    if not ROOT or tool is None:
        pytest.skip(f"needs root and mkfs.{request.param}")
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(512 << 20)
    subprocess.run([tool, "-q", image], check=True, capture_output=True, timeout=30)
    mounted = subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True, text=True, timeout=30)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True, timeout=30)


def used(path: Path) -> int:
    os.sync()
    status = os.statvfs(path)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def test_blocks_are_shared_where_the_file_system_can(sharing: Path) -> None:
    workspace = sharing / "workspace"
    workspace.mkdir()
    (workspace / "data").write_bytes(os.urandom((30 << 20) + 12345))
    before = used(sharing)
    store = SnapshotStore(sharing / "store")
    snapshot = store.take(workspace)
    store.restore(snapshot.id, sharing / "copy")
    assert tell(sharing / "copy") == tell(workspace)
    assert used(sharing) - before < 8 << 20
    # and yet the snapshot does not change when the file does
    with (workspace / "data").open("r+b") as file:
        file.write(b"overwritten")
    assert store.read(snapshot.id, "data") == (sharing / "copy/data").read_bytes()


def test_killed_at_any_moment_leaves_a_store_that_works(tmp_path: Path, workspace: Path) -> None:
    program = (
        "import os, sys\nfrom agentexec.snapshots import SnapshotStore\nstore = SnapshotStore(sys.argv[1])\n"
        "from pathlib import Path\nworkspace = Path(sys.argv[2])\nprint('go', flush=True)\n"
        "for number in range(10**6):\n"
        "    (workspace / f'{number % 20}').write_bytes(os.urandom(200_000))\n"
        "    snapshot = store.take(workspace)\n    print(snapshot.id, flush=True)\n"
        "    if number % 5 == 4: store.collect([snapshot.id], grace=0)\n"
    )
    for round_ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / "store", workspace], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            shown = [process.stdout.readline().strip() for _ in range(3 + round_)]
            process.kill()
        store = SnapshotStore(tmp_path / "store")
        last = shown[-1]
        if last in store.ids():
            store.restore(last, tmp_path / "copy")
        store.restore(store.take(workspace).id, tmp_path / "copy")
        assert tell(tmp_path / "copy") == tell(workspace)
    store.collect([], grace=0)
    assert list((store.directory / "incoming").iterdir()) == []
    assert store.size() == 0


async def test_an_executor_tells_where_its_workspace_is(tmp_path: Path) -> None:
    from sandboxes.fake import FakeExecutor
    from sandboxes.mirror import MirroredExecutor

    assert FakeExecutor().local_workspace is None
    assert MirroredExecutor(FakeExecutor, tmp_path).local_workspace == tmp_path


@pytest.mark.parametrize("spec", ["local", "docker"])
async def test_the_workspace_of_a_sandbox_is_kept_between_its_blocks(store: SnapshotStore, spec: str) -> None:
    from sandboxes import CodeBlock, open_executor
    from tests.sandboxes.backends import DOCKER, require_engine

    require_engine(spec == "local" or DOCKER.installed(), DOCKER.engine)
    async with open_executor(spec) as executor:
        place = executor.local_workspace
        assert place is not None
        await executor.run(CodeBlock("open('a', 'w').write('first')"))
        first = store.take(place)
        await executor.run(CodeBlock("import os; os.remove('a'); os.mkdir('a'); os.chmod('a', 0)"))
        store.restore(first.id, place)
        # the same directory, with files that the block's user may read and write
        result = await executor.run(CodeBlock("print(open('a').read()); open('a', 'a').write('!')"))
        assert (result.verdict, result.stdout) == ("ok", "first\n"), result.stderr


@pytest.mark.skipif(not ROOT, reason="mounts")
def test_a_full_disk_is_said_loses_nothing_and_can_be_cleaned(
    store: SnapshotStore, workspace: Path, tmp_path: Path
) -> None:
    for name in "ab":
        (workspace / name).write_bytes(os.urandom(2_000_000))
    snapshot = store.take(workspace)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], check=True, timeout=30)
    try:
        target = small / "target"
        target.mkdir()
        (target / "mine").write_text("mine")
        with pytest.raises(SnapshotError, match="No space left"):
            store.restore(snapshot.id, target)
        assert tell(target).keys() == {b"mine"}
        full = SnapshotStore(small / "store")
        with pytest.raises(SnapshotStoreFull, match="no space left"):
            full.take(workspace)
        # no object is a part of what it should be
        assert sorted(path.stat().st_size for path in (small / "store/objects").glob("*/*")) == [2_000_000]
        full.collect([], grace=0)
        assert full.size() == 0
        (workspace / "b").unlink()
        full.restore(full.take(workspace).id, tmp_path / "copy")
        assert tell(tmp_path / "copy") == tell(workspace)
    finally:
        subprocess.run(["umount", small], check=True, timeout=30)


# Copies


def test_a_copy_holds_what_is_there_and_no_more(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "below/locked").mkdir(parents=True)
    target.mkdir()
    (source / "below/a").write_bytes(b"x" * 3_000_000)
    os.utime(source / "below/a", (1, 2))
    (source / "below/a").chmod(0o640)
    (source / "link").symlink_to("/etc")
    (source / "below/locked").chmod(0)
    os.mkfifo(source / "pipe")
    copy_workspace(source, target)
    copied = target / "below/a"
    assert copied.read_bytes() == b"x" * 3_000_000
    assert (copied.stat().st_mode & 0o7777, copied.stat().st_mtime) == (0o640, 2)
    assert os.readlink(target / "link") == "/etc"
    assert stat.S_IMODE((target / "below/locked").stat().st_mode) == 0
    assert sorted(os.listdir(target)) == ["below", "link"]


@pytest.mark.parametrize("name", ["directory", "file"])
def test_a_copy_follows_no_link_that_is_put_in_the_way_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, target, secret = tmp_path / "source", tmp_path / "target", tmp_path / "secret"
    for directory in (source / "directory", target, secret):
        directory.mkdir(parents=True)
    (source / "file").write_text("mine")
    (secret / "key").write_text("of the machine")
    opened = scan.opened_directory if name == "directory" else scan.opened_file

    def swap(each: str, parent: int, **options: bool) -> Any:
        if each == name and (source / name).exists() and not (source / name).is_symlink():
            (source / name).rename(source / "away")
            (source / name).symlink_to(secret if name == "directory" else secret / "key")
        return opened(each, parent, **options)

    monkeypatch.setattr(copying, opened.__name__, swap)
    with pytest.raises(OSError, match=r"replaced|Not a directory|Too many levels"):
        copy_workspace(source, target)
    assert not any(path.is_file() and "machine" in path.read_text() for path in target.rglob("*"))
