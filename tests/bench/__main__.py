"""`make bench`: what the toolkit costs, beside floors that are measured in the same run on the same machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time

from tests.bench import commands, containers, kept, kernels, loop_bench, sandbox, snapshots, tracing
from tests.bench.measure import Row, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", default="", help="measures whose name contains this word")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    print(f"{machine}; medians; load {os.getloadavg()[0]:.1f}\n", flush=True)
    rows: list[Row] = []
    for measure in (
        *sandbox.MEASURES,
        *commands.MEASURES,
        loop_overhead,
        *containers.MEASURES,
        *kernels.MEASURES,
        *kept.MEASURES,
        *snapshots.MEASURES,
        *tracing.MEASURES,
    ):
        if options.only in measure.__name__:
            found = measure()
            rows += asyncio.run(found) if asyncio.iscoroutine(found) else found
            print(f"  {measure.__name__}: done", file=sys.stderr, flush=True)
    print(table(rows))
    missed = [row.name for row in rows if not row.met]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} targets met" + "".join(f"\n  missed: {name}" for name in missed))
    return 1 if missed and options.strict else 0


def loop_overhead() -> list[Row]:
    """Framework time per turn with an instant model."""
    few, many = loop_bench.loop_overhead_ms(50, 5000, clock=time.process_time)
    one, crowd = loop_bench.together_s(1), loop_bench.together_s(200)
    engine, readers = loop_bench.engine_lines()
    return [
        Row("loop overhead per turn, 50 turns", few, "ms", most=0.3),
        Row("loop overhead per turn, 5,000 turns", many, "ms", most=0.3),
        Row("  5,000 over 50 turns", many / few, "x", most=1.2),
        Row("200 runs at a time, model of 1 s a reply", crowd, "s", floor=one, ratio=1.3),
        Row("lines of code of the engine", engine, "", most=2000),
        Row("  of what reads Markdown and pictures for it", readers, ""),
    ]


if __name__ == "__main__":
    sys.exit(main())
