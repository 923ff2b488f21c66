"""`python -m tests.lifecycle --seconds 60`: all of an executor's methods at once, at random moments.

Several tasks call them on one executor, and are cancelled after random times, and processes of it are killed; then it
is restarted, must work, and is closed. A call may return, or raise an error of ours; it may not hang, and nothing may
be left of any of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from sandboxes import CodeBlock, Executor, Limits, SandboxError, open_executor
from tests.sandboxes.backends import BACKENDS, KERNELS, NONE, Backend, containers, descendants

ALL = {backend.name: backend for backend in (*BACKENDS, NONE, *KERNELS)}
LIMITS = Limits(wall_time=1, memory="400M")
SOON = 40.0
"""Seconds within which every call must have ended."""
BLOCKS = (
    "print(1)",
    "import time\nprint('up', flush=True)\ntime.sleep(60)",
    "import time\ntime.sleep(0.05)",
    "1 / 0",
    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
)


def refuse(stream: str, data: bytes) -> None:
    raise LookupError("the listener's own")


async def kill(backend: Backend, chance: random.Random) -> None:
    """Kill one of the processes that run for us, or all."""
    found = sorted(await asyncio.to_thread(backend.processes))
    for pid in found if chance.random() < 0.5 else found and [chance.choice(found)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


CALLS: dict[str, Callable[[Executor, random.Random], Awaitable[object]]] = {
    "run": lambda executor, chance: executor.run(CodeBlock(chance.choice(BLOCKS))),
    "listen": lambda executor, chance: executor.run(CodeBlock(chance.choice(BLOCKS)), on_output=refuse),
    "put": lambda executor, chance: executor.put("a", b"x" * chance.choice((0, 100, 300_000))),
    "get": lambda executor, chance: executor.get("a"),
    "ping": lambda executor, chance: executor.ping(),
    "cancel": lambda executor, chance: executor.cancel(),
    "reset": lambda executor, chance: executor.reset(),
    "restart": lambda executor, chance: executor.restart(),
    "start": lambda executor, chance: executor.start(),
    "close": lambda executor, chance: executor.close(),
}
WEIGHTS = (8, 2, 2, 2, 2, 3, 2, 2, 1, 0.4)
KILLS = 0.05
"""How often something is killed instead of a call."""


async def one_call(
    executor: Executor, backend: Backend, chance: random.Random, told: Counter[str], wrong: list[str]
) -> None:
    """Make a random call, and perhaps cancel it, or kill something; note what it came to."""
    if chance.random() < KILLS:
        await kill(backend, chance)
        told["kill"] += 1
        return
    (name,) = chance.choices(list(CALLS), WEIGHTS)
    task = asyncio.ensure_future(CALLS[name](executor, chance))
    cancelled = chance.random() < 0.4
    if cancelled:
        await asyncio.wait([task], timeout=10 ** chance.uniform(-4, 0))
        task.cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
            task.cancel()
    await asyncio.wait([task], timeout=SOON)
    if not task.done():
        wrong.append(f"{name} hangs:\n{stack(task)}")
        task.cancel()
        return
    error = None if task.cancelled() else task.exception()
    told[name + (" cancelled" if task.cancelled() else f" {type(error).__name__}" if error else "")] += 1
    if task.cancelled() and not cancelled:
        wrong.append(f"{name} ended as if it was cancelled")
    if error is not None and (type(error) is SandboxError or not isinstance(error, SandboxError | LookupError)):
        wrong.append(f"{name}: {''.join(traceback.format_exception(error))}")


def stack(task: asyncio.Future[object]) -> str:
    """Return where a task waits."""
    lines = []
    at = getattr(task, "get_coro", lambda: None)()
    while at is not None and (frame := getattr(at, "cr_frame", None)) is not None:
        lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        at = at.cr_await
    return "\n".join(lines)


async def trial(backend: Backend, seed: int, told: Counter[str]) -> list[str]:
    """Open an executor, have several tasks call it, and close it; return what went wrong."""
    chance = random.Random(seed)
    wrong: list[str] = []
    executor = open_executor(backend.spec, limits=LIMITS, **backend.options)
    if chance.random() < 0.7:
        await executor.start()

    async def caller() -> None:
        for _ in range(chance.randrange(1, 6)):
            await one_call(executor, backend, chance, told, wrong)
            await asyncio.sleep(chance.choice((0, 0.001, 0.05)))

    await asyncio.gather(*(caller() for _ in range(chance.randrange(1, 5))))
    try:
        async with asyncio.timeout(SOON):
            with contextlib.suppress(SandboxError):
                await executor.start()
                await executor.restart()
                result = await executor.run(CodeBlock("print('hello')"))
                if result.stdout != "hello\n":
                    wrong.append(f"after a restart, a block came to {result}")
            await executor.close()
    except TimeoutError:
        wrong.append("the last start, restart or close hangs")
    return [f"seed {seed}: {each}" for each in wrong]


def left(temporary: Path, descriptors: int) -> list[str]:
    """Return what the trials have left."""
    found = [f"process {pid}" for pid in descendants()]
    found += [f"container {each}" for each in containers()]
    found += [f"directory {path}" for path in temporary.iterdir()]
    if (now := len(os.listdir("/proc/self/fd"))) > descriptors:
        found.append(f"{now - descriptors} descriptors")
    return found


async def lifecycle(backend: Backend, seconds: float, seed: int, temporary: Path) -> tuple[Counter[str], list[str]]:
    """Make trials for so long, or until one goes wrong; return how often each call came to what, and what was wrong."""
    told: Counter[str] = Counter()
    wrong = await trial(backend, seed, told)  # with what is made once
    await asyncio.sleep(0.1)
    descriptors = len(os.listdir("/proc/self/fd"))
    end = time.monotonic() + seconds
    while time.monotonic() < end and not wrong:
        seed += 1
        wrong = await trial(backend, seed, told)
        waiting = time.monotonic() + 2
        while (what := left(temporary, descriptors)) and time.monotonic() < waiting:
            await asyncio.sleep(0.01)
        wrong += [f"seed {seed} has left {each}" for each in what]
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        wrong += [f"seed {seed} has left {task}" for task in others]
    return told, wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.lifecycle", description=__doc__)
    parser.add_argument("--backend", choices=ALL, help="one instead of all")
    parser.add_argument("--seconds", type=float, default=60, help="for each backend")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="of the first trial")
    asked = parser.parse_args()
    failed, usual = False, tempfile.gettempdir()
    for name in [asked.backend] if asked.backend else ALL:
        with tempfile.TemporaryDirectory(dir=usual) as temporary:
            tempfile.tempdir = temporary
            told, wrong = asyncio.run(lifecycle(ALL[name], asked.seconds, asked.seed, Path(temporary)))
        print(f"{name}: {sum(told.values())} calls from seed {asked.seed}")
        print("  " + ", ".join(f"{call} {count}" for call, count in sorted(told.items())))
        print("\n".join(wrong) or "  nothing hangs, and nothing is left")
        failed = failed or bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
