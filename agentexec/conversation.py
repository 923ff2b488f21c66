"""The conversation and its loop: while nothing says stop, the next speaker adds a message."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, overload

from agentexec.events import Event, Message, MessageAdded, TurnStarted
from agentexec.log import EventLog, TeamLog
from agentexec.stops import Stop

TASK = "task"
"""Sender of the first message, which is the user's task."""


@dataclass(slots=True)
class _Shared:
    """What all conversations of one run share: the count of turns, and what nested teams had said before."""

    turn: int = 0
    past: dict[str, list[Event]] = field(default_factory=dict)


class Conversation(Sequence[Message]):
    """What was said: a sequence of `Message`, as in `conversation[-1].content`. Append-only.

    Every message is an event in the log.

    Args:
        task: The user's task, message 0.
        log: Where messages, and whatever agents report while they work, are recorded.

    Attributes:
        log: The run's log; a nested team's events are marked with its path on their way there.
        path: Empty, or the path of the nested team whose conversation it is (`Event.team`).
        resumed: The events of a turn that was interrupted before its message came, where the run was resumed in the
            middle of it; else empty. An agent finds there what it has done already.
    """

    def __init__(self, task: str, log: EventLog) -> None:
        self._begin(log, "", _Shared())
        self.add(TASK, task)

    @classmethod
    def restore(cls, log: EventLog) -> Self:
        """Rebuild the conversation of a run from its events, so that it goes on where they end.

        Args:
            log: Holds the events so far; further ones are appended to it.

        Raises:
            ValueError: there is no task among the events.
        """
        shared = _Shared()
        for event in log:
            shared.past.setdefault(event.team, []).append(event)
            if isinstance(event, MessageAdded | TurnStarted):
                turn = event.turn if isinstance(event, TurnStarted) else event.message.turn
                shared.turn = max(shared.turn, turn + 1)
        return cls._restored(log, "", shared)

    @classmethod
    def _restored(cls, log: EventLog, path: str, shared: _Shared) -> Self:
        conversation = cls.__new__(cls)
        conversation._begin(log, path, shared)
        unfinished: list[Event] = []
        for event in shared.past.pop(path, ()):
            if isinstance(event, MessageAdded):
                conversation._keep(event.message)
                unfinished.clear()
                conversation._turn = None
            else:
                unfinished.append(event)
                if isinstance(event, TurnStarted):
                    conversation._turn = event.turn
        if not len(conversation):
            raise ValueError("the events hold no message to go on from")
        conversation.resumed = tuple(unfinished)
        return conversation

    def _begin(self, log: EventLog, path: str, shared: _Shared) -> None:
        self.log, self.path, self._shared = log, path, shared
        self.resumed: tuple[Event, ...] = ()
        self._messages: list[Message] = []
        self._latest: dict[str, Message] = {}
        self._turn: int | None = None

    def nested(self, name: str, task: str) -> Conversation:
        """Return the conversation of a nested team for the message that is due here; the one it has begun, if any.

        Args:
            name: The team's, or whoever else talks aside.
            task: Message 0 of the new conversation.
        """
        path = f"{self.path}/{name}#{len(self)}".removeprefix("/")
        log = TeamLog(self.log, path)
        if path in self._shared.past:
            return type(self)._restored(log, path, self._shared)
        conversation = Conversation.__new__(type(self))
        conversation._begin(log, path, self._shared)
        conversation.add(TASK, task)
        return conversation

    def start_turn(self) -> int:
        """Return the number that the next message will have."""
        if self._turn is None:
            self._turn = self._shared.turn
            self._shared.turn += 1
        return self._turn

    def add(self, sender: str, reply: str | Message) -> Message:
        """Append what `sender` said, give it its turn number, and return the message as added."""
        if isinstance(reply, str):
            message = Message(sender=sender, content=reply, turn=self.start_turn())
        else:
            message = reply.model_copy(update={"sender": sender, "turn": self.start_turn()})
        self._turn, self.resumed = None, ()
        self._keep(message)
        self.log.append(MessageAdded(message=message))
        return message

    def _keep(self, message: Message) -> None:
        self._messages.append(message)
        self._latest[message.sender] = message

    def latest(self, sender: str) -> Message | None:
        """Return the last message of an agent, or None if it has not spoken."""
        return self._latest.get(sender)

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        return self._messages[index]


class Agent(Protocol):
    """Whoever takes part: a name, and, given the conversation, the next message.

    An agent keeps nothing between turns that it could not find in the conversation and its log again, so that a
    run can be rebuilt from its events and go on.

    Attributes:
        name: The sender of its messages.
    """

    @property
    def name(self) -> str:
        """The sender of the agent's messages."""

    async def reply(self, conversation: Conversation) -> str | Message:
        """Return the next message: its text, or a `Message` of which `sender` and `turn` are ignored."""


NextSpeaker = Callable[[Conversation], Agent | Awaitable[Agent | None] | None]
"""Who speaks next, as a function of the conversation; None when it has come to its end. May be async."""


async def converse(
    conversation: Conversation, next_speaker: NextSpeaker, stopped: Callable[[], Stop | None]
) -> Stop | None:
    """Let agents speak until nobody is left to, or `stopped` says why not.

    Returns:
        None if the conversation came to its own end, which counts also when a limit was reached with the
        last message; else what stopped it.
    """
    while (choice := next_speaker(conversation)) is not None:
        try:
            # Without this, agents that never wait would keep a cancellation or a deadline from arriving.
            await asyncio.sleep(0)
            await conversation.log.settled()
            if (stop := stopped()) is not None:
                return stop
            agent = await choice if inspect.isawaitable(choice) else choice
        finally:
            if inspect.iscoroutine(choice):
                choice.close()  # has no effect on one that was awaited
        if agent is None:
            return None
        conversation.log.append(TurnStarted(turn=conversation.start_turn(), agent=agent.name))
        conversation.add(agent.name, await agent.reply(conversation))
    return None
