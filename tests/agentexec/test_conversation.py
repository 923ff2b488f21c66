"""The conversation and its loop, with agents of a few lines."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine

import pytest

from agentexec.conversation import Agent, Conversation, converse
from agentexec.events import Message, MessageAdded, TurnStarted
from agentexec.log import EventLog
from agentexec.stops import MaxTurns, Stop, StopWatch
from agentexec.turns import accepted_answer


class Counter:
    """Says how many messages there are."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def reply(self, conversation: Conversation) -> str | Message:
        text = str(len(conversation))
        return text if self.name == "ann" else Message(sender="somebody else", content=text, turn=99, cut=True)


ANN, BOB = Counter("ann"), Counter("bob")


def until(turns: int) -> tuple[Conversation, StopWatch]:
    log = EventLog()
    watch = StopWatch(MaxTurns(turns))
    log.subscribe(watch)
    return Conversation("Count.", log), watch


def in_turns(conversation: Conversation) -> Agent | None:
    return BOB if conversation[-1].sender == "ann" else ANN


async def test_agents_speak_until_stopped() -> None:
    conversation, watch = until(3)
    stop = await converse(conversation, in_turns, watch.stopped)
    assert stop is not None
    assert stop.reason == "max_turns"
    assert [(m.sender, m.content, m.turn, m.cut) for m in conversation] == [
        ("task", "Count.", 0, False),
        ("ann", "1", 1, False),
        ("bob", "2", 2, True),
        ("ann", "3", 3, False),
    ]


async def test_the_end_of_the_conversation_goes_before_a_limit() -> None:
    conversation, watch = until(2)
    assert await converse(conversation, lambda c: ANN if len(c) < 3 else None, watch.stopped) is None
    assert len(conversation) == 3


async def test_a_stop_before_the_first_turn() -> None:
    conversation, _ = until(1)
    stop = Stop("stopped", "no")
    assert await converse(conversation, in_turns, lambda: stop) is stop
    assert len(conversation) == 1


async def test_a_choice_that_a_cancellation_overtakes_is_closed() -> None:
    log = EventLog()
    conversation, deferred = Conversation("task", log), asyncio.Event()
    choices: list[Coroutine[object, object, None]] = []

    async def hold() -> None:
        deferred.set()
        await asyncio.Event().wait()

    async def choose() -> None: ...

    def next_speaker(conversation: Conversation) -> Coroutine[object, object, None]:
        choices.append(choose())
        return choices[-1]

    log.defer(hold)
    talking = asyncio.ensure_future(converse(conversation, next_speaker, lambda: None))
    await deferred.wait()
    talking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await talking
    assert [inspect.getcoroutinestate(each) for each in choices] == [inspect.CORO_CLOSED]


async def test_every_turn_and_message_is_an_event() -> None:
    conversation, watch = until(2)
    await converse(conversation, in_turns, watch.stopped)
    log = conversation.log
    assert [type(event) for event in log] == [
        MessageAdded,
        TurnStarted,
        MessageAdded,
        TurnStarted,
        MessageAdded,
    ]
    assert [(event.turn, event.agent) for event in log if isinstance(event, TurnStarted)] == [
        (1, "ann"),
        (2, "bob"),
    ]
    assert [event.message for event in log if isinstance(event, MessageAdded)] == list(conversation)


def test_the_latest_message_of_an_agent() -> None:
    conversation, _ = until(1)
    assert conversation.latest("coder") is None
    assert accepted_answer(conversation) is None
    conversation.add("coder", "FINAL ANSWER: 1")
    last = conversation.add("coder", "FINAL ANSWER: 2")
    assert conversation.latest("coder") is last is conversation[-1]
    assert accepted_answer(conversation) == "2"
    assert conversation[1:] == [conversation[1], last]
