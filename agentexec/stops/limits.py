"""Limits: so many turns, messages, seconds, tokens or dollars, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from agentexec.events import Event, MessageAdded, ModelCalled
from agentexec.log import Kinds
from agentexec.stops.base import Stop, StopCondition, require_positive


@dataclass(frozen=True, slots=True)
class MaxTurns(StopCondition[int]):
    """Reached after `limit` messages, the task not counted. Reason `max_turns`."""

    limit: int
    start: ClassVar[int] = 0
    hears: ClassVar[Kinds] = (MessageAdded,)

    def __post_init__(self) -> None:
        require_positive("max_turns", self.limit)

    def step(self, state: int, event: Event) -> int:
        return state + 1 if isinstance(event, MessageAdded) and event.message.sender != "task" else state

    def check(self, state: int, elapsed: float) -> Stop | None:
        if state < self.limit:
            return None
        return Stop("max_turns", f"no accepted answer after {state} turns (limit {self.limit})")


@dataclass(frozen=True, slots=True)
class MaxMessages(StopCondition[int]):
    """Reached after `limit` messages of `sender`. Reason `max_messages`."""

    limit: int
    sender: str
    start: ClassVar[int] = 0
    hears: ClassVar[Kinds] = (MessageAdded,)

    def __post_init__(self) -> None:
        require_positive("the limit of messages", self.limit)

    def step(self, state: int, event: Event) -> int:
        return state + 1 if isinstance(event, MessageAdded) and event.message.sender == self.sender else state

    def check(self, state: int, elapsed: float) -> Stop | None:
        if state < self.limit:
            return None
        return Stop("max_messages", f"the {self.sender} has spoken {state} times (limit {self.limit})")


@dataclass(frozen=True, slots=True)
class Deadline(StopCondition[None]):
    """Reached `seconds` after the run began, by the wall clock. Reason `deadline`.

    The one condition that does not wait for the end of a turn: it interrupts model calls and blocks.
    """

    seconds: float
    start: ClassVar[None] = None
    hears: ClassVar[Kinds] = ()

    def __post_init__(self) -> None:
        require_positive("deadline", self.seconds)

    def step(self, state: None, event: Event) -> None:
        return None

    def check(self, state: None, elapsed: float) -> Stop | None:
        return None if elapsed < self.seconds else Stop("deadline", f"no accepted answer within {self.seconds:g} s")

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
    hears: ClassVar[Kinds] = (ModelCalled,)

    def __post_init__(self) -> None:
        require_positive("max_tokens", self.limit)

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
        return None if state < self.limit else Stop("max_tokens", f"used {state:,} tokens (limit {self.limit:,})")


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
    hears: ClassVar[Kinds] = (ModelCalled,)

    def __post_init__(self) -> None:
        # By way of a string, so that 0.1 means 0.1.
        object.__setattr__(self, "limit", Decimal(str(self.limit)))
        require_positive("max_cost", self.limit)

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
        return None if state.total < self.limit else Stop("max_cost", f"spent {state.total} USD (limit {self.limit})")
