"""The arena of the hostile suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes.runner.files import remove_tree
from tests.sandboxes.backends import BACKENDS, JUPYTER, Backend, require_engine
from tests.sandboxes.hostile.arena import Arena
from tests.sandboxes.hostile.exceptions import NOT_ON_KERNELS, reason


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each body on each backend, and on a kernel in the local sandbox where its module is for kernels."""
    if "backend" in metafunc.fixturenames:
        kernels = [] if metafunc.module.__name__.rpartition(".")[2] in NOT_ON_KERNELS else [JUPYTER]
        metafunc.parametrize("backend", [*BACKENDS, *kernels], ids=lambda each: each.name, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend; skips, or fails in CI, where its engine is missing."""
    chosen: Backend = request.param
    require_engine(chosen.installed(), chosen.engine)
    return chosen


@pytest.fixture
def arena(request: pytest.FixtureRequest, backend: Backend, tmp_path: Path) -> Iterator[Arena]:
    why = reason(backend.name, request.node.name)
    if why is not None and backend.keeps_state:
        pytest.skip(why)
    if why is not None:
        request.applymarker(pytest.mark.xfail(reason=why, strict=True))
    opened = Arena(backend, tmp_path)
    yield opened
    opened.canaries.close()
    remove_tree(str(opened.workspace))
