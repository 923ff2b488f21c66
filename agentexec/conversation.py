"""The conversation and its loop: while nothing says stop, the next speaker adds a message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, overload

from agentexec.events import Message, MessageAdded, TurnStarted
from agentexec.log import EventLog
from agentexec.stops import Stop

TASK = "task"
"""Sender of the first message, which is the user's task."""


class Conversation(Sequence[Message]):
    """What was said, in order. Append-only; every message is an event in the log.

    Args:
        task: The user's task, message 0.
        log: Where messages, and whatever agents report while they work, are recorded.
    """

    def __init__(self, task: str, log: EventLog) -> None:
        self.log = log
        self._messages: list[Message] = []
        self._latest: dict[str, Message] = {}
        self.add(TASK, task)

    def add(self, sender: str, reply: str | Message) -> Message:
        """Append what `sender` said, give it the next turn number, and return the message as added."""
        said = reply if isinstance(reply, Message) else Message(sender=sender, content=reply)
        message = said.model_copy(update={"sender": sender, "turn": len(self._messages)})
        self._messages.append(message)
        self._latest[sender] = message
        self.log.append(MessageAdded(message=message))
        return message

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

    Attributes:
        name: The sender of its messages.
    """

    @property
    def name(self) -> str:
        """The sender of the agent's messages."""

    async def reply(self, conversation: Conversation) -> str | Message:
        """Return the next message: its text, or a `Message` of which `sender` and `turn` are ignored."""


NextSpeaker = Callable[[Conversation], Agent | None]
"""Who speaks next, as a function of the conversation; None when it has come to its end."""


async def converse(
    conversation: Conversation, next_speaker: NextSpeaker, stopped: Callable[[], Stop | None]
) -> Stop | None:
    """Let agents speak until nobody is left to, or `stopped` says why not.

    Returns:
        None if the conversation came to its own end, which counts also when a limit was reached with the
        last message; else what stopped it.
    """
    while (agent := next_speaker(conversation)) is not None:
        # Without this, agents that never wait would keep a cancellation or a deadline from arriving.
        await asyncio.sleep(0)
        if (stop := stopped()) is not None:
            return stop
        conversation.log.append(TurnStarted(turn=len(conversation), agent=agent.name))
        conversation.add(agent.name, await agent.reply(conversation))
    return None
