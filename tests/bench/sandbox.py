"""Latency, throughput, output and memory of sandboxes."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from sandboxes import CodeBlock, Executor, Limits, LocalSandbox, Result, ScriptExecutor, open_executor
from tests.bench.measure import Row, fork_floor, median_ms

ROUNDS = 6
FLOOD = "import sys\ns = ('x' * 99 + '\\n') * 100\nfor _ in range(100_000): sys.stdout.write(s)\n"


async def timed(executor: Executor, code: str) -> tuple[float, Result]:
    start = time.perf_counter()
    result = await executor.run(CodeBlock(code))
    elapsed = (time.perf_counter() - start) * 1e3
    assert result.ok, result
    return elapsed, result


async def warm_times(spec: str) -> tuple[float, float, float]:
    """Return medians in ms of `print(1)` back to back and after a pause, and of a bare fork, taken in turns."""
    floors: list[float] = []
    busy: list[float] = []
    rested: list[float] = []
    async with open_executor(spec) as executor:
        await timed(executor, "print(1)")
        for _ in range(ROUNDS):
            floors.append(await asyncio.to_thread(fork_floor, 50))
            busy += [(await timed(executor, "print(1)"))[0] for _ in range(50)]
            for _ in range(20):
                await asyncio.sleep(0.01)
                rested.append((await timed(executor, "print(1)"))[0])
    return statistics.median(busy), statistics.median(rested), statistics.median(floors)


async def warm_block() -> list[Row]:
    """`print(1)` on a warm sandbox."""
    busy, rested, floor = await warm_times("local")
    return [
        Row("warm print(1), back to back", busy, "ms", floor, ratio=1.3),
        Row("warm print(1), after 10 ms rest", rested, "ms", floor, ratio=1.3),
    ]


async def preloaded() -> list[Row]:
    """`import pandas` where pandas is preloaded; a model takes longer than 20 ms between two blocks."""
    floors: list[float] = []
    busy: list[float] = []
    rested: list[float] = []
    async with open_executor("local", preload=["numpy", "pandas"]) as executor:
        await timed(executor, "import pandas")
        for _ in range(ROUNDS):
            floors.append(await asyncio.to_thread(fork_floor, 50))
            busy += [(await timed(executor, "import pandas"))[0] for _ in range(20)]
            for _ in range(20):
                await asyncio.sleep(0.02)
                rested.append((await timed(executor, "import pandas"))[0])
    floor, loaded = statistics.median(floors), fork_floor(100, "import pandas")
    return [
        Row("import pandas, preloaded, after 20 ms rest", statistics.median(rested), "ms", floor, ratio=2),
        Row("  back to back, beside a fork with pandas loaded", statistics.median(busy), "ms", loaded, ratio=2),
    ]


async def cold_start() -> list[Row]:
    """From nothing to the first result."""
    bwrap = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    floor = median_ms(lambda: subprocess.run([*bwrap, sys.executable, "-I", "-c", "print(1)"], check=True,
                                             stdout=subprocess.DEVNULL), 15)  # fmt: skip
    times, closes = [], []
    for _ in range(15):
        start = time.perf_counter()
        executor = open_executor("local")
        await executor.start()
        await executor.run(CodeBlock("print(1)"))
        times.append((time.perf_counter() - start) * 1e3)
        start = time.perf_counter()
        await executor.close()
        closes.append((time.perf_counter() - start) * 1e3)
    return [
        Row("cold start to first result", statistics.median(times), "ms", floor, most=60),
        Row("  close", statistics.median(closes), "ms"),
    ]


TIERS = ("none", "landlock", "bwrap")


async def isolation_costs() -> list[Row]:
    """What isolation costs beside none at all, on a cold start and on a warm block, in turns."""
    cold: dict[str, list[float]] = {tier: [] for tier in TIERS}
    warm: dict[str, list[float]] = {tier: [] for tier in TIERS}
    for turn in range(60):
        first = turn % len(TIERS)
        for tier in (*TIERS[first:], *TIERS[:first]):
            start = time.perf_counter()
            executor = open_executor("local", isolation=tier)
            await executor.start()
            await executor.run(CodeBlock("print(1)"))
            cold[tier].append((time.perf_counter() - start) * 1e3)
            for _ in range(7):
                await asyncio.sleep(0.01)
                warm[tier].append((await timed(executor, "print(1)"))[0])
            await executor.close()
            await asyncio.sleep(0.2)  # the kernel goes on to remove namespaces, which is not the next one's cost
    block = {tier: statistics.median(warm[tier]) for tier in TIERS}
    rows = []
    for tier in TIERS[1:]:
        name = f"{tier} over none: cold start"
        # Each with the one that it took turns with: what else the machine does, it does to both.
        over = statistics.median(one - none for one, none in zip(cold[tier], cold["none"], strict=True))
        rows.append(Row(name, over, "ms", most=15))
        rows.append(Row("  warm print(1), beside none", block[tier], "ms", block["none"], ratio=1.1))
    return rows


async def blocks_per_second(spec: str) -> float:
    """Return the median rate of 200 blocks over 8 executors."""
    executors = [open_executor(spec) for _ in range(8)]
    await asyncio.gather(*(executor.start() for executor in executors))
    rates = []
    try:
        for _ in range(5):
            pending = iter(range(200))

            async def work(executor: Executor) -> None:
                for number in pending:  # noqa: B023
                    _, result = await timed(executor, f"print({number})")
                    assert result.stdout == f"{number}\n"

            start = time.perf_counter()
            await asyncio.gather(*(work(executor) for executor in executors))
            rates.append(200 / (time.perf_counter() - start))
    finally:
        await asyncio.gather(*(executor.close() for executor in executors))
    return statistics.median(rates)


async def forks_per_second() -> float:
    """Return how many bare forks all cores together make."""
    forks = await asyncio.gather(*(asyncio.to_thread(fork_floor, 200) for _ in range(os.cpu_count() or 1)))
    return sum(1000 / each for each in forks)


async def throughput() -> list[Row]:
    """200 blocks over 8 executors."""
    rate, floor = await blocks_per_second("local"), await forks_per_second()
    return [Row("200 blocks, 8 executors (floor: bare forks)", rate, "/s", floor, least=500)]


def _rss() -> int:
    return psutil.Process().memory_info().rss


async def flood_times(spec: str) -> tuple[float, float, float]:
    """Return seconds for 1 GB printed and for the same program piped to cat, and MiB the host grew by meanwhile."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "flood.py")
        program.write_text(FLOOD)
        piped = f"'{sys.executable}' -I '{program}' | cat >/dev/null"
        floors, times, growth = [], [], []
        async with open_executor(spec, limits=Limits(wall_time=120)) as executor:
            await timed(executor, "print(1)")
            for _ in range(5):
                start = time.perf_counter()
                await asyncio.to_thread(subprocess.run, piped, shell=True, check=True)
                floors.append(time.perf_counter() - start)
                gc.collect()
                before = _rss()
                peak = asyncio.create_task(_peak())
                elapsed, result = await timed(executor, FLOOD)
                peak.cancel()
                growth.append((max(_rss(), *_SAMPLES) - before) / (1 << 20))
                times.append(elapsed / 1e3)
                assert result.stdout_bytes == 1_000_000_000
                assert result.truncated
    return statistics.median(times), statistics.median(floors), max(growth)


