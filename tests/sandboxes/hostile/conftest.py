"""The arena of the hostile suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes.runner.files import remove_tree
from tests.sandboxes.backends import BACKENDS, KERNELS, Backend, require_engine
from tests.sandboxes.hostile.arena import Arena
from tests.sandboxes.hostile.exceptions import NOT_ON_KERNELS, NOT_ON_KERNELS_IN_CONTAINERS, reason


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each body on each backend, and on the kernels that its module is for."""
    # A module with a `backend` of its own is about that one.
    if "backend" in metafunc.fixturenames and not hasattr(metafunc.module, "backend"):
        module = metafunc.module.__name__.rpartition(".")[2]
        left_out = module in NOT_ON_KERNELS, module in NOT_ON_KERNELS or module in NOT_ON_KERNELS_IN_CONTAINERS
        kernels = [kernel for kernel in KERNELS if not left_out[kernel.container]]
        rows = [*BACKENDS, *kernels]
        metafunc.parametrize("backend", rows, ids=[each.name for each in rows], indirect=True)


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
