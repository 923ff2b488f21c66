"""The arena of the hostile suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes.runner.files import remove_tree
from tests.sandboxes.backends import Backend
from tests.sandboxes.hostile.arena import Arena


@pytest.fixture
def arena(backend: Backend, tmp_path: Path) -> Iterator[Arena]:
    opened = Arena(backend, tmp_path)
    yield opened
    opened.canaries.close()
    remove_tree(str(opened.workspace))
