"""What candidates are worth, as a function says it, or a command that runs in their sandbox."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentexec.result import SolveResult
from sandboxes.executor import Executor
from sandboxes.types import CodeBlock

KEPT_OF_CHECK = 2000
"""Characters kept of the end of a check's output."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a candidate is worth.

    Attributes:
        value: The higher the better.
        passed: Whether it will do at all. One that does ranks above all that do not.
        detail: For people.
    """

    value: float
    passed: bool
    detail: str = ""


Scorer = Callable[[Executor, SolveResult], Score | float | bool | Awaitable[Score | float | bool]]
"""Judges a candidate in its sandbox, which is still as the run left it. True and False are 1 and 0; a number passes if
it reaches the target."""


def check_command(command: str) -> Scorer:
    """Return a scorer that runs a shell command in the candidate's workspace.

    Exit status 0 passes. If the last line that it prints to stdout is a number, that is the score, also of one that
    does not pass; else the score is 1 or 0. The candidate's code can change whatever is in the workspace, so also tests
    that lie there: what must not be cheated belongs into a scorer of your own, which puts its tests there itself.
    """
    if not command.strip():
        raise ValueError("the check is empty; give a command that ends with status 0 if a candidate will do")

    async def score(executor: Executor, result: SolveResult) -> Score:
        done = await executor.run(_block(command, executor))
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        passed = done.ok
        value = _number(lines[-1]) if lines else None
        shown = (done.stdout + done.stderr).strip()[-KEPT_OF_CHECK:] or done.message
        return Score(float(passed) if value is None else value, passed, shown)

    return score


def _block(command: str, executor: Executor) -> CodeBlock:
    if not executor.keeps_state:
        return CodeBlock(command, "bash")
    return CodeBlock(  # a kernel speaks one language, and Python's is the one that we know
        "import subprocess, sys\n"
        f"_check = subprocess.run(['bash', '-c', {command!r}], capture_output=True, text=True)\n"
        "sys.stdout.write(_check.stdout); sys.stderr.write(_check.stderr)\n"
        "assert _check.returncode == 0, f'exit status {_check.returncode}'\n"
    )


def _number(line: str) -> float | None:
    try:
        value = float(line)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
