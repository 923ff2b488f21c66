"""Nothing comes of it any more: stalls, failures in a row, the same code or the same error again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from agentexec.events import BlockFinished, BlockRefused, Event, MessageAdded
from agentexec.log import Kinds
from agentexec.markdown import read_reply
from agentexec.stops.base import Stop, StopCondition, require_positive

REMEMBERED = 32
"""Different failing blocks that `RepeatedCode` keeps apart."""


@dataclass(frozen=True, slots=True)
class Stall(StopCondition[int]):
    """Reached when `agent` wrote neither code to run nor a final answer more than `nudges` times in a row.

    Reason `stall`.
    """

    nudges: int = 1
    agent: str = "coder"
    start: ClassVar[int] = 0
    hears: ClassVar[Kinds] = (MessageAdded,)

    def step(self, state: int, event: Event) -> int:
        if not isinstance(event, MessageAdded) or event.message.sender != self.agent:
            return state
        return state + 1 if read_reply(event.message.content, cut=event.message.cut).idle else 0

    def check(self, state: int, elapsed: float) -> Stop | None:
        if state <= self.nudges:
            return None
        return Stop("stall", f"the {self.agent} wrote neither code nor a final answer {state} times in a row")


@dataclass(frozen=True, slots=True)
class ConsecutiveFailures(StopCondition[int]):
    """Reached when `limit` blocks in a row did not end `ok`, refused ones included.

    Reason `consecutive_failures`.
    """

    limit: int
    start: ClassVar[int] = 0
    hears: ClassVar[Kinds] = (BlockFinished, BlockRefused)

    def __post_init__(self) -> None:
        require_positive("max_failures", self.limit)

    def step(self, state: int, event: Event) -> int:
        if isinstance(event, BlockFinished):
            return 0 if event.result.ok else state + 1
        return state + 1 if isinstance(event, BlockRefused) else state

    def check(self, state: int, elapsed: float) -> Stop | None:
        if state < self.limit:
            return None
        return Stop("consecutive_failures", f"{state} blocks in a row failed (limit {self.limit})")


@dataclass(frozen=True, slots=True)
class RepeatedCode(StopCondition[tuple[tuple[str, int], ...]]):
    """Reached when the very same code has failed `limit` times, whatever ran in between. Reason `repeated_code`.

    Success of that code forgets its failures. Of the failing blocks the latest 32 different ones are remembered.
    """

    limit: int
    start: ClassVar[tuple[tuple[str, int], ...]] = ()
    hears: ClassVar[Kinds] = (BlockFinished,)

    def __post_init__(self) -> None:
        require_positive("max_repeats", self.limit)

    def step(self, state: tuple[tuple[str, int], ...], event: Event) -> tuple[tuple[str, int], ...]:
        if not isinstance(event, BlockFinished):
            return state
        if event.result.ok and not state:
            return state
        key = _digest(f"{event.block.language}\n{event.block.code}")
        others = tuple(item for item in state if item[0] != key)
        if event.result.ok:
            return others
        return (*others[1 - REMEMBERED :], (key, dict(state).get(key, 0) + 1))

    def check(self, state: tuple[tuple[str, int], ...], elapsed: float) -> Stop | None:
        # The latest is last: one that reached its limit before would have stopped the run then.
        if not state or state[-1][1] < self.limit:
            return None
        return Stop("repeated_code", f"the same code failed {state[-1][1]} times (limit {self.limit})")


@dataclass(frozen=True, slots=True)
class RepeatedError(StopCondition[tuple[str, int]]):
    """Reached when `limit` blocks in a row ended with the same error. Reason `repeated_error`.

    The same: verdict, exit status, and the error's name and message or the last line of stderr.
    """

    limit: int
    start: ClassVar[tuple[str, int]] = ("", 0)
    hears: ClassVar[Kinds] = (BlockFinished,)

    def __post_init__(self) -> None:
        require_positive("the limit of repeated errors", self.limit)

    def step(self, state: tuple[str, int], event: Event) -> tuple[str, int]:
        if not isinstance(event, BlockFinished):
            return state
        result = event.result
        if result.ok:
            return ("", 0)
        error = result.error
        last = f"{error.name}: {error.message}" if error else (result.stderr.strip().rsplit("\n", 1)[-1])
        key = _digest(f"{result.verdict} {result.exit_code} {last}")
        return (key, state[1] + 1 if key == state[0] else 1)

    def check(self, state: tuple[str, int], elapsed: float) -> Stop | None:
        if state[1] < self.limit:
            return None
        return Stop("repeated_error", f"{state[1]} blocks in a row ended with the same error (limit {self.limit})")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
