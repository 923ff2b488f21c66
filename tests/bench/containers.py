"""The Docker sandbox, beside forks and beside what the engine itself charges; left out where no engine is."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

from sandboxes import CodeBlock, Pool, open_executor
from sandboxes.docker.engine import Engine
from tests.bench.measure import Row
from tests.bench.sandbox import blocks_per_second, flood_times, forks_per_second, timed, warm_times
from tests.sandboxes.backends import DOCKER

IMAGE = "agentexec/python"
ROUNDS = 7


def _ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


async def docker_warm() -> list[Row]:
    """Blocks in a warm container."""
    if not DOCKER.installed():
        return []
    busy, rested, floor = await warm_times("docker")
    shell = []
    async with open_executor("docker") as executor:
        for _ in range(40):
            start = time.perf_counter()
            assert (await executor.run(CodeBlock("echo 1", language="bash"))).stdout == "1\n"
            shell.append((time.perf_counter() - start) * 1e3)
    return [
        Row("docker: warm print(1), back to back", busy, "ms", floor, ratio=1.6),
        Row("docker: warm print(1), after 10 ms rest", rested, "ms", floor, ratio=1.6),
        Row("docker: warm bash block", statistics.median(shell), "ms", most=6),
    ]


async def docker_start_and_close() -> list[Row]:
    """From nothing to the first result, and to nothing again, beside a bare container of the same image."""
    if not DOCKER.installed():
        return []
    starts, closes, bare_starts, bare_ends = [], [], [], []
    with Engine() as engine:
        for _ in range(ROUNDS):
            made: list[str] = []

            def begin() -> None:
                made.append(engine.create(IMAGE, ["sleep", "600"], {"network_mode": "none"}))  # noqa: B023
                engine.start(made[0])  # noqa: B023

            bare_starts.append(await asyncio.to_thread(_ms, begin))
            bare_ends.append(await asyncio.to_thread(_ms, lambda: engine.remove(made[0])))  # noqa: B023
            start = time.perf_counter()
            executor = open_executor("docker")
            await executor.start()
            await timed(executor, "print(1)")
            starts.append((time.perf_counter() - start) * 1e3)
            start = time.perf_counter()
            await executor.close()
            closes.append((time.perf_counter() - start) * 1e3)
    starting, ending = statistics.median(bare_starts), statistics.median(bare_ends)
    return [
        Row("docker: start to first result (create + start)", statistics.median(starts), "ms", starting, ratio=1.25),
        Row("docker: close (kill + remove)", statistics.median(closes), "ms", ending, ratio=1.25),
    ]


async def docker_throughput() -> list[Row]:
    """200 blocks over 8 warm containers."""
    if not DOCKER.installed():
        return []
    rate, floor = await blocks_per_second("docker"), await forks_per_second()
    return [Row("docker: 200 blocks, 8 containers", rate, "/s", floor, least=350)]


async def docker_pool() -> list[Row]:
    """Taking a sandbox from a warm pool."""
    if not DOCKER.installed():
        return []
    times = []
    async with Pool("docker", 2, reuse=True) as pool:
        for _ in range(30):
            await asyncio.sleep(0.02)
            start = time.perf_counter()
            async with pool.take() as executor:
                times.append((time.perf_counter() - start) * 1e3)
                await timed(executor, "print(1)")
    return [Row("docker: take from a warm pool", statistics.median(times), "ms", most=5)]


async def docker_flood() -> list[Row]:
    """1 GB printed in a container."""
    if not DOCKER.installed():
        return []
    seconds, floor, growth = await flood_times("docker")
    return [
        Row("docker: 1 GB printed (floor: piped to cat, here)", seconds, "s", floor),
        Row("  growth of the host's memory", growth, "MiB", most=16),
    ]


MEASURES = (docker_warm, docker_start_and_close, docker_throughput, docker_pool, docker_flood)
