"""When a run ends without an answer. Conditions are values, and combine with `&` and `|`.

    stop = MaxTurns(20) | Deadline(600) | (Stall() & MaxTokens(100_000))

A condition holds no state of its own: it is a fold over the events of a run (`start`, `step`) and a
judgement of what was folded (`check`). So a turn costs the same however long the conversation is, one
condition serves many runs at once, and folding a stored log again tells where a resumed run stands.
"""

from __future__ import annotations

import abc
import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Generic, TypeVar

from agentexec.events import (
    BlockFinished,
    BlockRefused,
    Event,
    MessageAdded,
    ModelCalled,
    QuestionAnswered,
    RunFinished,
    RunResumed,
    RunStarted,
)
from agentexec.markdown import handed_to, read_reply

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run was stopped.

    Attributes:
        reason: One word for scripts, e.g. `max_turns`.
        message: For people.
    """

    reason: str
    message: str


class StopCondition(abc.ABC, Generic[S]):
    """Base of all conditions. `S` is what a condition remembers of the events so far; keep it immutable."""

    @property
    @abc.abstractmethod
    def start(self) -> S:
        """What is remembered before the first event."""

    @abc.abstractmethod
    def step(self, state: S, event: Event) -> S:
        """Return what is remembered after `event`."""

    @abc.abstractmethod
    def check(self, state: S, elapsed: float) -> Stop | None:
        """Return why to stop now, or None to go on.

        Args:
            state: What is remembered.
            elapsed: Seconds since the run began.
        """

    @property
    def certain_after(self) -> float | None:
        """Seconds after which the condition is reached whatever happens; None if there is no such time.

        A run is interrupted then, also in the middle of a model call or a block.
        """
        return None

    def __or__(self, other: AnyStop) -> AnyStop:
        """Reached when either is."""
        return AnyOf(self, other)

    def __and__(self, other: AnyStop) -> AnyStop:
        """Reached while both are."""
        return AllOf(self, other)


AnyStop = StopCondition[Any]
"""A condition, whatever it remembers."""


@dataclass(frozen=True, slots=True)
class AnyOf(StopCondition[tuple[Any, Any]]):
    """`left | right`: reached when either is. The left one's reason goes first."""

    left: AnyStop
    right: AnyStop

    @property
    def start(self) -> tuple[Any, Any]:
        return self.left.start, self.right.start

    def step(self, state: tuple[Any, Any], event: Event) -> tuple[Any, Any]:
        return _both(self, state, event)

    def check(self, state: tuple[Any, Any], elapsed: float) -> Stop | None:
        return self.left.check(state[0], elapsed) or self.right.check(state[1], elapsed)

    @property
    def certain_after(self) -> float | None:
        times = [side.certain_after for side in (self.left, self.right)]
        return min((at for at in times if at is not None), default=None)


@dataclass(frozen=True, slots=True)
class AllOf(StopCondition[tuple[Any, Any]]):
    """`left & right`: reached while both are. The reason names both, as in `max_turns+stall`."""

    left: AnyStop
    right: AnyStop

    @property
    def start(self) -> tuple[Any, Any]:
        return self.left.start, self.right.start

    def step(self, state: tuple[Any, Any], event: Event) -> tuple[Any, Any]:
        return _both(self, state, event)

    def check(self, state: tuple[Any, Any], elapsed: float) -> Stop | None:
        left = self.left.check(state[0], elapsed)
        right = left and self.right.check(state[1], elapsed)
        if left is None or right is None:
            return None
        return Stop(f"{left.reason}+{right.reason}", f"{left.message}; {right.message}")

    @property
    def certain_after(self) -> float | None:
        left, right = self.left.certain_after, self.right.certain_after
        return None if left is None or right is None else max(left, right)


def _both(pair: AnyOf | AllOf, state: tuple[Any, Any], event: Event) -> tuple[Any, Any]:
    left, right = pair.left.step(state[0], event), pair.right.step(state[1], event)
    # Most events change nothing, and what is kept need not be made anew for each.
    return state if left is state[0] and right is state[1] else (left, right)


def _require_positive(name: str, value: float | Decimal) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be more than 0, not {value}")


@dataclass(frozen=True, slots=True)
class MaxTurns(StopCondition[int]):
    """Reached after `limit` messages, the task not counted. Reason `max_turns`."""

    limit: int
    start: ClassVar[int] = 0

    def __post_init__(self) -> None:
        _require_positive("max_turns", self.limit)

    def step(self, state: int, event: Event) -> int:
        return state + 1 if isinstance(event, MessageAdded) and event.message.sender != "task" else state

    def check(self, state: int, elapsed: float) -> Stop | None:
        if state < self.limit:
            return None
        return Stop("max_turns", f"no accepted answer after {state} turns (limit {self.limit})")


