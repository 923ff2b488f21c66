"""Executors for programs without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from sandboxes.errors import SandboxClosedError
from sandboxes.executor import DEFAULT_GET_BYTES, Executor
from sandboxes.interrupts import Interrupts
from sandboxes.registry import open_executor
from sandboxes.types import CodeBlock, Isolation, Limits, OnOutput, Result

P = ParamSpec("P")
T = TypeVar("T")


class SyncExecutor:
    """An executor of which each call waits for its end: for scripts, tests and the interactive interpreter.

        with open_executor_sync("local") as executor:
            print(executor.run(CodeBlock("print(1)")).stdout)

    A context manager; every call raises what that of `Executor` raises. Ctrl-C ends the block that runs, raises
    `KeyboardInterrupt` once it is dead, and leaves the executor usable. Calls of several threads are queued. In an
    event loop (a notebook has one, too) it is `async with open_executor(...)` instead.

    Args:
        executor: The one to be driven, not started yet; of any kind.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._runner: asyncio.Runner | None = None
        self._lock = threading.Lock()

    @property
    def limits(self) -> Limits:
        """The limits every block runs under."""
        return self._executor.limits

    @property
    def isolation(self) -> Isolation:
        """What enforces them here."""
        return self._executor.isolation

    @property
    def local_workspace(self) -> Path | None:
        """The directory of this machine that holds the workspace; None where there is none, or none yet."""
        return self._executor.local_workspace

    def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        """Run one block; see `Executor.run`."""
        return self._wait(self._executor.run, block, on_output=on_output)

    def put(self, path: str, data: bytes) -> None:
        """Write a file into the workspace; see `Executor.put`."""
        self._wait(self._executor.put, path, data)

    def get(self, path: str, *, max_bytes: int = DEFAULT_GET_BYTES) -> bytes:
        """Read a file of the workspace; see `Executor.get`."""
        return self._wait(self._executor.get, path, max_bytes=max_bytes)

    def reset(self) -> None:
        """Empty the workspace and forget all state; see `Executor.reset`."""
        self._wait(self._executor.reset)

    def restart(self) -> None:
        """Replace the sandbox by a fresh one with the same workspace; see `Executor.restart`."""
        self._wait(self._executor.restart)

    def _wait(self, call: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        _refuse_in_a_loop()
        with self._lock:
            if self._runner is None:
                raise SandboxClosedError("the executor is not open; use it inside 'with'")
            with Interrupts() as interrupts:
                return interrupts.wait(self._runner, call(*args, **kwargs))

    def __enter__(self) -> Self:
        _refuse_in_a_loop()
        with self._lock:
            if self._runner is not None:
                raise RuntimeError("the executor is open already; one 'with' is enough")
            with Interrupts() as interrupts:
                runner = asyncio.Runner()
                try:
                    interrupts.wait(runner, self._executor.start())
                    if interrupts.count:  # too late to stop it, and nobody will close what was not entered
                        runner.run(self._executor.close())
                except BaseException:
                    runner.close()
                    raise
                if interrupts.count:
                    runner.close()
                else:
                    self._runner = runner
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with Interrupts() as interrupts, self._lock:
            runner, self._runner = self._runner, None
            if runner is not None:
                with runner:
                    interrupts.wait(runner, self._executor.close())


def _refuse_in_a_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("an event loop is running here: write 'async with open_executor(...)' and 'await'")


def open_executor_sync(
    spec: str = "local",
    *,
    limits: Limits | None = None,
    workspace: str | Path | None = None,
    **options: Any,
) -> SyncExecutor:
    """Make the executor that a spec string names, to be entered with `with`; takes what `open_executor` takes."""
    return SyncExecutor(open_executor(spec, limits=limits, workspace=workspace, **options))
