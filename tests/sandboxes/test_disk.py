"""The runner's meter of the workspace by itself; what it is for is in `hostile/test_memory_and_disk.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes.runner.disk import DiskMeter

LIMIT = 16 << 20


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "workspace"
    directory.mkdir()
    return directory


@pytest.fixture
def neighbour(tmp_path: Path) -> Path:
    file = tmp_path / "neighbour"
    file.write_bytes(b"x" * (100 << 20))
    return file


@pytest.fixture
def root(workspace: Path) -> Iterator[int]:
    descriptor = os.open(workspace, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("there", [0, 40 << 20], ids=["empty", "over its limit"])
def test_space_that_others_free_hides_nothing(workspace: Path, neighbour: Path, root: int, there: int) -> None:
    (workspace / "there").write_bytes(b"x" * there)
    meter = DiskMeter(root)
    meter.begin()
    assert meter.check(LIMIT, {}) is None
    (workspace / "new").write_bytes(b"x" * (24 << 20))
    neighbour.unlink()
    meter.forget()  # which a host's file does, and then the meter counts anew
    meter.begin()
    assert meter.check(LIMIT, {}) is None, "what is there by now was tolerated"
    (workspace / "more").write_bytes(b"x" * (24 << 20))
    meter.settle(1.0, LIMIT)
    breach = meter.check(LIMIT, {})
    assert breach is not None
    assert breach[0] == "disk"


def test_the_first_block_is_held_too(workspace: Path, neighbour: Path, root: int) -> None:
    meter = DiskMeter(root)
    meter.begin()
    (workspace / "new").write_bytes(b"x" * (24 << 20))
    neighbour.unlink()
    meter.settle(1.0, LIMIT)
    assert meter.check(LIMIT, {}) == ("disk", "the workspace holds 24 MiB; the limit is 16 MiB")