@dataclass(frozen=True, slots=True)
class Deadline(StopCondition[None]):
    """Reached `seconds` after the run began, by the wall clock. Reason `deadline`.

    The one condition that does not wait for the end of a turn: it interrupts model calls and blocks.
    """

    seconds: float
    start: ClassVar[None] = None

    def __post_init__(self) -> None:
        _require_positive("deadline", self.seconds)

    def step(self, state: None, event: Event) -> None:
        return None

    def check(self, state: None, elapsed: float) -> Stop | None:
        if elapsed < self.seconds:
            return None
        return Stop("deadline", f"no accepted answer within {self.seconds:g} s")

    @property
    def certain_after(self) -> float | None:
        return self.seconds


@dataclass(frozen=True, slots=True)
class MaxTokens(StopCondition[int | None]):
    """Reached once `limit` tokens, input and output together, were used. Reason `max_tokens`.

    Checked after each turn, so the last call may go over. A server that does not count tokens stops the
    run after the first call: a budget that cannot be checked is not kept.
    """

    limit: int
    start: ClassVar[int | None] = 0

    def __post_init__(self) -> None:
        _require_positive("max_tokens", self.limit)

    def step(self, state: int | None, event: Event) -> int | None:
        if not isinstance(event, ModelCalled) or state is None:
            return state
        return None if event.usage is None else state + event.usage.total_tokens

    def check(self, state: int | None, elapsed: float) -> Stop | None:
        if state is None:
            return Stop(
                "max_tokens",
                "the server does not report tokens, so max_tokens cannot be kept; run without it",
            )
        if state < self.limit:
            return None
        return Stop("max_tokens", f"used {state:,} tokens (limit {self.limit:,})")


@dataclass(frozen=True, slots=True)
class _Spent:
    total: Decimal = Decimal(0)
    unpriced: str | None = None
    """A model that answered at an unknown price."""


@dataclass(frozen=True, slots=True)
class MaxCost(StopCondition[_Spent]):
    """Reached once `limit` USD were spent. Reason `max_cost`.

    Checked after each turn, so the last call may go over. A model of unknown price stops the run after its
    first call: a budget that cannot be checked is not kept.
    """

    limit: Decimal
    start: ClassVar[_Spent] = _Spent()

    def __post_init__(self) -> None:
        # By way of a string, so that 0.1 means 0.1.
        object.__setattr__(self, "limit", Decimal(str(self.limit)))
        _require_positive("max_cost", self.limit)

    def step(self, state: _Spent, event: Event) -> _Spent:
        if not isinstance(event, ModelCalled):
            return state
        if event.cost is None:
            return _Spent(state.total, event.model)
        return _Spent(state.total + event.cost, state.unpriced)

    def check(self, state: _Spent, elapsed: float) -> Stop | None:
        if state.unpriced is not None:
            return Stop(
                "max_cost",
                f"the price of model {state.unpriced!r} is unknown, so max_cost cannot be kept; "
                "run without it, or limit tokens with max_tokens",
            )
        if state.total < self.limit:
            return None
        return Stop("max_cost", f"spent {state.total} USD (limit {self.limit})")


@dataclass(frozen=True, slots=True)
class Stall(StopCondition[int]):
    """Reached when `agent` wrote neither code to run nor a final answer more than `nudges` times in a row.

    Reason `stall`.
    """

    nudges: int = 1
    agent: str = "coder"
    start: ClassVar[int] = 0

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

    def __post_init__(self) -> None:
        _require_positive("max_failures", self.limit)

    def step(self, state: int, event: Event) -> int:
        if isinstance(event, BlockFinished):
            return 0 if event.result.ok else state + 1
        return state + 1 if isinstance(event, BlockRefused) else state

    def check(self, state: int, elapsed: float) -> Stop | None:
        if state < self.limit:
            return None
        return Stop("consecutive_failures", f"{state} blocks in a row failed (limit {self.limit})")


