"""Many blocks with mixed verdicts, in short: `python -m tests.soak` runs as many as one likes."""

from __future__ import annotations

import pytest

from tests.sandboxes.backends import Backend
from tests.soak import soak


@pytest.mark.matrix
@pytest.mark.timeout(120)
async def test_nothing_grows_with_the_number_of_blocks(backend: Backend) -> None:
    findings = await soak(backend.spec, 200, **backend.options)
    assert findings.problems() == []
    assert {"ok", "failed", "disk", "timeout", "cpu_time", "memory", "cancelled"} <= set(findings.verdicts)
