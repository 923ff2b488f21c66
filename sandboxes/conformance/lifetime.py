"""What `Executor` promises of starting, cancelling, restarting and closing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from sandboxes.conformance.arena import Arena
from sandboxes.conformance.suite import Suite
from sandboxes.errors import SandboxClosedError, SandboxError, SandboxLostError
from sandboxes.executor import Executor

Call = Callable[[], Awaitable[object]]


async def refused(executor: Executor, arena: Arena, error: type[Exception], further: Call) -> None:
    """Fail unless each call, and a further one, is refused with an error."""
    hello = arena.backend.hello
    calls: tuple[Call, ...] = (
        lambda: executor.run(hello),
        lambda: executor.put("a", b""),
        lambda: executor.get("a"),
        further,
    )
    for call in calls:
        with pytest.raises(error):
            await call()


async def closed(executor: Executor, arena: Arena) -> None:
    """Fail if anything works in an executor that is not open."""
    await refused(executor, arena, SandboxClosedError, executor.restart)


PARTS = (0, 0.02, 0.2, 0.6, 0.95)
"""When a start is cut off, as parts of the time that it takes."""


async def time_to_start(arena: Arena) -> float:
    """Return the seconds that a start takes at the moment."""
    begun = time.monotonic()
    async with arena.make():
        return time.monotonic() - begun


async def cut_off(work: Coroutine[Any, Any, None], seconds: float, arena: Arena) -> None:
    """Cancel what is not done after a number of seconds; fail if it does not end soon, or in another way."""
    task = asyncio.create_task(work)
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait([task], timeout=arena.soon)
    assert task.done()
    assert task.cancelled() or task.exception() is None


class LifetimeTests(Suite):
    """Starting, cancelling, restarting and closing."""

    async def test_an_executor_works_only_while_it_is_open(self, arena: Arena) -> None:
        executor = arena.make()
        await closed(executor, arena)
        async with executor:
            await executor.start()  # twice has no effect
            await arena.assert_usable(executor)
            await executor.ping()
            await executor.close()
            await executor.close()
            await closed(executor, arena)

    async def test_two_who_close_it_both_wait_for_its_end(self, arena: Arena) -> None:
        async with arena.open() as executor:
            first = asyncio.create_task(executor.close())
            await asyncio.sleep(0)
            await executor.close()
            await asyncio.sleep(0)
            assert first.done()
            await closed(executor, arena)

    async def test_one_that_was_never_started_can_be_closed(self, arena: Arena) -> None:
        await arena.make().close()

    async def test_two_at_a_time_do_not_disturb_each_other(self, arena: Arena) -> None:
        async with arena.open() as one, arena.make(throwaway=True) as two:
            await one.put("a", b"one")
            await two.put("a", b"two")
            results = await asyncio.gather(*(each.run(arena.backend.hello) for each in (one, two) * 5))
            assert [result.stdout for result in results] == ["hello\n"] * 10
            assert (await one.get("a"), await two.get("a")) == (b"one", b"two")

    async def test_blocks_at_the_same_time_are_queued(self, arena: Arena) -> None:
        block = arena.program("nap")
        async with arena.open() as executor:
            first = await arena.begin(executor, block)
            results = await asyncio.gather(executor.run(arena.backend.hello), executor.run(arena.backend.hello))
            assert first.done()
            assert [result.stdout for result in results] == ["hello\n"] * 2
            assert (await first).verdict == "ok"

    # Cancellation

    async def test_cancel_ends_the_block_with_its_own_verdict(self, arena: Arena) -> None:
        block = arena.program("wait")
        async with arena.open() as executor:
            task = await arena.begin(executor, block)
            await executor.cancel()
            await executor.cancel()
            result = await asyncio.wait_for(task, arena.soon)
            assert (result.verdict, result.stdout) == ("cancelled", "up\n")
            await executor.cancel()  # with nothing to cancel
            await arena.assert_usable(executor)

    @pytest.mark.parametrize("when", ["at once", "soon", "running", "twice"])
    async def test_cancelling_the_task_kills_the_block_and_keeps_the_executor(self, arena: Arena, when: str) -> None:
        block = arena.program("wait")
        async with arena.open() as executor:
            for _ in range(3):
                if when in ("running", "twice"):
                    task = await arena.begin(executor, block)
                else:
                    task = asyncio.create_task(executor.run(block))
                    await asyncio.sleep(0 if when == "at once" else 0.002)
                task.cancel()
                if when == "twice":
                    await asyncio.sleep(0)
                    task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, arena.soon)
                await asyncio.wait_for(arena.assert_usable(executor), arena.soon)

    async def test_cancelling_a_queued_block_leaves_the_running_one_alone(self, arena: Arena) -> None:
        block, later = arena.program("nap"), arena.program("wait")
        async with arena.open() as executor:
            first = await arena.begin(executor, block)
            second = asyncio.create_task(executor.run(later))
            await asyncio.sleep(0.02)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(second, arena.soon)
            assert (await first).verdict == "ok"
            await arena.assert_usable(executor)

    async def test_a_start_that_is_cancelled_can_be_repeated(self, arena: Arena) -> None:
        took = await time_to_start(arena)
        for share in PARTS:
            executor = arena.make()
            await cut_off(executor.start(), share * took, arena)
            await executor.start()
            await arena.assert_usable(executor)
            await executor.close()

    async def test_a_restart_that_is_cancelled_can_be_repeated(self, arena: Arena) -> None:
        took = await time_to_start(arena)
        async with arena.open() as executor:
            for share in PARTS:
                await cut_off(executor.restart(), share * took, arena)
                await executor.restart()
            await arena.assert_usable(executor)

    @pytest.mark.parametrize("what", ["start", "restart"])
    async def test_closing_ends_a_start_for_good(self, arena: Arena, what: str) -> None:
        took = await time_to_start(arena)
        for share in PARTS:
            executor = arena.make()
            if what == "restart":
                await executor.start()
            task = asyncio.create_task(executor.start() if what == "start" else executor.restart())
            await asyncio.sleep(share * took)
            await asyncio.wait_for(executor.close(), arena.soon)
            with contextlib.suppress(SandboxError):
                await asyncio.wait_for(task, arena.soon)
            await closed(executor, arena)

    # State

    async def test_state_is_kept_as_the_executor_says(self, arena: Arena) -> None:
        remember, recall = arena.program("remember"), arena.program("recall")
        async with arena.open() as executor:
            assert (await executor.run(remember)).verdict == "ok"
            assert (await executor.run(recall)).ok == executor.keeps_state

    async def test_restart_gives_fresh_state_and_the_same_workspace(self, arena: Arena) -> None:
        async with arena.open() as executor:
            await executor.put("kept", b"kept")
            if executor.keeps_state:
                await executor.run(arena.program("remember"))
            await executor.restart()
            assert await executor.get("kept") == b"kept"
            if executor.keeps_state:
                assert not (await executor.run(arena.program("recall"))).ok
            await arena.assert_usable(executor)

    async def test_restart_ends_a_running_block(self, arena: Arena) -> None:
        block = arena.program("wait")
        async with arena.open() as executor:
            task = await arena.begin(executor, block)
            await asyncio.wait_for(executor.restart(), 2 * arena.soon)
            assert (await asyncio.wait_for(task, arena.soon)).verdict in ("cancelled", "lost")
            await arena.assert_usable(executor)

    async def test_reset_empties_the_workspace_or_is_refused(self, arena: Arena) -> None:
        async with arena.open() as executor:
            await executor.put("a/file", b"x")
            try:
                await executor.reset()
            except NotImplementedError:
                assert await executor.get("a/file") == b"x"
            else:
                with pytest.raises(FileNotFoundError):
                    await executor.get("a/file")
            await arena.assert_usable(executor)

    async def test_closing_under_a_running_block_ends_it_for_good(self, arena: Arena) -> None:
        block = arena.program("wait")
        async with arena.open() as executor:
            task = await arena.begin(executor, block)
            await asyncio.wait_for(executor.close(), arena.soon)
            assert (await asyncio.wait_for(task, arena.soon)).verdict in ("lost", "cancelled")
            await closed(executor, arena)

    # Accidents

    async def test_a_sandbox_that_dies_under_a_block_is_lost_until_restart(self, arena: Arena) -> None:
        if arena.backend.lose is None:
            pytest.skip("its sandbox cannot be ended from outside")
        block = arena.program("wait")
        async with arena.open() as executor:
            task = await arena.begin(executor, block)
            arena.backend.lose(executor)
            result = await asyncio.wait_for(task, arena.soon)
            assert (result.verdict, result.exit_code, result.stdout) == ("lost", None, "up\n")
            assert result.message
            await refused(executor, arena, SandboxLostError, executor.ping)
            await executor.restart()
            await arena.assert_usable(executor)

    async def test_an_idle_sandbox_that_dies_is_noticed_and_its_workspace_kept(self, arena: Arena) -> None:
        if arena.backend.lose is None:
            pytest.skip("its sandbox cannot be ended from outside")
        async with arena.open() as executor:
            await executor.put("kept", b"kept")
            arena.backend.lose(executor)
            with pytest.raises(SandboxLostError):
                await executor.get("kept")
            await executor.restart()
            assert await executor.get("kept") == b"kept"