async def flood() -> list[Row]:
    """1 GB printed, beside the same program piped to cat."""
    seconds, floor, growth = await flood_times("local")
    return [
        Row("1 GB printed", seconds, "s", floor, ratio=1.2),
        Row("  growth of the host's memory", growth, "MiB", most=16),
    ]


_SAMPLES: list[int] = [0]


async def _peak() -> None:
    _SAMPLES[:] = [0]
    while True:
        _SAMPLES.append(_rss())
        await asyncio.sleep(0.01)


async def output_delay() -> list[Row]:
    """Time from a write inside to the callback outside; both read the same monotonic clock."""
    code = "import time\nfor _ in range(100):\n    print(time.monotonic_ns()); time.sleep(0.005)\n"
    delays: list[float] = []

    def seen(stream: str, data: bytes) -> None:
        delays.append((time.monotonic_ns() - int(data.split()[-1])) / 1e6)

    async with open_executor("local") as executor:
        await executor.run(CodeBlock(code), on_output=seen)
    return [Row("on_output delay", statistics.median(delays), "ms", most=5)]


async def idle_memory() -> list[Row]:
    """Memory that an idle sandbox has to itself: every page once, what others map too left out."""
    before = set(psutil.pids())
    async with open_executor("local") as executor:
        await timed(executor, "print(1)")
        await asyncio.sleep(0.3)
        ours = {process.pid for process in psutil.Process().children(recursive=True)} - before
        held = sum(_held(pid) for pid in ours)
    return [Row("idle sandbox, private memory", held / 1024, "MiB", most=12)]


def _held(pid: int) -> int:
    """Return KiB: anonymous pages, divided among the processes that share them, and unshared file pages."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name.rstrip(":")] = int(value)
    return fields["Pss_Anon"] + fields["Private_Clean"]


FASTEST = """
import ctypes, mmap
libc = ctypes.CDLL(None)
size, kept = 64 << 20, []
while True:
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    kept.append(held)
    libc.memset(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(held))), 1, size)
"""
"""Takes memory as fast as the machine gives it."""


async def overshoot() -> list[Row]:
    """By how much a block passes its memory limit before it is dead, by the watcher alone and with a control group."""
    limit = 256 << 20
    rows: list[Row] = []
    for name, grouped in (("watcher alone", False), ("with a control group", True)):
        past = []
        for _ in range(7):
            executor = open_executor("local", limits=Limits(memory=limit, wall_time=30))
            assert isinstance(executor, ScriptExecutor)
            assert isinstance(executor.sandbox, LocalSandbox)
            if not grouped:
                executor.sandbox._place = None
            elif executor.sandbox._place is None:
                return rows
            async with executor:
                result = await executor.run(CodeBlock(FASTEST))
                assert result.verdict == "memory", result
                assert result.peak_memory is not None
                past.append(max(0, result.peak_memory - limit) / (1 << 20))
        rows.append(Row(f"memory passed the limit by, {name}", statistics.median(past), "MiB"))
        rows.append(Row("  at most", max(past), "MiB", most=64 + 16 if grouped else None))
    return rows


MEASURES = (warm_block, preloaded, cold_start, isolation_costs, throughput, flood, output_delay, idle_memory, overshoot)
