"""One fixture yields each backend, so that a behaviour is written once and tested everywhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.sandboxes.backends import BACKENDS, Backend, containers, descendants, require_engine


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend; skips, or fails in CI, where its engine is missing."""
    chosen: Backend = request.param
    require_engine(chosen.installed(), chosen.engine)
    return chosen


@pytest.fixture
def nothing_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does: no process, descriptor, directory or thread of a sandbox outlives it."""
    temporary = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = descendants(), len(os.listdir("/proc/self/fd"))
    yield
    end = time.monotonic() + 2
    while descendants() - before[0] and time.monotonic() < end:
        time.sleep(0.01)
    assert descendants() - before[0] == set()
    assert containers() == []
    assert list(temporary.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) <= before[1] + 4  # the event loop's own
