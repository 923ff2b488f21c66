"""The command line and the import."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.measure import Row, median_ms


def _run(*arguments: str) -> None:
    # With compiled modules cached, as they are wherever the toolkit is installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)


def wall_ms(*arguments: str) -> float:
    """Return the median milliseconds of an `agentexec` command."""
    return median_ms(lambda: _run("-m", "agentexec", *arguments), 7)


def cpu_ms(*arguments: str) -> float:
    """Return the median milliseconds of CPU time of an `agentexec` command, which other load on the machine spares."""
    figures = []
    for _ in range(7):
        before = os.times()
        _run("-m", "agentexec", *arguments)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        figures.append(used * 1000)
    return statistics.median(figures)


def import_time() -> list[Row]:
    """`import agentexec` over a bare interpreter."""
    bare = median_ms(lambda: _run("-c", "pass"), 15)
    whole = median_ms(lambda: _run("-c", "import agentexec"), 15)
    return [Row("import agentexec, over bare Python", whole - bare, "ms", most=150)]


def run_command() -> list[Row]:
    """The whole of `agentexec run hello.py`."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "hello.py")
        program.write_text("print('hello')\n")
        whole = median_ms(lambda: _run("-m", "agentexec", "run", str(program)), 11)
    return [Row("agentexec run hello.py", whole, "ms", most=300)]


MEASURES = (import_time, run_command)
