"""The one append-only record of a run. Views, stores, stop conditions and tests are listeners on it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import overload

from agentexec.events import Event

Listener = Callable[[Event], None]
"""Called with every event, in the order of the log. Must not block; what takes longer goes to `EventLog.defer`."""

Kinds = tuple[type[Event], ...]
"""Kinds of event, such as `(MessageAdded, BlockFinished)`."""

ALL: Kinds = (Event,)


def new_run_id() -> str:
    """Return an id for a run; ids sort by the time they were made.

    UTC to the second, then five hex digits of microseconds and four random ones, as in
    `20261120T120000-7a120c3f1`.
    """
    seconds, micros = divmod(time.time_ns() // 1000, 1_000_000)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
    return f"{stamp}-{micros:05x}{secrets.token_hex(2)}"


class EventLog(Sequence[Event]):
    """Keeps events in order and tells listeners of each.

    Transient events (`Event.transient`) are published and not kept. A listener that raises does not stop
    the others and does not damage the log: the event is kept, everybody sees it, and only then is the
    first error raised out of `append`, with the others as notes on it. A listener may append: its event
    is published after the current one has reached everybody, so all listeners see one order.

    Not thread-safe: append from the thread of the event loop.

    Args:
        run_id: Identity of the run; None makes one.
        recorder: Called with each event that is kept, before it is, and before anybody hears of it; an error of it
            is raised out of `append`, and then the event has not happened. So a store has what was shown.
        past: What has happened in the run already; neither recorder nor listeners are told of it again.
    """

    def __init__(self, run_id: str | None = None, recorder: Listener | None = None, past: Iterable[Event] = ()) -> None:
        self.run_id = run_id or new_run_id()
        self._recorder = recorder
        self._events: list[Event] = list(past)
        self._listeners: list[tuple[Listener, Kinds]] = []
        self._heard_by: dict[type[Event], tuple[Listener, ...]] = {}
        self._unpublished: deque[Event] = deque()
        self._publishing = False
        self._deferred: deque[Callable[[], Awaitable[None]]] = deque()
        self._settling = asyncio.Lock()

    @property
    def events(self) -> Sequence[Event]:
        """The run's events so far, for reading: a list that grows. The same one for the logs of nested teams."""
        return self._events

    def append(self, event: Event) -> None:
        """Keep an event (unless it is transient) and tell every listener."""
        if not event.transient:
            if self._recorder is not None:
                self._recorder(event)
            self._events.append(event)
        self._unpublished.append(event)
        if not self._publishing:
            self._publish()

    def subscribe(self, listener: Listener, kinds: Kinds = ALL) -> Callable[[], None]:
        """Call `listener` with every event from now on, or with those of some kinds.

        Returns:
            A function that ends the subscription; calling it again has no effect.
        """
        entry = (listener, kinds)
        self._listeners.append(entry)
        self._heard_by.clear()

        def unsubscribe() -> None:
            # By identity: the same function may be subscribed twice.
            self._listeners[:] = [each for each in self._listeners if each is not entry]
            self._heard_by.clear()

        return unsubscribe

    def _hearing(self, kind: type[Event]) -> tuple[Listener, ...]:
        """Return who hears events of a kind, looked up once for each kind."""
        found = self._heard_by.get(kind)
        if found is None:
            found = tuple(listener for listener, kinds in self._listeners if issubclass(kind, kinds))
            self._heard_by[kind] = found
        return found

    def defer(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have something done before the run goes on, while the event loop goes on with other runs.

        For listeners whose answer to an event takes time, and which must find things as the event left them.
        """
        self._deferred.append(work)

    async def settled(self) -> None:
        """Do what was deferred. Who runs a block or asks an agent waits for this first.

        What is cancelled on the way is done at the next call, if there is one.
        """
        if not self._deferred and not self._settling.locked():
            return
        async with self._settling:  # agents that speak at the same time wait for each other's
            while self._deferred:
                work = self._deferred.popleft()
                try:
                    await work()
                except asyncio.CancelledError:
                    self._deferred.appendleft(work)
                    raise

    def _publish(self) -> None:
        errors: list[Exception] = []
        self._publishing = True
        try:
            while self._unpublished:
                event = self._unpublished.popleft()
                for listener in self._hearing(type(event)):
                    try:
                        listener(event)
                    except Exception as error:
                        errors.append(error)
        finally:
            self._publishing = False
        if errors:
            first, *others = errors
            for other in others:
                first.add_note(f"another listener failed too: {other!r}")
            raise first

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        return self._events[index]


class TeamLog(EventLog):
    """The log of a run as a nested team writes to it: each event is marked with where it happened.

    Args:
        log: The run's log, or that of the team around this one.
        path: The team's path, as in `Event.team`.
    """

    def __init__(self, log: EventLog, path: str) -> None:
        self.run_id = log.run_id
        self.path = path
        self._log = log
        # The same objects, not copies: to read it or to listen to it is to do so with the whole run.
        self._events, self._listeners, self._heard_by = log._events, log._listeners, log._heard_by
        self._deferred, self._settling = log._deferred, log._settling

    def append(self, event: Event) -> None:
        """Keep an event in the run's log, marked with the team's path."""
        self._log.append(event if event.team else event.model_copy(update={"team": self.path}))
