"""Awaiting something to its very end, once for all who ask, or no longer than a number of seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from sandboxes.errors import SandboxLostError

T = TypeVar("T")


async def bounded(seconds: float, work: Awaitable[T]) -> T:
    """Await something that the runner may hold up, but not for longer.

    Raises:
        SandboxLostError: the time is over.
    """
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise SandboxLostError("the runner does not answer") from None


class Once:
    """Work that is done once, and that all who ask for it wait for to its end, however many are cancelled."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin the work unless that was done, and wait for its end; an error of it is raised for everybody."""
        if self._task is None or self._task.cancelled():  # with its event loop, so that it was left half done
            self._task = asyncio.create_task(work())
        await uninterrupted(self._task)


async def uninterrupted(work: Awaitable[T]) -> T:
    """Await something to its end even if the awaiting task is cancelled; then pass the cancellation on.

    Where both happen, an error of the work gives way to the cancellation.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:  # also if it has just been done; or the work itself was cancelled
            cancelled = True
        except Exception:
            break
    if cancelled and not task.cancelled():
        task.exception()
        raise asyncio.CancelledError
    return task.result()
