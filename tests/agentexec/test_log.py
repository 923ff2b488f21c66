"""The event log."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentexec.events import Event, ModelText, TurnStarted
from agentexec.log import EventLog, new_run_id


def turn(number: int) -> TurnStarted:
    return TurnStarted(turn=number, agent="coder")


@given(st.lists(st.booleans()))
def test_keeps_order_and_publishes_transient_events_without_keeping_them(kinds: list[bool]) -> None:
    events: list[Event] = [
        ModelText(agent="coder", text=str(n)) if transient else turn(n) for n, transient in enumerate(kinds)
    ]
    log, seen = EventLog(), list[Event]()
    log.subscribe(seen.append)
    for event in events:
        log.append(event)
    assert seen == events
    assert list(log) == [event for event in events if not event.transient]


def test_is_a_sequence() -> None:
    log = EventLog()
    for number in range(3):
        log.append(turn(number))
    assert (len(log), log[0], log[-1], log[1:]) == (
        3,
        turn(0).model_copy(update={"time": log[0].time}),
        log[2],
        [log[1], log[2]],
    )


def test_unsubscribing_ends_it_and_may_be_repeated() -> None:
    log, seen = EventLog(), list[Event]()
    first, second = log.subscribe(seen.append), log.subscribe(seen.append)
    first()
    first()
    log.append(turn(0))
    assert len(seen) == 1
    second()
    log.append(turn(1))
    assert len(seen) == 1


def test_a_listener_may_hear_some_kinds_only() -> None:
    log, turns, texts, nothing, everything = EventLog(), list[Event](), list[Event](), list[Event](), list[Event]()
    log.append(turn(0))  # who hears what is looked up anew after this
    end = log.subscribe(turns.append, (TurnStarted,))
    log.subscribe(texts.append, (ModelText,))
    log.subscribe(nothing.append, ())
    log.subscribe(everything.append)
    events = [turn(1), ModelText(agent="coder", text="x"), turn(2)]
    for event in events:
        log.append(event)
    assert (turns, texts, nothing, everything) == ([events[0], events[2]], [events[1]], [], events)
    end()
    log.append(turn(3))
    assert turns == [events[0], events[2]]


def test_a_listener_that_raises_hides_nothing_from_the_others_and_is_heard() -> None:
    log, seen = EventLog(), list[Event]()

    def fails(event: Event) -> None:
        raise ValueError("first")

    def fails_too(event: Event) -> None:
        raise KeyError("second")

    for listener in (fails, fails_too, seen.append):
        log.subscribe(listener)
    with pytest.raises(ValueError, match="first") as caught:
        log.append(turn(0))
    assert caught.value.__notes__ == ["another listener failed too: KeyError('second')"]
    with pytest.raises(ValueError, match="first"):
        log.append(turn(1))
    assert list(log) == seen
    assert len(seen) == 2


def test_a_listener_may_append_and_all_see_one_order() -> None:
    log, early, late = EventLog(), list[Event](), list[Event]()

    def answers(event: Event) -> None:
        if isinstance(event, TurnStarted) and event.turn == 0:
            log.append(turn(1))

    log.subscribe(early.append)
    log.subscribe(answers)
    log.subscribe(late.append)
    log.append(turn(0))
    assert early == late == list(log)
    assert [event.turn for event in late if isinstance(event, TurnStarted)] == [0, 1]


def test_run_ids_sort_by_time_and_differ() -> None:
    ids = []
    for _ in range(50):
        ids.append(new_run_id())
        time.sleep(0.000_01)
    assert ids == sorted(set(ids))
    assert len({len(run_id) for run_id in ids}) == 1
    assert EventLog("mine").run_id == "mine"
