"""Loop overhead: what a turn costs besides the model's and the sandbox's own time.

python tests/bench/loop_bench.py
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from agentexec.events import Event, RunStarted
from agentexec.models.base import CallOptions, ChatMessage, Completion, Model, OnRetry, OnText, Usage
from agentexec.solving import solve
from sandboxes.fake import FakeExecutor

_USAGE = Usage(input_tokens=100, output_tokens=20)
_COST = Decimal("0.0001")


class InstantModel(Model):
    """Answers at once: the reviewer approves, the coder always has another block."""

    name = "instant"

    def __init__(self) -> None:
        self._count = 0

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        self._count += 1
        if messages[0].content.startswith("You are the reviewer."):
            text = "APPROVE"
        else:
            # Never the same code twice, so that nothing is answered from a cache of parsed messages.
            text = f"Next I try this.\n\n```python\nx = {self._count}\nprint(x)\n```\n"
        return Completion(text, usage=_USAGE, cost=_COST, model="instant-1")


async def _seconds(turns: int, *, review: bool, **options: Any) -> float:
    # From the first event: reading prompts and finding the executor is not part of a turn.
    began = 0.0

    def on_event(event: Event) -> None:
        nonlocal began
        if isinstance(event, RunStarted):
            began = time.perf_counter()

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
    return time.perf_counter() - began


def loop_overhead_ms(turns: int, *, review: bool = True, rounds: int = 5, **options: Any) -> float:
    """Return the median milliseconds per turn of runs of `turns` turns, the result included.

    Args:
        turns: How many.
        review: Whether there is a reviewer.
        rounds: How many runs.
        options: Further arguments of `solve`.
    """
    asyncio.run(_seconds(20, review=review, **options))
    figures = []
    for _ in range(rounds):
        gc.collect()
        figures.append(asyncio.run(_seconds(turns, review=review, **options)) * 1000 / turns)
    return statistics.median(figures)


def main() -> None:
    """Print the figures."""
    for review in (True, False):
        for turns in (50, 2000, 5000):
            print(f"review={review!s:5} {turns:5} turns: {loop_overhead_ms(turns, review=review):.3f} ms/turn")


if __name__ == "__main__":
    main()
