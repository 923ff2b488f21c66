"""What a stop condition is, how two are combined, and how one is watched over in a run."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar

from agentexec.events import Event, QuestionAnswered, RunFinished, RunResumed, RunStarted
from agentexec.log import ALL, Kinds
from sandboxes.types import expect

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

    @property
    def hears(self) -> Kinds:
        """The kinds of event that change what is remembered; it may be told of others all the same."""
        return ALL

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
        return AnyOf((*_parts(self, AnyOf), *_parts(other, AnyOf)))

    def __and__(self, other: AnyStop) -> AnyStop:
        """Reached while both are."""
        return AllOf((*_parts(self, AllOf), *_parts(other, AllOf)))


AnyStop = StopCondition[Any]
"""A condition, whatever it remembers."""


@dataclass(frozen=True, slots=True)
class _Several(StopCondition[tuple[Any, ...]]):
    """Conditions side by side, each with what it remembers."""

    conditions: tuple[AnyStop, ...]

    @property
    def start(self) -> tuple[Any, ...]:
        return tuple(condition.start for condition in self.conditions)

    @property
    def hears(self) -> Kinds:
        return tuple(dict.fromkeys(kind for condition in self.conditions for kind in condition.hears))

    def step(self, state: tuple[Any, ...], event: Event) -> tuple[Any, ...]:
        return tuple([each.step(known, event) for each, known in zip(self.conditions, state, strict=True)])

    def _certain(self) -> Sequence[float | None]:
        return [condition.certain_after for condition in self.conditions]


class AnyOf(_Several):
    """`a | b`: reached when any of them is. The reason is that of the first in order."""

    def check(self, state: tuple[Any, ...], elapsed: float) -> Stop | None:
        for condition, known in zip(self.conditions, state, strict=True):
            if (stop := condition.check(known, elapsed)) is not None:
                return stop
        return None

    @property
    def certain_after(self) -> float | None:
        return min((at for at in self._certain() if at is not None), default=None)


class AllOf(_Several):
    """`a & b`: reached while all of them are. The reason names all, as in `max_turns+stall`."""

    def check(self, state: tuple[Any, ...], elapsed: float) -> Stop | None:
        stops: list[Stop] = []
        for condition, known in zip(self.conditions, state, strict=True):
            if (stop := condition.check(known, elapsed)) is None:
                return None
            stops.append(stop)
        return Stop("+".join(stop.reason for stop in stops), "; ".join(stop.message for stop in stops))

    @property
    def certain_after(self) -> float | None:
        times = [at for at in self._certain() if at is not None]
        return max(times) if len(times) == len(self.conditions) else None


def _parts(condition: AnyStop, kind: type[_Several]) -> tuple[AnyStop, ...]:
    """Return what `condition` combines in this way, so that `a | b | c` is one step and not two."""
    expect(condition, StopCondition, "a stop condition is one such as MaxTurns(20), or StopWhen(FUNCTION)")
    return condition.conditions if isinstance(condition, kind) else (condition,)


def require_positive(name: str, value: float | Decimal) -> None:
    """Raise ValueError unless a limit is more than 0, and TypeError if it is no number."""
    expect(value, (int, float, Decimal), f"{name} is a number")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0, not {value}")


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
