"""Waiting to the end loses no cancellation, no result and no error."""

from __future__ import annotations

import asyncio

import pytest

from sandboxes.waiting import uninterrupted


async def test_a_cancellation_at_the_very_end_counts() -> None:
    done = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(uninterrupted(done))
    await asyncio.sleep(0)
    done.set_result(1)
    waiting.cancel()  # before the waiting task has heard of the result
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_cancellation_is_passed_on_after_the_end() -> None:
    done = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(uninterrupted(done))
    for _ in range(2):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    done.set_exception(ValueError())  # which nobody waits for any more
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_the_works_own_end_is_passed_on() -> None:
    async def work(end: BaseException | None) -> int:
        await asyncio.sleep(0)
        if end is not None:
            raise end
        return 1

    assert await uninterrupted(work(None)) == 1
    with pytest.raises(ValueError, match="its own"):
        await uninterrupted(work(ValueError("its own")))
    with pytest.raises(asyncio.CancelledError):
        await uninterrupted(work(asyncio.CancelledError()))
