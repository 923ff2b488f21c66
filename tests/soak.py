"""`python -m tests.soak --blocks 10000 --backend local`: blocks with mixed verdicts; nothing may grow meanwhile.

Descriptors and threads of this process, private memory of this process and of everything in the sandbox, and the time
that a harmless block takes, are compared between the first and the last tenth of a run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

from sandboxes import CodeBlock, Executor, Limits, open_executor
from sandboxes.conformance.canaries import open_descriptors, own_memory
from tests.sandboxes.backends import container_processes, descendants

LIMITS = Limits(wall_time=4, cpu_time=0.3, memory="160M", file_size="1M", output="64k")
HELLO = CodeBlock("print('hello')")
MIX = (
    ("ok", CodeBlock("print('x' * 1000)")),
    ("ok", CodeBlock("import json\nopen('f.json', 'w').write(json.dumps(list(range(100))))", filename="main.py")),
    ("failed", CodeBlock("raise ValueError('no')")),
    ("ok", CodeBlock("import sys\nsys.stdout.write('o' * 200_000); sys.stderr.write('e' * 200_000)")),
    ("ok", CodeBlock("import subprocess\nsubprocess.Popen(['sleep', '300'], start_new_session=True)")),
    ("disk", CodeBlock("open('big', 'wb').write(b'x' * (2 << 20))")),
)
"""Blocks in turn."""
RARE = (
    ("cpu_time", CodeBlock("while True: pass")),
    ("timeout", CodeBlock("import time\ntime.sleep(60)")),
    ("memory", CodeBlock("import time\nheld = bytearray(b'x' * (400 << 20))\ntime.sleep(5)")),
    ("cancelled", CodeBlock("import time\ntime.sleep(60)")),
)
"""Blocks that take a while: one after every `EVERY` of the others."""
EVERY = 25
KEPT = 2 << 10
"""Bytes that a kernel may keep of each cell: `In` and the tracebacks' cache of lines are state. Stock ipykernel 7 keeps
1.4 KiB of each of the harmless ones."""


@dataclass
class Sample:
    """What there was at one moment; memory in bytes, and private where the system tells."""

    descriptors: int
    threads: int
    own: int
    inside: int


@dataclass
class Findings:
    """What a run has shown.

    Attributes:
        verdicts: How often each came.
        wrong: Blocks that did not end as they must.
        samples: In order.
        seconds: Of each harmless block, in order.
        kept: Bytes that the sandbox may keep of each block.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    kept: int = 0

    def tenths(self, of: Callable[[Sample], float]) -> tuple[float, float]:
        """Return the medians of the first tenth, which begins after the second sample, and of the last."""
        values = [of(sample) for sample in self.samples[2:]]
        tenth = max(1, len(values) // 10)
        return statistics.median(values[:tenth]), statistics.median(values[-tenth:])

    def latency(self) -> tuple[float, float]:
        """Return the median milliseconds of a harmless block in the first and in the last tenth."""
        tenth = max(1, len(self.seconds) // 10)
        return 1000 * statistics.median(self.seconds[:tenth]), 1000 * statistics.median(self.seconds[-tenth:])

    def problems(self) -> list[str]:
        """Return what has grown, or went wrong."""
        found = list(self.wrong)
        for name, of, allowed in (
            ("descriptors", lambda sample: sample.descriptors, 0),
            ("threads", lambda sample: sample.threads, 0),
            ("memory of this process", lambda sample: sample.own, 8 << 20),
            ("memory in the sandbox", lambda sample: sample.inside, (8 << 20) + 2 * len(self.seconds) * self.kept),
        ):
            first, last = self.tenths(of)
            if last - first > allowed:
                found.append(f"{name}: {first:.0f} at first, {last:.0f} at last")
        return found


def inside(processes: set[int]) -> int:
    """Return the private memory of some processes."""
    total = 0
    for pid in processes:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_full_info().uss
    return total


def threads() -> int:
    """Return how many threads there are, without the event loop's pool, which fills up to its size and stays."""
    return sum(not each.name.startswith("asyncio_") for each in threading.enumerate())


def blocks(count: int, keeps_state: bool) -> Iterator[tuple[str, CodeBlock]]:
    """Yield blocks with the verdicts they must have."""
    # What a cell takes or starts stays with its kernel, so these would be another kernel's every time.
    rare = [each for each in RARE if not keeps_state or each[0] in ("timeout", "cancelled")]
    mix = [each for each in MIX if not keeps_state or b"Popen" not in each[1].code.encode()]
    for number in range(count):
        if number % EVERY == EVERY - 1:
            yield rare[number // EVERY % len(rare)]
        else:
            yield mix[number % len(mix)]


async def run(executor: Executor, expected: str, block: CodeBlock) -> str:
    """Run a block; return its verdict."""
    if expected != "cancelled":
        return (await executor.run(block)).verdict
    task = asyncio.create_task(executor.run(block))
    await asyncio.sleep(0.05)
    await executor.cancel()
    return (await task).verdict


async def soak(spec: str, count: int, **options: Any) -> Findings:
    """Run blocks on one executor, and look at what grows.

    Args:
        spec: As `open_executor` takes it.
        count: How many blocks; every tenth part of them is followed by a look.
        options: Of the backend.
    """
    findings = Findings()
    processes = container_processes if "docker" in spec else descendants
    limits = LIMITS
    if spec.startswith("jupyter"):  # a kernel is itself larger than a block, and its whole life counts
        limits = LIMITS.model_copy(update={"memory": 1 << 30, "cpu_time": None})
    async with open_executor(spec, limits=limits, **options) as executor:
        findings.kept = KEPT if executor.keeps_state else 0
        await executor.run(HELLO)
        every = max(1, count // 100)
        for number, (expected, block) in enumerate(blocks(count, executor.keeps_state)):
            verdict = await run(executor, expected, block)
            findings.verdicts[verdict] += 1
            if verdict != expected:
                findings.wrong.append(f"block {number}: {verdict}, not {expected}")
            started = time.perf_counter()
            result = await executor.run(HELLO)
            findings.seconds.append(time.perf_counter() - started)
            if result.stdout != "hello\n":
                findings.wrong.append(f"after block {number}: {result.verdict} {result.message}")
            if number % every == every - 1:
                found = inside(processes())
                findings.samples.append(Sample(len(open_descriptors()), threads(), own_memory(), found))
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=10_000)
    parser.add_argument("--backend", default="local", help="as --sandbox of agentexec")
    parser.add_argument("--isolation", help="of the local sandbox")
    options = parser.parse_args()
    started = time.monotonic()
    about = {"isolation": options.isolation} if options.isolation else {}
    findings = asyncio.run(soak(options.backend, options.blocks, **about))
    took = time.monotonic() - started
    print(f"{options.backend}: {options.blocks} blocks, each with a harmless one after it, {took:.0f} s")
    print(f"verdicts: {dict(findings.verdicts)}")
    mib = 1 << 20
    rows: list[tuple[str, tuple[float, float]]] = [
        ("descriptors", findings.tenths(lambda sample: sample.descriptors)),
        ("threads", findings.tenths(lambda sample: sample.threads)),
        ("memory here, MiB", findings.tenths(lambda sample: sample.own / mib)),
        ("memory inside, MiB", findings.tenths(lambda sample: sample.inside / mib)),
        ("harmless block, ms", findings.latency()),
    ]
    for name, (first, last) in rows:
        print(f"{name}: {first:.2f} in the first tenth, {last:.2f} in the last")
    print("\n".join(findings.problems()[:20]) or "nothing has grown")
    return bool(findings.problems())


if __name__ == "__main__":
    sys.exit(main())
