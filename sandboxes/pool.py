"""A pool of warm executors, so that nobody waits for a start.

async with Pool("docker", 4, limits=Limits(memory="512M")) as pool:
    async with pool.take() as executor:
        result = await executor.run(CodeBlock("print(1)"))
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

from sandboxes.errors import PoolTimeout, SandboxClosedError, SandboxError
from sandboxes.executor import Executor
from sandboxes.registry import open_executor
from sandboxes.types import Limits
from sandboxes.waiting import Once, uninterrupted


class Pool:
    """Keeps executors started ahead, each with a workspace of its own that is thrown away.

    Every executor is asked whether it is alive before it is handed out, and replaced if it is not. One that comes
    back is closed and replaced by a new one in the background; with `reuse`, it is emptied and kept.

    Args:
        spec: What to open, as for `open_executor`.
        size: How many executors there are at any time, those in use included.
        reuse: Keep an executor when it comes back, with an empty workspace and nothing running in it. Faster, and
            right among blocks that may know of each other; a new sandbox is the stronger separation.
        limits: What each block may use.
        options: Passed to the backend.

    Raises:
        ValueError: the size is not positive, or a workspace was given.
    """

    def __init__(
        self,
        spec: str = "local",
        size: int = 2,
        *,
        reuse: bool = False,
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        if size < 1:
            raise ValueError(f"size={size}: a pool holds at least one executor")
        if "workspace" in options:
            raise ValueError("workspace: each executor of a pool has one of its own")
        self._spec = spec
        self._size = size
        self._reuse = reuse
        self._limits = limits
        self._options = options
        self._ready: asyncio.Queue[Executor | BaseException] = asyncio.Queue()
        self._alive: set[Executor] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._state = "new"
        self._starting = asyncio.Lock()
        self._closing = Once()

    async def start(self) -> None:
        """Start all executors and wait until they are ready.

        Raises:
            SandboxError: one of them does not start; the others are closed again, and it can be repeated.
            SandboxClosedError: the pool is closed.
        """
        async with self._starting:  # somebody else may be at it
            if self._state == "closed":
                raise SandboxClosedError("the pool is closed; make a new one")
            if self._state == "new":
                self._state = "open"
                await self._start()

    async def _start(self) -> None:
        starting = [asyncio.ensure_future(self._open()) for _ in range(self._size)]
        try:
            started = await asyncio.gather(*starting)
            if self._state == "closed":
                raise SandboxClosedError("the pool was closed while it started")
        except BaseException:
            if self._state == "open":
                self._state = "new"
            await uninterrupted(self._give_up(starting))
            raise
        for executor in started:
            self._ready.put_nowait(executor)

    async def _give_up(self, starting: Sequence[asyncio.Future[Executor]]) -> None:
        """Close what has started once all of it has come to its end."""
        await asyncio.wait(starting)
        errors = await asyncio.gather(*(self._close(each) for each in list(self._alive)), return_exceptions=True)
        for error in filter(None, errors):
            raise error

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self) -> Executor:
        executor = open_executor(self._spec, limits=self._limits, **self._options)
        self._alive.add(executor)
        try:
            await executor.start()
            if self._reuse and type(executor).reset is Executor.reset:
                raise ValueError(f"reuse: {self._spec!r} cannot be emptied; leave it out")
        except BaseException:
            await self._close(executor)
            raise
        return executor

    async def _add(self) -> None:
        """Start one executor; whoever waits for it gets the error if that fails."""
        try:
            self._ready.put_nowait(await self._open())
        except Exception as error:
            self._ready.put_nowait(error)

    async def _close(self, executor: Executor) -> None:
        self._alive.discard(executor)
        with contextlib.suppress(SandboxError):
            await executor.close()

    async def _replace(self, executor: Executor) -> None:
        try:
            await self._close(executor)
        finally:  # an executor of somebody else's may fail to close, and the pool must not shrink for that
            if self._state == "open":
                await self._add()

    async def _refresh(self, executor: Executor) -> None:
        try:
            await executor.reset()
        except Exception:  # whatever it is, it is not empty
            await self._replace(executor)
        else:
            self._ready.put_nowait(executor)

    @contextlib.asynccontextmanager
    async def take(self, timeout: float = 60.0) -> AsyncIterator[Executor]:
        """Take an executor for the time of a `with` block.

        Args:
            timeout: Seconds to wait for a free one.

        Raises:
            PoolTimeout: none became free in time.
            SandboxError: a new one had to be started, and did not.
            SandboxClosedError: the pool is not open.
        """
        executor = await self._next(time.monotonic() + timeout, timeout)
        try:
            yield executor
        finally:
            if self._state == "open":
                self._in_background(self._refresh(executor) if self._reuse else self._replace(executor))

    async def _next(self, deadline: float, timeout: float) -> Executor:
        while True:
            if self._state != "open":
                raise SandboxClosedError("the pool is not open; use it inside 'async with', or call start()")
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    found = await self._ready.get()
            except TimeoutError:
                raise PoolTimeout(
                    f"none of the {self._size} executors became free within {timeout:g} s; "
                    "make the pool larger, or wait longer"
                ) from None
            if isinstance(found, BaseException):
                if self._state == "open":
                    self._in_background(self._add())
                else:
                    self._ready.put_nowait(found)  # for the next who waits
                raise found
            try:
                await found.ping()
            except SandboxError:
                self._in_background(self._replace(found))
                continue
            except BaseException:  # whoever asked has given up
                self._in_background(self._replace(found))
                raise
            return found

    async def close(self) -> None:
        """End all executors, those that are in use too, and wait until they are gone."""
        self._state = "closed"
        await self._closing.run(self._close_all)

    async def _close_all(self) -> None:
        # First what is being started or replaced comes to its end, so that nothing is added any more.
        while tasks := set(self._tasks):
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tasks -= tasks  # from Python 3.12 on, that they are done is known before they are taken out
        ends = await asyncio.gather(*(self._close(each) for each in list(self._alive)), return_exceptions=True)
        while not self._ready.empty():
            self._ready.get_nowait()
        # Whoever waits learns that there is nothing to wait for, one after the other.
        self._ready.put_nowait(SandboxClosedError("the pool was closed"))
        for error in filter(None, ends):
            raise error

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
