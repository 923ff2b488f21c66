"""Executors that break one rule of the contract each, and the test of the kit that has to notice.

`test_conformance_kit.py` runs them; pytest does not collect this module by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sandboxes import CodeBlock, Isolation, Limits, OnOutput, Result, ScriptExecutor
from sandboxes.conformance import PYTHON, Backend, ConformanceTests

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from custom_backend import PlainSandbox
from in_memory_backend import CalculatorExecutor
from test_custom_backends import CALC


class Sound(CalculatorExecutor):
    """Breaks nothing; its files are kept where subclasses reach them."""

    async def raw(self, block: CodeBlock, on_output: OnOutput | None = None) -> Result:
        return await CalculatorExecutor.run(self, block, on_output=on_output)


class SaysOk(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        result = await self.raw(block, on_output)
        return result.model_copy(update={"verdict": "ok"}) if result.verdict == "failed" else result


class LosesOutput(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        result = await self.raw(block, on_output)
        empty = {"stdout": "", "stdout_bytes": 0}
        return result.model_copy(update=empty) if result.verdict in ("timeout", "cancelled") else result


class IgnoresWallTime(Sound):
    def __init__(self, limits: Limits, workspace: Path | None) -> None:
        super().__init__(limits.model_copy(update={"wall_time": 4.0}), workspace)


class Escapes(Sound):
    async def put(self, path: str, data: bytes) -> None:
        if "/.." not in path and ".." not in path:
            await super().put(path, data)


class CancelBreaks(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        try:
            return await self.raw(block, on_output)
        except asyncio.CancelledError:
            await self.close()
            raise


class CancelIsFailed(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        result = await self.raw(block, on_output)
        return result.model_copy(update={"verdict": "failed"}) if result.verdict == "cancelled" else result


class ForgetsListener(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        return await self.raw(block)


class TellsAtTheEnd(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        result = await self.raw(block)
        if on_output is not None and result.stdout:
            on_output("stdout", result.stdout.encode())
        return result


class SwallowsListenersErrors(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        def quiet(*piece: Any) -> None:
            with contextlib.suppress(Exception):
                if on_output is not None:
                    on_output(*piece)

        return await self.raw(block, quiet)


class KeepsEverything(Sound):
    def _keep(self, data: bytes) -> str:
        return data.decode()


class WorksWhenClosed(Sound):
    def _check_open(self) -> None:
        pass


class DoesNotQueue(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        self._lock = asyncio.Lock()
        return await self.raw(block, on_output)


class ForgetsFilesAtRestart(Sound):
    async def restart(self) -> None:
        await super().restart()
        self._files.clear()


class ListsNoFiles(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        return (await self.raw(block, on_output)).model_copy(update={"files": ()})


class InventsFiles(Sound):
    async def get(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        return self._files.get(path) or b""


class RunsAnyLanguage(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        return await self.raw(CodeBlock(block.code, "calc", block.filename), on_output)


class AcceptsAnyLimit(Sound):
    async def start(self) -> None:
        self._open = True


class LeaksDescriptors(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        os.dup(0)
        return await self.raw(block, on_output)


class LeaksThreads(Sound):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return await self.raw(block, on_output)


class LeaksMemory(Sound):
    held: ClassVar[list[bytes]] = []

    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        self.held.append(os.urandom(20 << 20))
        return await self.raw(block, on_output)


class Claiming(PlainSandbox):
    """No protection at all, and claims to have it."""

    def isolation(self, limits: Limits) -> Isolation:
        return Isolation(tier="plain", mechanisms=dict.fromkeys(("filesystem", "system calls", "kill"), "a promise"))


class Boasts(ScriptExecutor):
    def __init__(self, limits: Limits, workspace: Path | None) -> None:
        super().__init__(Claiming(), limits)


class LeavesProcesses(Boasts):
    """Each block with a tag leaves a process with that tag on this machine, for some seconds."""

    left: ClassVar[list[subprocess.Popen[bytes]]] = []

    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        result = await super().run(block, on_output=on_output)
        if found := re.search(r"tag-[0-9a-f]+", block.code):
            self.left.append(subprocess.Popen(["sh", "-c", f"sleep 3; : {found[0]}"], start_new_session=True))
        return result


class PassesEnvironmentOn(Boasts):
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        code = f"import os; os.environ.update({dict(os.environ)!r})\n{block.code}"
        return await super().run(CodeBlock(code, block.language, block.filename), on_output=on_output)


RULES: Mapping[Callable[..., Any], str] = {
    SaysOk: "test_failed",
    LosesOutput: "test_timeout_keeps_partial_output",
    IgnoresWallTime: "test_timeout_keeps_partial_output",
    Escapes: "test_an_unsafe_path_is_refused_before_anything_is_written",
    CancelBreaks: "test_cancelling_the_task_kills_the_block_and_keeps_the_executor[running]",
    CancelIsFailed: "test_cancel_ends_the_block_with_its_own_verdict",
    ForgetsListener: "test_output_is_passed_on_while_the_block_runs",
    TellsAtTheEnd: "test_output_is_passed_on_while_the_block_runs",
    SwallowsListenersErrors: "test_an_exception_of_the_callback_kills_the_block_and_is_passed_on",
    KeepsEverything: "test_output_beyond_the_limit_is_kept_as_head_and_tail",
    WorksWhenClosed: "test_an_executor_works_only_while_it_is_open",
    DoesNotQueue: "test_blocks_at_the_same_time_are_queued",
    ForgetsFilesAtRestart: "test_restart_gives_fresh_state_and_the_same_workspace",
    ListsNoFiles: "test_what_a_block_writes_is_listed_and_can_be_read",
    InventsFiles: "test_a_missing_file_is_not_found",
    RunsAnyLanguage: "test_an_unknown_language_is_refused",
    AcceptsAnyLimit: "test_an_explicit_limit_that_nothing_enforces_is_refused",
    LeaksDescriptors: "test_ok",
    LeaksThreads: "test_ok",
    LeaksMemory: "test_ok",
    Boasts: "test_files_of_the_host_are_not_there",
    LeavesProcesses: "test_what_is_left_running_dies_with_its_block[child]",
    PassesEnvironmentOn: "test_environment_holds_nothing_of_the_host",
}
"""A broken executor, and the test that must fail on it and pass on a sound one."""


def tests_of(kind: Callable[..., Any]) -> type[ConformanceTests]:
    """Return the kit's tests for an executor."""
    programs = PYTHON if isinstance(kind, type) and issubclass(kind, ScriptExecutor) else CALC

    def backend(self: object) -> Backend:
        return Backend(kind, programs=programs, host_workspace=False, patience=8)

    return type(f"Test{kind.__name__}", (ConformanceTests,), {"backend": pytest.fixture(backend)})


globals().update({f"Test{kind.__name__}": tests_of(kind) for kind in RULES})
