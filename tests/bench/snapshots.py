"""Snapshots of a workspace of 1 GB, in which one file changes."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from agentexec.snapshots import SnapshotStore
from tests.bench.measure import Row

FILES, SIZE, DIRECTORIES = 4000, 256 << 10, 50


def _fill(workspace: Path) -> None:
    for number in range(FILES):
        directory = workspace / f"d{number % DIRECTORIES}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(SIZE))


def _walk_ms(workspace: Path) -> float:
    """Return the floor: a look at every file's status."""
    began = time.perf_counter()
    for parent, _, names in os.walk(workspace):
        for name in names:
            os.lstat(os.path.join(parent, name))
    return (time.perf_counter() - began) * 1e3


def snapshot_one_change() -> list[Row]:
    """One of 4,000 files of 256 KiB changes between two snapshots."""
    with tempfile.TemporaryDirectory() as scratch:
        workspace, store = Path(scratch, "workspace"), SnapshotStore(Path(scratch, "store"))
        workspace.mkdir()
        _fill(workspace)
        began = time.perf_counter()
        store.take(workspace)
        first = time.perf_counter() - began
        os.sync()  # else the kernel writes 2 GB to the disk meanwhile
        cpu: list[float] = []
        taken, grown, restored, floors = [], [], [], []
        for number in range(9):
            changed = workspace / f"d{number}" / f"f{number}"
            changed.write_bytes(os.urandom(SIZE))
            floors.append(_walk_ms(workspace))
            before = store.size()
            began, used = time.perf_counter(), time.process_time()
            snapshot = store.take(workspace)
            cpu.append((time.process_time() - used) * 1e3)
            taken.append((time.perf_counter() - began) * 1e3)
            grown.append((store.size() - before) / SIZE)
            changed.write_bytes(b"")
            began = time.perf_counter()
            store.restore(snapshot.id, workspace)
            restored.append((time.perf_counter() - began) * 1e3)
        fresh = SnapshotStore(Path(scratch, "store"))  # as in a process that resumes the run
        (workspace / "d0" / "f0").write_bytes(os.urandom(SIZE))
        began = time.perf_counter()
        fresh.take(workspace)
        resumed = (time.perf_counter() - began) * 1e3
    return [
        Row("snapshot, 1 GB, one file changed", statistics.median(taken), "ms", statistics.median(floors), most=300),
        Row("  CPU time of it", statistics.median(cpu), "ms"),
        Row("  the same, first in a process", resumed, "ms", most=300),
        Row("  growth on disk over the change's size", statistics.median(grown), "x", most=1.2),
        Row("  restore of it, one file differs", statistics.median(restored), "ms"),
        Row("  the first snapshot", first, "s"),
    ]


MEASURES = (snapshot_one_change,)
