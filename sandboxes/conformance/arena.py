"""Opens executors, runs blocks in them, and checks afterwards what has to hold after every one."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import secrets
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sandboxes.conformance.backend import Backend
from sandboxes.conformance.canaries import Canaries, changed_since, open_descriptors, own_memory, own_threads, tagged
from sandboxes.errors import UnsafePath
from sandboxes.executor import Executor
from sandboxes.types import CodeBlock, Limits, OnOutput, Result

WALL = 20.0
"""Default `wall_time`: never reached by a case that is not about time, on any machine."""


class Arena:
    """A backend, a workspace, and canaries around them.

    Attributes:
        backend: What is tested.
        claims: What it says is enforced.
        workspace: A directory on this machine for it to work in.
        canaries: What blocks must not reach. Python blocks find it described in `HOST`.
        tag: A word that no other process on this machine has in its arguments.
        soon: Seconds within which whatever does not wait for a block must be done.
        growth: Bytes by which this process may have grown once an executor is closed: allocators do not give
            everything back.
    """

    growth = 16 << 20

    def __init__(self, backend: Backend, directory: Path, claims: frozenset[str]) -> None:
        self.backend = backend
        self.claims = claims
        self.workspace = directory / "workspace"
        self.workspace.mkdir(mode=0o755)
        outside = directory / "outside"
        outside.mkdir()
        self.canaries = Canaries(outside)
        self.tag = f"tag-{secrets.token_hex(8)}"
        self.soon = 3.0 + backend.grace

    def needs(self, *aspects: str) -> None:
        """Skip the test if something is not claimed that it is about."""
        for aspect in aspects:
            if aspect not in self.claims:
                pytest.skip(f"{aspect} is not claimed to be enforced")

    def program(self, name: str, *, filename: str | None = None) -> CodeBlock:
        """Return one of the contract's programs; skips the test where the language cannot say it."""
        code = getattr(self.backend.programs, name)
        if code is None:
            pytest.skip(f"there is no program {name!r} in this language")
        return CodeBlock(code, language=self.backend.programs.language, filename=filename)

    def python(self, code: str, *, filename: str | None = None) -> CodeBlock:
        """Return a Python block, dedented, with `HOST` set; skips the test where Python does not run."""
        if self.backend.programs.language != "python":
            pytest.skip("Python does not run in it")
        host = {
            "secret_file": str(self.canaries.file),
            "port": self.canaries.port,
            "abstract": self.canaries.abstract,
            "path": str(self.canaries.path),
            "tag": self.tag,
            "pid": os.getpid(),
        }
        return CodeBlock(f"HOST = {host!r}\n{textwrap.dedent(code)}", filename=filename)

    def make(self, *aspects: str, throwaway: bool = False, **limits: Any) -> Executor:
        """Return an executor that is not started, with limits that are all claimed to be enforced."""
        self.needs(*aspects, *limits)
        workspace = None if throwaway or not self.backend.host_workspace else self.workspace
        return self.backend.open(Limits(**limits), workspace)

    @contextlib.asynccontextmanager
    async def open(self, *aspects: str, **limits: Any) -> AsyncIterator[Executor]:
        """Open an executor; when it is closed, check that nothing of it is left in this process and around it."""
        if "wall_time" in self.claims:
            limits.setdefault("wall_time", WALL)
        memory, threads, descriptors = own_memory(), own_threads(), open_descriptors()
        async with self.make(*aspects, **limits) as executor:
            yield executor
            self.assert_clean_outside(executor)
        assert not tagged(self.tag), "a process of a block has survived the close"
        changed = await changed_since(descriptors)
        assert changed == set(), changed
        assert own_threads() <= threads
        grown = own_memory() - memory
        assert grown < self.growth, f"this process has grown by {grown >> 20} MiB"

    def assert_clean_outside(self, executor: Executor) -> None:
        """Fail if anything around the workspace was touched, or if a process with our tag is left."""
        self.canaries.assert_untouched()
        # What a cell has started lives on to the next: that is what state means.
        assert executor.keeps_state or not tagged(self.tag), "a process of the block has survived it"

    async def assert_usable(self, executor: Executor) -> None:
        """Fail if the next block does not work; where Python runs, also if it is not alone."""
        if self.backend.programs.language != "python":
            result = await executor.run(self.backend.hello)
            assert (result.verdict, result.stdout) == ("ok", "hello\n"), result
            return
        result = await executor.run(CodeBlock(_NEXT.format(tag=self.tag)))
        assert (result.verdict, result.stdout[:5]) == ("ok", "next "), result
        await self.assert_alone(executor, *ast.literal_eval(result.stdout[5:]))

    async def assert_alone(self, executor: Executor, left: list[int], others: list[int]) -> None:
        """Fail if processes of earlier blocks are left inside.

        Args:
            executor: Whose block has looked around.
            left: Ids of the processes it has seen with our tag in their arguments.
            others: Ids of the first few processes it has seen besides its own, in order.
        """
        assert executor.keeps_state or not left, f"processes are left: {left}"

    async def assert_unsafe(self, executor: Executor, path: str) -> None:
        """Fail if a path can be read, written, or run from."""
        hello = self.backend.hello
        for call in (
            lambda: executor.get(path),
            lambda: executor.put(path, b"new"),
            lambda: executor.run(CodeBlock(hello.code, language=hello.language, filename=path)),
        ):
            with pytest.raises(UnsafePath):
                await asyncio.wait_for(call(), self.soon)

    async def run(
        self, executor: Executor, code: str | CodeBlock, *, verdict: str = "ok", on_output: OnOutput | None = None
    ) -> Result:
        """Run a hostile block, Python if it is only code; check what came of it; run a harmless one."""
        block = self.python(code) if isinstance(code, str) else code
        started = time.monotonic()
        result = await executor.run(block, on_output=on_output)
        took = time.monotonic() - started
        assert took < executor.limits.wall_time + self.backend.grace, f"took {took:.2f} s"
        words = (result.verdict, result.message, result.stdout[-500:], result.stderr[-1500:])
        assert result.verdict == verdict, words
        assert self.canaries.secret not in result.stdout + result.stderr
        self.assert_clean_outside(executor)
        await self.assert_usable(executor)
        return result

    async def attack(
        self,
        code: str | CodeBlock,
        *aspects: str,
        verdict: str = "ok",
        on_output: OnOutput | None = None,
        **limits: Any,
    ) -> Result:
        """Open an executor, run one hostile block in it, and check everything."""
        block = self.python(code) if isinstance(code, str) else code
        async with self.open(*aspects, **limits) as executor:
            return await self.run(executor, block, verdict=verdict, on_output=on_output)

    async def begin(self, executor: Executor, block: CodeBlock) -> asyncio.Task[Result]:
        """Start a block, and return once it has printed something."""
        printed = asyncio.Event()
        task = asyncio.create_task(executor.run(block, on_output=lambda *_: printed.set()))
        waiting = asyncio.create_task(printed.wait())
        await asyncio.wait({task, waiting}, timeout=10 + self.backend.grace, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not printed.is_set():
            task.cancel()
            await asyncio.wait({task})
            pytest.fail(f"on_output is not called while a block runs: {task}")
        return task


_NEXT = """
import os
left, others = [], []
for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
    if name.isdigit() and int(name) != os.getpid():
        others.append(int(name))
        try:
            with open("/proc/" + name + "/cmdline", "rb") as file:
                if b"{tag}" in file.read(): left.append(int(name))
        except OSError:
            pass
print("next", (left, sorted(others)[:5]))
"""
