"""The kit's arena, and what only somebody who knows our backends can check besides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sandboxes import Executor, Limits, conformance
from sandboxes.docker.workspace import NOBODY
from sandboxes.jupyter.executor import INTERRUPTS
from sandboxes.runner import BOOTSTRAP
from tests.sandboxes.backends import Backend

GRACE = 2.0 if "PYTEST_XDIST_WORKER" not in os.environ else 6.0
"""Seconds after `wall_time` within which a call must have returned; a cell has those of its interrupt besides.

Beside other tests it takes longer: they have the processor at times, for seconds where they fill memory or disk.
"""
KERNEL = 80 << 20
"""Bytes that a kernel takes for itself, of what its cells may use."""
ALL = frozenset(Limits.model_fields) | {"filesystem", "system calls", "kill"}
"""All that an executor can claim, as each of our isolated ones does."""


class Arena(conformance.Arena):
    """A backend of ours, a workspace, and canaries around them.

    Attributes:
        row: What is known of the backend.
    """

    growth = 24 << 20

    def __init__(
        self, row: Backend, directory: Path, backend: conformance.Backend | None = None, claims: frozenset[str] = ALL
    ) -> None:
        super().__init__(backend or row.for_kit(grace=GRACE + sum(INTERRUPTS) * row.keeps_state), directory, claims)
        self.row = row
        if row.container and os.geteuid() == 0:  # so that blocks are not root either
            os.chown(self.workspace, NOBODY, NOBODY)
        self._outside: set[int] = set()

    @contextlib.asynccontextmanager
    async def open(self, *aspects: str, **limits: Any) -> AsyncIterator[Executor]:
        """Open an executor; when it is closed, check also that none of its processes is left, whatever they are."""
        before = self._outside = self.row.processes()
        async with super().open(*aspects, **limits) as executor:
            yield executor
        left = self.row.processes() - before
        assert not left, f"processes are left after close: {sorted(left)}"

    async def assert_alone(self, executor: Executor, left: list[int], others: list[int]) -> None:
        """Fail if there is anything inside besides the block and the runner, whatever it is."""
        await super().assert_alone(executor, left, others)
        if not self.row.namespaces:
            await self._assert_alone_outside()
        elif not executor.keeps_state:  # what a cell has started lives on to the next
            assert others == [1], f"other processes are inside: {others}"

    async def _assert_alone_outside(self) -> None:
        """Check that there is nothing but runners and their next workers, once the kernel is done with the last."""
        end = time.monotonic() + 1
        while left := [pid for pid in self.row.processes() - self._outside if not _is_ours(pid)]:
            assert time.monotonic() < end, f"other processes are there: {left}"
            await asyncio.sleep(0.01)


def _is_ours(pid: int) -> bool:
    """Whether a process is a runner or a worker that waits, both of which have the bootstrap's command line."""
    try:
        return BOOTSTRAP[:20].encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
