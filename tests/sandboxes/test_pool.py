"""A pool gives warm, healthy, empty executors, waits within a bound, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandboxes import (
    CodeBlock,
    Executor,
    FakeExecutor,
    Limits,
    Pool,
    PoolTimeout,
    SandboxClosedError,
    SandboxUnavailable,
    UnknownExecutor,
)
from tests.sandboxes.backends import Backend, containers, descendants

TRACES = CodeBlock(
    "import os\nplaces = '.', '/tmp', '/dev/shm'\n"
    "found = [name for place in places for name in os.listdir(place) if name in ('d', 'x', 'y')]\n"
    "print(found)\nos.makedirs('d/e'); open('d/e/f', 'w'); open('/tmp/x', 'w'); open('/dev/shm/y', 'w')\n"
    "os.chmod('d', 0)\n"
)


@pytest.fixture
def throwaways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return a function that lists the throw-away directories of this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: [path.name for path in tmp_path.iterdir()]


def pool(backend: Backend, size: int = 2, **options: Any) -> Pool:
    return Pool(backend.spec, size, **options)


async def warm(one: Pool, size: int) -> None:
    """Wait until all executors are back."""
    end = time.monotonic() + 20
    while one._ready.qsize() < size and time.monotonic() < end:
        await asyncio.sleep(0.01)
    assert one._ready.qsize() == size


@pytest.mark.parametrize("reuse", [False, True])
async def test_every_taker_finds_an_empty_place(backend: Backend, reuse: bool) -> None:
    async with pool(backend, reuse=reuse) as warmed:
        for _ in range(5):
            async with warmed.take() as executor:
                assert (await executor.run(TRACES)).stdout == "[]\n"
    assert (descendants(), containers()) == (set(), [])


async def test_taking_does_not_wait_for_a_start(backend: Backend) -> None:
    async with pool(backend, 3) as warmed:
        before = set(warmed._alive)
        async with warmed.take() as executor:
            assert warmed._alive == before
            assert (await executor.run(CodeBlock("print(1)"))).stdout == "1\n"


async def test_one_use_gives_a_new_sandbox_and_reuse_the_same(backend: Backend) -> None:
    for reuse in (False, True):
        async with pool(backend, 1, reuse=reuse) as warmed:
            async with warmed.take() as first:
                pass
            async with warmed.take() as second:
                assert (first is second) == reuse


async def test_dead_executor_is_replaced_before_anybody_gets_it(backend: Backend) -> None:
    async with pool(backend, 1) as warmed:
        (executor,) = warmed._alive
        os.kill(backend.runner(executor), signal.SIGKILL)
        async with warmed.take(timeout=20) as healthy:
            assert healthy is not executor
            assert (await healthy.run(CodeBlock("print(1)"))).stdout == "1\n"


async def test_reused_executor_that_died_with_its_taker_is_replaced(backend: Backend) -> None:
    async with pool(backend, 1, reuse=True) as warmed:
        async with warmed.take() as executor:
            os.kill(backend.runner(executor), signal.SIGKILL)
        async with warmed.take(timeout=20) as healthy:
            assert (await healthy.run(TRACES)).stdout == "[]\n"


async def test_a_block_that_its_taker_left_running_is_ended(backend: Backend) -> None:
    async with pool(backend, 1, reuse=True) as warmed:
        async with warmed.take() as executor:
            left = asyncio.create_task(executor.run(CodeBlock("import time; time.sleep(60)")))
            await asyncio.sleep(0.05)
        async with warmed.take(timeout=20) as again:
            assert (await again.run(TRACES)).stdout == "[]\n"
        assert (await left).verdict == "cancelled"


async def test_waiting_is_bounded_and_in_turn(backend: Backend) -> None:
    async with pool(backend, 1, reuse=True) as warmed:
        async with warmed.take():
            started = time.monotonic()
            with pytest.raises(PoolTimeout, match=r"none of the 1 executors became free within 0\.1 s"):
                async with warmed.take(timeout=0.1):
                    pass
            assert time.monotonic() - started < 10
        order: list[int] = []

        async def taker(number: int) -> None:
            async with warmed.take() as executor:
                order.append(number)
                assert (await executor.run(CodeBlock("print(1)"))).stdout == "1\n"

        await asyncio.gather(*(taker(number) for number in range(6)))
        assert order == list(range(6))


async def test_many_takers_share_few_executors(backend: Backend) -> None:
    async with pool(backend, 3, reuse=True) as warmed:

        async def work(number: int) -> str:
            async with warmed.take() as executor:
                return (await executor.run(CodeBlock(f"print({number})"))).stdout

        assert await asyncio.gather(*(work(number) for number in range(60))) == [f"{n}\n" for n in range(60)]
        await warm(warmed, 3)


async def test_close_ends_what_is_in_use_and_tells_who_waits(backend: Backend) -> None:
    warmed = pool(backend, 1)
    await warmed.start()
    entered = asyncio.Event()

    async def taker() -> str:
        async with warmed.take() as executor:
            entered.set()
            result = await executor.run(CodeBlock("import time; time.sleep(60)"))
            return result.verdict

    async def waiter() -> None:
        await entered.wait()
        async with warmed.take():
            pass

    taking, waiting = asyncio.create_task(taker()), asyncio.create_task(waiter())
    await entered.wait()
    await asyncio.sleep(0.05)
    await asyncio.wait_for(warmed.close(), 20)
    assert (descendants(), containers()) == (set(), [])
    with pytest.raises(SandboxClosedError, match="closed"):
        await waiting
    assert await asyncio.wait_for(taking, 20) in ("lost", "cancelled")
    with pytest.raises(SandboxClosedError):
        async with warmed.take():
            pass
    await warmed.close()


async def test_limits_and_options_reach_every_executor(backend: Backend) -> None:
    limits = Limits(wall_time=7)
    async with (
        pool(backend, 2, limits=limits, env={"MARK": "x"}) as warmed,
        warmed.take() as one,
        warmed.take() as two,
    ):
        for executor in (one, two):
            assert executor.limits == limits
            assert (await executor.run(CodeBlock("import os; print(os.environ['MARK'])"))).stdout == "x\n"


async def test_start_that_fails_is_raised_and_leaves_nothing(backend: Backend) -> None:
    with pytest.raises(UnknownExecutor):
        await Pool("nothing").start()
    missing = {"image": "agentexec/nothing"} if backend.name == "docker" else {"python": "/nowhere/python"}
    with pytest.raises(SandboxUnavailable):
        await pool(backend, 3, **missing).start()
    assert (descendants(), containers()) == (set(), [])
    with pytest.raises(ValueError, match="size=0"):
        Pool("local", 0)
    with pytest.raises(ValueError, match="each executor of a pool has one of its own"):
        Pool("local", workspace=".")


async def test_a_start_that_is_cancelled_leaves_nothing_and_can_be_repeated(
    backend: Backend, throwaways: Callable[[], list[str]]
) -> None:
    one = pool(backend)
    for delay in (0.0, 0.02, 0.1):
        task = asyncio.create_task(one.start())
        await asyncio.sleep(delay)
        for _ in range(2):  # who does not wait for the end of what was started must not cost that either
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task], timeout=30)
        assert task.cancelled()
        assert (descendants(), containers(), throwaways()) == (set(), [], [])
    await asyncio.gather(one.start(), one.start())
    assert one._ready.qsize() == 2
    await one.close()
    with pytest.raises(SandboxClosedError, match="make a new one"):
        await one.start()


async def test_closing_under_a_start_ends_it(backend: Backend, throwaways: Callable[[], list[str]]) -> None:
    for delay in (0.0, 0.02, 0.1):
        one = pool(backend)
        task = asyncio.create_task(one.start())
        await asyncio.sleep(delay)
        await one.close()
        assert (descendants(), containers(), throwaways()) == (set(), [], [])
        with contextlib.suppress(SandboxClosedError):  # it may have been done
            await task
        with pytest.raises(SandboxClosedError):
            await one.start()


async def test_two_who_close_it_both_wait_for_its_end(backend: Backend, throwaways: Callable[[], list[str]]) -> None:
    one = pool(backend)
    await one.start()
    first = asyncio.create_task(one.close())
    await asyncio.sleep(0)
    await one.close()
    assert (descendants(), containers(), throwaways()) == (set(), [], [])
    await first


async def test_pool_of_fakes_for_tests_of_others() -> None:
    async with Pool("fake", 2) as warmed, warmed.take() as executor:
        assert isinstance(executor, Executor)
        assert (await executor.run(CodeBlock("print(1)"))).ok


async def test_an_executor_that_fails_to_close_is_replaced_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException | None] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context.get("exception")))

    async def fail(self: FakeExecutor) -> None:
        raise OSError("no end")

    one = Pool("fake", 1)
    await one.start()
    monkeypatch.setattr(FakeExecutor, "close", fail)
    async with one.take():
        pass
    async with one.take(timeout=20):
        async with asyncio.timeout(5):
            while not told:
                await asyncio.sleep(0)
                gc.collect()  # which is when asyncio tells of a task that failed
        assert [str(error) for error in told] == ["no end"]
        waiting = asyncio.ensure_future(one.take(timeout=20).__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="no end"):
            await one.close()
    with pytest.raises(SandboxClosedError):
        await waiting


async def test_reset_is_for_open_executors_only(backend: Backend) -> None:
    executor = backend.open()
    with pytest.raises(SandboxClosedError):
        await executor.reset()
    await executor.start()
    await executor.put("a/b", b"x")
    await executor.reset()
    await executor.ping()
    result = await executor.run(CodeBlock("import os; print(len(os.listdir('.')))"))
    assert result.stdout == "1\n"  # its own file
    assert result.files == ()
    pid = backend.runner(executor)
    await executor.close()
    assert not psutil.pid_exists(pid)
    with pytest.raises(SandboxClosedError):
        await executor.ping()
