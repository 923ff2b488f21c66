"""All methods of an executor at once, at random moments, in short: `python -m tests.lifecycle` goes on for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import lifecycle
from tests.sandboxes.backends import BACKENDS, KERNELS, Backend, require_engine


@pytest.mark.parametrize("backend", [*BACKENDS, *KERNELS], ids=lambda backend: backend.name)
@pytest.mark.timeout(180)
async def test_nothing_hangs_and_nothing_is_left(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_engine(backend.installed(), backend.engine)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told, wrong = await lifecycle.lifecycle(backend, 10, 1, tmp_path)
    assert wrong == []
    assert told["run"]
    assert any(call.endswith(" cancelled") for call in told)
