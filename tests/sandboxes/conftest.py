"""One fixture yields each backend, so that a behaviour is written once and tested everywhere."""

from __future__ import annotations

import pytest

from tests.sandboxes.backends import BACKENDS, Backend, require_engine


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend; skips, or fails in CI, where its engine is missing."""
    chosen: Backend = request.param
    require_engine(chosen.installed(), chosen.engine)
    return chosen
