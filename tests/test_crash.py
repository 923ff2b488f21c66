"""Crash-only, in short: `python -m tests.crash` kills as many owners as one likes."""

from __future__ import annotations

import pytest

from tests.crash import backends, crash
from tests.sandboxes.backends import DOCKER, LOCAL, require_engine

SEED = 20_260


@pytest.mark.timeout(240)
async def test_nothing_is_left_of_owners_that_are_killed_at_random_moments() -> None:
    require_engine(LOCAL.installed(), LOCAL.engine)
    require_engine(DOCKER.installed(), DOCKER.engine)
    names = await backends()
    findings = await crash(2 * len(names), SEED, names)
    assert findings.left == []
    assert sum(findings.kills.values()) >= len(names)
    assert findings.inside > 0
