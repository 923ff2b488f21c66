"""Kernels beside stock jupyter_client and ipykernel, which have no isolation and no limits."""

from __future__ import annotations

import statistics
import time
from typing import Any

from jupyter_client.manager import AsyncKernelManager

from sandboxes import CodeBlock, open_executor
from tests.bench.measure import Row
from tests.bench.sandbox import flood_times, timed
from tests.sandboxes.backends import DOCKER

ROUNDS = 5


class Stock:
    """A kernel as jupyter_client starts it."""

    async def start(self) -> None:
        self._manager = AsyncKernelManager()
        await self._manager.start_kernel()
        self._client: Any = self._manager.client()
        self._client.start_channels()
        await self._client.wait_for_ready(timeout=30)

    async def run(self, code: str) -> None:
        asked = self._client.execute(code)
        while True:
            message = await self._client.get_iopub_msg(timeout=30)
            ours = message["parent_header"].get("msg_id") == asked
            if ours and message["content"].get("execution_state") == "idle":
                return

    async def close(self) -> None:
        self._client.stop_channels()
        await self._manager.shutdown_kernel(now=True)


async def _ms(call: Any) -> float:
    start = time.perf_counter()
    await call
    return (time.perf_counter() - start) * 1e3


async def kernel_cell() -> list[Row]:
    """`print(1)` as a cell."""
    stock = Stock()
    await stock.start()
    cells: dict[str, list[float]] = {"stock": [], "jupyter": [], "jupyter+docker": []}
    specs = ["jupyter", *(["jupyter+docker"] if DOCKER.installed() else [])]
    executors = {spec: open_executor(spec) for spec in specs}
    for executor in executors.values():
        await executor.start()
    for _ in range(ROUNDS):
        for number in range(25):
            cells["stock"] += [await _ms(stock.run("print(1)"))] if number > 4 else []
        for spec, executor in executors.items():
            for number in range(25):
                took, _ = await timed(executor, "print(1)")
                cells[spec] += [took] if number > 4 else []
    await stock.close()
    for executor in executors.values():
        await executor.close()
    floor = statistics.median(cells["stock"])
    rows = [
        Row(
            "kernel: cell print(1) (stock jupyter_client)", statistics.median(cells["jupyter"]), "ms", floor, ratio=1.15
        )
    ]
    if cells["jupyter+docker"]:
        rows.append(Row("  in Docker", statistics.median(cells["jupyter+docker"]), "ms", floor, ratio=1.3))
    return rows


async def kernel_start() -> list[Row]:
    """First kernel, second one, restart and close."""
    stocks, stock_ends, firsts, restarts, closes = [], [], [], [], []
    for _ in range(ROUNDS):
        stock = Stock()
        stocks.append(await _ms(stock.start()))
        stock_ends.append(await _ms(stock.close()))
        executor = open_executor("jupyter")
        firsts.append(await _ms(executor.start()))
        await executor.run(CodeBlock("import os; os._exit(1)"))
        restarts.append((await timed(executor, "print(1)"))[0])
        closes.append(await _ms(executor.close()))
    floor = statistics.median(stocks)
    return [
        Row("kernel: first one ready (stock)", statistics.median(firsts), "ms", floor, ratio=1.1),
        Row("kernel: next one ready, first cell included", statistics.median(restarts), "ms", floor, ratio=0.35),
        Row("kernel: close (stock)", statistics.median(closes), "ms", statistics.median(stock_ends), most=100),
    ]


async def kernel_flood() -> list[Row]:
    """1 GB printed by a cell."""
    seconds, floor, growth = await flood_times("jupyter")
    return [
        Row("kernel: 1 GB printed (floor: piped to cat)", seconds, "s", floor),
        Row("  growth of the host's memory", growth, "MiB", most=32),
    ]


MEASURES = (kernel_cell, kernel_start, kernel_flood)
