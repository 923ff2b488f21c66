"""Something was said or done that ends the run: a text, a speaker, a hand-off, a function, a call from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from agentexec.events import Event, MessageAdded
from agentexec.log import Kinds
from agentexec.markdown import handed_to
from agentexec.stops.base import Stop, StopCondition


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
    hears: ClassVar[Kinds] = (MessageAdded,)

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


@dataclass(frozen=True, slots=True)
class SourceSpoke(StopCondition[str | None]):
    """Reached when one of `senders` has spoken last. Reason `source`."""

    senders: tuple[str, ...]
    start: ClassVar[str | None] = None
    hears: ClassVar[Kinds] = (MessageAdded,)

    def step(self, state: str | None, event: Event) -> str | None:
        return event.message.sender if isinstance(event, MessageAdded) else state

    def check(self, state: str | None, elapsed: float) -> Stop | None:
        return Stop("source", f"the {state} has spoken") if state in self.senders else None


@dataclass(frozen=True, slots=True)
class HandedTo(StopCondition[bool]):
    """Reached when the last message hands over to `target` (a line `HANDOFF: target`). Reason `handoff`."""

    target: str
    start: ClassVar[bool] = False
    hears: ClassVar[Kinds] = (MessageAdded,)

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

    The turn in progress is finished first; to interrupt it, cancel the task that awaits `solve`. It stays reached,
    also for runs that begin later, until `reset()`.
    """

    start: ClassVar[None] = None
    hears: ClassVar[Kinds] = ()

    def __init__(self) -> None:
        self._message: str | None = None

    def stop(self, message: str = "stopped from outside") -> None:
        """Stop the run after the turn in progress."""
        self._message = message

    def reset(self) -> None:
        """Let runs go on again."""
        self._message = None

    def step(self, state: None, event: Event) -> None:
        return None

    def check(self, state: None, elapsed: float) -> Stop | None:
        return None if self._message is None else Stop("stopped", self._message)
