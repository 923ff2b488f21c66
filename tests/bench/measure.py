"""Rows of the benchmark's table, and how they are taken."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

FORK_FLOOR = """
import os, sys, time, statistics
sys.path[:0] = PATHS
PRELOAD
def fork():
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(w, 1)
        os.close(r)
        sys.stdout = open(1, "w", closefd=False)
        exec(compile("print(1)", "<b>", "exec"), {})
        sys.stdout.flush()
        os._exit(0)
    os.close(w)
    data = b""
    while piece := os.read(r, 4096):
        data += piece
    os.close(r)
    os.waitpid(pid, 0)
    assert data == b"1\\n"
times = []
for _ in range(COUNT):
    start = time.perf_counter()
    fork()
    times.append((time.perf_counter() - start) * 1e3)
print(statistics.median(times))
"""


@dataclass(frozen=True)
class Row:
    """One measure.

    Attributes:
        name: What was measured.
        value: The median.
        unit: Of `value`, `floor` and the targets.
        floor: What the machine itself charges, measured in the same run.
        most: Target: the value is at most this.
        least: Target: the value is at least this.
        ratio: Target: the value is at most this many times the floor.
    """

    name: str
    value: float
    unit: str
    floor: float | None = None
    most: float | None = None
    least: float | None = None
    ratio: float | None = None

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return (
            (self.most is None or self.value <= self.most)
            and (self.least is None or self.value >= self.least)
            and (self.ratio is None or self.floor is None or self.value <= self.ratio * self.floor)
        )

    def target(self) -> str:
        """Return the target for people."""
        if self.ratio is not None:
            return f"<= {self.ratio:g} x floor"
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}" if self.most is not None else ""


def table(rows: list[Row]) -> str:
    """Return rows as text."""
    lines = [f"{'measure':<46} {'value':>11}  {'floor':>9} {'ratio':>6}  {'target':<14}"]
    for row in rows:
        floor = f"{row.floor:.2f}" if row.floor else ""
        ratio = f"{row.value / row.floor:.2f}" if row.floor else ""
        verdict = "" if not row.target() else "ok" if row.met else "MISSED"
        value = f"{row.value:,.2f} {row.unit}"
        lines.append(f"{row.name:<46} {value:>11}  {floor:>9} {ratio:>6}  {row.target():<14} {verdict}")
    return "\n".join(lines)


def fork_floor(count: int, preload: str = "") -> float:
    """Return ms for fork + exec of `print(1)` + pipe read in a bare interpreter."""
    program = FORK_FLOOR.replace("COUNT", str(count)).replace("PRELOAD", preload)
    program = program.replace("PATHS", repr([path for path in sys.path if "site-packages" in path]))
    command = [sys.executable, "-I", "-c", program]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def median_ms(call: Callable[[], object], count: int, warm: int = 2) -> float:
    """Return the median time of a call in ms."""
    for _ in range(warm):
        call()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)
