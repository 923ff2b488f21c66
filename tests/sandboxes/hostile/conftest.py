"""The arena of the hostile suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes.runner.files import remove_tree
from tests.sandboxes.backends import Backend
from tests.sandboxes.hostile.arena import Arena
from tests.sandboxes.hostile.exceptions import reason


@pytest.fixture
def arena(request: pytest.FixtureRequest, backend: Backend, tmp_path: Path) -> Iterator[Arena]:
    why = reason(backend.name, request.node.name)
    if why is not None:
        request.applymarker(pytest.mark.xfail(reason=why, strict=True))
    opened = Arena(backend, tmp_path)
    yield opened
    opened.canaries.close()
    remove_tree(str(opened.workspace))
