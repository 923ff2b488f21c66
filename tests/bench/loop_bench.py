"""Loop overhead: what a turn costs besides the model's and the sandbox's own time.

python tests/bench/loop_bench.py
"""

from __future__ import annotations

import ast
import asyncio
import gc
import io
import itertools
import statistics
import time
import tokenize
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import agentexec
from agentexec.events import Event, RunStarted
from agentexec.models.base import CallOptions, ChatMessage, Completion, Model, OnRetry, OnText, Usage
from agentexec.solving import solve
from sandboxes.fake import FakeExecutor

Clock = Callable[[], float]

_USAGE = Usage(input_tokens=100, output_tokens=20)
_COST = Decimal("0.0001")


class InstantModel(Model):
    """Answers at once: the reviewer approves, the coder always has another block."""

    name = "instant"

    _counts = itertools.count(1)

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        if messages[0].content.startswith("You are the reviewer."):
            text = "APPROVE"
        else:
            # Never the same code twice, not in a later run either, so that nothing is answered from a cache of
            # parsed messages.
            text = f"Next I try this.\n\n```python\nx = {next(self._counts)}\nprint(x)\n```\n"
        return Completion(text, usage=_USAGE, cost=_COST, model="instant-1")


async def _seconds(turns: int, *, review: bool, clock: Clock = time.perf_counter, **options: Any) -> float:
    # From the first event: reading prompts and finding the executor is not part of a turn.
    began = 0.0

    def on_event(event: Event) -> None:
        nonlocal began
        if isinstance(event, RunStarted):
            began = clock()

    result = await solve(
        "Count.",
        model=InstantModel(),
        executor=FakeExecutor(lambda block: "12345\n" * 10),
        review=review,
        max_turns=turns,
        on_event=on_event,
        **options,
    )
    assert (result.turns, result.stop_reason) == (turns, "max_turns")
    return clock() - began


def loop_overhead_ms(*lengths: int, review: bool = True, rounds: int = 5, **options: Any) -> list[float]:
    """Return the median milliseconds per turn of runs of so many turns, the result included.

    Runs of the different lengths take turns, so that what else happens on the machine meets all of them; short runs
    are repeated, so that each figure comes of as many turns as the others.

    Args:
        lengths: Turns of a run.
        review: Whether there is a reviewer.
        rounds: How often each length is measured.
        options: Further arguments of `solve`; `clock` is the clock to read: where nothing waits, that of the
            process's CPU time keeps out what else runs on the machine.
    """
    asyncio.run(_seconds(20, review=review, **options))
    figures: dict[int, list[float]] = {turns: [] for turns in lengths}
    for _ in range(rounds):
        for turns, found in figures.items():
            gc.collect()
            runs = max(1, max(lengths) // turns // 2)
            spent = sum(asyncio.run(_seconds(turns, review=review, **options)) for _ in range(runs))
            found.append(spent * 1000 / turns / runs)
    return [statistics.median(found) for found in figures.values()]


class PacedModel(InstantModel):
    """Takes a second for each reply, as a remote model does."""

    name = "paced"

    async def complete(self, messages: Sequence[ChatMessage], **options: Any) -> Completion:
        await asyncio.sleep(1.0)
        return await super().complete(messages, **options)


async def _together(runs: int) -> float:
    began = time.perf_counter()
    results = await asyncio.gather(
        *(
            solve("Count.", model=PacedModel(), executor=FakeExecutor(lambda block: "1\n"), review=False, max_turns=6)
            for _ in range(runs)
        )
    )
    assert [result.turns for result in results] == [6] * runs
    return time.perf_counter() - began


def together_s(runs: int) -> float:
    """Return the seconds of so many runs in one process, three replies of a second each in every one."""
    gc.collect()
    return asyncio.run(_together(runs))


ENGINE = [
    "conversation.py",
    "turns.py",
    "team.py",
    "ledger.py",
    "plan.py",
    "human.py",
    "context.py",
    "agents/*.py",
    "stops/*.py",
]
"""Agents, turns, stops and context: the engine of conversations."""

READERS = ["markdown.py", "unclear.py", "agents/pictures.py"]
"""What reads replies and pictures, whoever speaks: not the engine, and told beside it."""


def engine_lines() -> tuple[int, int]:
    """Return lines of code (without blank lines, comments and docstrings) of the engine, and of what reads for it."""
    root = Path(agentexec.__file__).parent
    readers = {root / name for name in READERS}
    engine = {path for name in ENGINE for path in root.glob(name)} - readers
    first, second = (sum(_code_lines(path.read_text("utf-8")) for path in files) for files in (engine, readers))
    return first, second


def _code_lines(source: str) -> int:
    tree = ast.parse(source)
    prose: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    skip = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skip:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - prose)


def main() -> None:
    """Print the figures."""
    for review in (True, False):
        lengths = (50, 5000)
        for turns, figure in zip(
            lengths, loop_overhead_ms(*lengths, review=review, clock=time.process_time), strict=True
        ):
            print(f"review={review!s:5} {turns:5} turns: {figure:.3f} ms/turn")
    one, many = together_s(1), together_s(200)
    print(f"one run {one:.2f} s, 200 at a time {many:.2f} s: {many / one:.2f} x")
    engine, readers = engine_lines()
    print(f"engine: {engine} lines of code, and {readers} that read Markdown and pictures")


if __name__ == "__main__":
    main()