@dataclass(frozen=True, slots=True)
class TextSeen(StopCondition[str | None]):
    """Reached once a message contains `text`. Reason `text`.

    Attributes:
        text: What to look for, exactly.
        sender: Whose messages count. None means every agent but the executor, whose messages hold what
            programs printed, which is data and decides nothing.
    """

    text: str
    sender: str | None = None
    start: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("the text to stop at is empty")

    def step(self, state: str | None, event: Event) -> str | None:
        if state is not None or not isinstance(event, MessageAdded):
            return state
        sender = event.message.sender
        counts = sender not in ("task", "executor") if self.sender is None else sender == self.sender
        return sender if counts and self.text in event.message.content else None

    def check(self, state: str | None, elapsed: float) -> Stop | None:
        return None if state is None else Stop("text", f"the {state} wrote {self.text!r}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


REMEMBERED = 32
"""Different failing blocks that `RepeatedCode` keeps apart."""


@dataclass(frozen=True, slots=True)
class RepeatedCode(StopCondition[tuple[tuple[str, int], ...]]):
    """Reached when the very same code has failed `limit` times, whatever ran in between. Reason `repeated_code`.

    Success of that code forgets its failures. Of the failing blocks the latest 32 different ones are remembered.
    """

    limit: int
    start: ClassVar[tuple[tuple[str, int], ...]] = ()

    def __post_init__(self) -> None:
        _require_positive("max_repeats", self.limit)

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

    def __post_init__(self) -> None:
        _require_positive("the limit of repeated errors", self.limit)

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


@dataclass(frozen=True, slots=True)
class MaxMessages(StopCondition[int]):
    """Reached after `limit` messages of `sender`. Reason `max_messages`."""

    limit: int
    sender: str
    start: ClassVar[int] = 0

    def __post_init__(self) -> None:
        _require_positive("the limit of messages", self.limit)

    def step(self, state: int, event: Event) -> int:
        return state + 1 if isinstance(event, MessageAdded) and event.message.sender == self.sender else state

    def check(self, state: int, elapsed: float) -> Stop | None:
        if state < self.limit:
            return None
        return Stop("max_messages", f"the {self.sender} has spoken {state} times (limit {self.limit})")


@dataclass(frozen=True, slots=True)
class SourceSpoke(StopCondition[str | None]):
    """Reached when one of `senders` has spoken last. Reason `source`."""

    senders: tuple[str, ...]
    start: ClassVar[str | None] = None

    def step(self, state: str | None, event: Event) -> str | None:
        return event.message.sender if isinstance(event, MessageAdded) else state

    def check(self, state: str | None, elapsed: float) -> Stop | None:
        return Stop("source", f"the {state} has spoken") if state in self.senders else None


@dataclass(frozen=True, slots=True)
class HandedTo(StopCondition[bool]):
    """Reached when the last message hands over to `target` (a line `HANDOFF: target`). Reason `handoff`."""

    target: str
    start: ClassVar[bool] = False

    def step(self, state: bool, event: Event) -> bool:
        if not isinstance(event, MessageAdded):
            return state
        return handed_to(event.message.content) == self.target

    def check(self, state: bool, elapsed: float) -> Stop | None:
        return Stop("handoff", f"handed over to {self.target}") if state else None


@dataclass(frozen=True, slots=True)
class StopWhen(StopCondition[bool]):
    """Reached once `function` returns True for an event. Reason `function`, or another word."""

    function: Callable[[Event], bool]
    reason: str = "function"
    start: ClassVar[bool] = False

    def step(self, state: bool, event: Event) -> bool:
        return state or bool(self.function(event))

    def check(self, state: bool, elapsed: float) -> Stop | None:
        return Stop(self.reason, f"the condition {self.reason!r} is met") if state else None


class ExternalStop(StopCondition[None]):
    """Reached once somebody calls `stop()`, from any thread. Reason `stopped`.

    The turn in progress is finished first; to interrupt it, cancel the task that awaits `solve`.
    """

    start: ClassVar[None] = None

    def __init__(self) -> None:
        self._message: str | None = None

    def stop(self, message: str = "stopped from outside") -> None:
        """Stop the run after the turn in progress."""
        self._message = message

    def step(self, state: None, event: Event) -> None:
        return None

    def check(self, state: None, elapsed: float) -> Stop | None:
        return None if self._message is None else Stop("stopped", self._message)


class StopWatch:
    """One run's position in a condition; subscribe it to the run's log.

    A condition is reset by a new watch: a second run, and each time a nested team speaks, begins from the start.

    Args:
        condition: What ends the run.
        clock: Seconds from any origin; the run begins now.
        past: What happened before, if the run is resumed. The time in which it did not run does not count.
    """

    def __init__(
        self, condition: AnyStop, clock: Callable[[], float] = time.monotonic, past: Iterable[Event] = ()
    ) -> None:
        self.condition = condition
        self._state = condition.start
        self._clock = clock
        past = tuple(past)
        for event in past:
            self(event)
        self._began = clock() - _time_spent(past)

    @property
    def certain_after(self) -> float | None:
        """Seconds from now after which the condition is reached whatever happens, at least 0; None if never."""
        certain = self.condition.certain_after
        return None if certain is None else max(0.0, certain - (self._clock() - self._began))

    def __call__(self, event: Event) -> None:
        self._state = self.condition.step(self._state, event)

    def stopped(self, *, at_least: float = 0.0) -> Stop | None:
        """Return why to stop now, or None.

        Args:
            at_least: Seconds that have certainly passed, where a timer knows better than the clock.
        """
        return self.condition.check(self._state, max(self._clock() - self._began, at_least))


def _time_spent(events: Iterable[Event]) -> float:
    """Return the seconds in which a run was going on: up to each end, or last sign of life, of a process."""
    spent, since, latest = 0.0, None, 0.0
    for event in events:
        if isinstance(event, RunStarted | RunResumed):
            spent += 0.0 if since is None else latest - since
            since = latest = event.time
        elif since is not None and not isinstance(event, QuestionAnswered):  # which may have come from elsewhere
            latest = max(latest, event.time)
            if isinstance(event, RunFinished):
                spent, since = spent + latest - since, None
    return spent + (0.0 if since is None else latest - since)
