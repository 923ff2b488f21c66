"""Runs a hostile block, and checks afterwards what has to hold after every one of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sandboxes import CodeBlock, Executor, Limits, OnOutput, Result
from sandboxes.conformance.canaries import (
    Canaries,
    changed_since,
    open_descriptors,
    own_memory,
    own_threads,
    tagged,
)
from sandboxes.docker.workspace import NOBODY
from sandboxes.jupyter.executor import INTERRUPTS
from sandboxes.runner import BOOTSTRAP
from tests.sandboxes.backends import Backend

GRACE = 2.0
"""Seconds after `wall_time` within which a call must have returned; a cell has those of its interrupt besides."""
KERNEL = 80 << 20
"""Bytes that a kernel takes for itself, of what its cells may use."""
GROWTH = 24 << 20
"""Bytes by which this process may have grown after a case: an allocator does not give everything back."""
WALL = 10.0
"""Default `wall_time`: never reached by a case that is not about time, on any machine."""
PROBE = "import os; print('next', sorted(int(name) for name in os.listdir('/proc') if name.isdigit()), os.getpid())"


class Arena:
    """A backend, a workspace, and canaries around them.

    Attributes:
        workspace: The directory on this machine.
        canaries: What blocks must not reach. Python blocks find it described in `HOST`.
    """

    def __init__(self, backend: Backend, directory: Path) -> None:
        self.backend = backend
        self.workspace = directory / "workspace"
        self.workspace.mkdir(mode=0o755)
        if backend.container and os.geteuid() == 0:  # so that blocks are not root either
            os.chown(self.workspace, NOBODY, NOBODY)
        outside = directory / "outside"
        outside.mkdir()
        self.canaries = Canaries(outside)
        self._outside: set[int] = set()
        self.tag = f"tag-{secrets.token_hex(8)}"

    def source(self, code: str) -> str:
        """Return a Python block, dedented, with `HOST` set."""
        host = {
            "secret_file": str(self.canaries.file),
            "port": self.canaries.port,
            "abstract": self.canaries.abstract,
            "path": str(self.canaries.path),
            "tag": self.tag,
            "pid": os.getpid(),
        }
        return f"HOST = {host!r}\n{textwrap.dedent(code)}"

    @contextlib.asynccontextmanager
    async def executor(self, **limits: Any) -> AsyncIterator[Executor]:
        """Open an executor; when it is closed, check that nothing of it is left."""
        memory = own_memory()
        descriptors = open_descriptors()
        threads = own_threads()
        processes = self._outside = self.backend.processes()
        async with self.backend.open(Limits(**{"wall_time": WALL, **limits}), workspace=self.workspace) as executor:
            yield executor
            self.assert_clean_outside()
        assert not tagged(self.tag), "a process of a block has survived the close"
        left = self.backend.processes() - processes
        assert not left, f"processes are left after close: {sorted(left)}"
        changed = await changed_since(descriptors)
        assert changed == set(), changed
        assert own_threads() <= threads
        grown = own_memory() - memory
        assert grown < GROWTH, f"this process has grown by {grown >> 20} MiB"

    def assert_clean_outside(self) -> None:
        self.canaries.assert_untouched()
        # What a cell has started lives on to the next: that is what state means.
        assert self.backend.keeps_state or not tagged(self.tag), "a process of the block has survived it"

    async def run(
        self,
        executor: Executor,
        code: str,
        *,
        verdict: str = "ok",
        language: str = "python",
        on_output: OnOutput | None = None,
        filename: str | None = None,
    ) -> Result:
        """Run a hostile block, and a harmless one after it."""
        source = self.source(code) if language == "python" else textwrap.dedent(code)
        started = time.monotonic()
        result = await executor.run(CodeBlock(source, language=language, filename=filename), on_output=on_output)
        took = time.monotonic() - started
        grace = GRACE + (sum(INTERRUPTS) if self.backend.keeps_state else 0)
        assert took < executor.limits.wall_time + grace, f"took {took:.2f} s"
        assert result.verdict == verdict, (
            result.verdict,
            result.message,
            result.stdout[-500:],
            result.stderr[-1500:],
        )
        assert self.canaries.secret not in result.stdout + result.stderr
        self.assert_clean_outside()
        await self.assert_usable(executor)
        return result

    async def assert_usable(self, executor: Executor) -> None:
        after = await executor.run(CodeBlock(PROBE))
        assert after.verdict == "ok", (after.message, after.stderr)
        word, _, rest = after.stdout.strip().partition(" ")
        pids, _, own = rest.rpartition(" ")
        assert word == "next"
        if not self.backend.namespaces:
            await self._assert_alone()
            return
        if self.backend.keeps_state:  # what a cell has started lives on to the next
            return
        assert pids == str(sorted([1, int(own)])), f"other processes are inside: {after.stdout}"

    async def _assert_alone(self) -> None:
        """Check that there is nothing but runners and their next workers, once the kernel is done with the last."""
        end = time.monotonic() + 1
        while left := [pid for pid in self.backend.processes() - self._outside if not _is_ours(pid)]:
            assert time.monotonic() < end, f"other processes are there: {left}"
            await asyncio.sleep(0.01)

    async def attack(
        self,
        code: str,
        *,
        verdict: str = "ok",
        language: str = "python",
        on_output: OnOutput | None = None,
        **limits: Any,
    ) -> Result:
        """Open an executor, run one hostile block in it, and check everything."""
        async with self.executor(**limits) as executor:
            return await self.run(executor, code, verdict=verdict, language=language, on_output=on_output)


def _is_ours(pid: int) -> bool:
    """Whether a process is a runner or a worker that waits, both of which have the bootstrap's command line."""
    try:
        return BOOTSTRAP[:20].encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
