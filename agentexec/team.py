"""Teams: a team is an agent whose message is what came of a conversation of its own.

research = Team("research", round_robin([searcher, critic]), stop=MaxTurns(6))
outer = sequential([research, writer])
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from agentexec.conversation import TASK, Agent, Conversation, NextSpeaker, converse
from agentexec.errors import Suspended
from agentexec.events import Event, Message
from agentexec.markdown import read_reply
from agentexec.stops import AnyStop, Stop, StopWatch
from agentexec.turns import by_name


def outcome(conversation: Conversation) -> str:
    """Return the final answer in the last message or, if it holds none, the message itself."""
    last = conversation[-1]
    return read_reply(last.content, cut=last.cut).answer or last.content


def brief(conversation: Conversation) -> str:
    """Return the task of a nested team: that of the conversation around it, and the last thing said there."""
    task, last = conversation[0], conversation[-1]
    return task.content if last is task else f"{task.content}\n\n# Message from the {last.sender}\n\n{last.content}"


@dataclass(frozen=True)
class Team:
    """A conversation that is an agent.

    Attributes:
        name: Sender of its messages.
        next_speaker: Who speaks in it.
        stop: What stops it, beginning anew each time it speaks; None leaves that to the conversation around it.
        answer: What came of its conversation.
        brief: Its task, from the conversation around it.
        description: What it is for, for a model that selects.
    """

    name: str
    next_speaker: NextSpeaker
    stop: AnyStop | None = None
    answer: Callable[[Conversation], str | None] = outcome
    brief: Callable[[Conversation], str] = brief
    description: str = ""

    async def reply(self, conversation: Conversation) -> str:
        """Converse, and return what came of it; if it was stopped, also why."""
        inner = conversation.nested(self.name, self.brief(conversation))
        stop = await self._converse(inner)
        said = self.answer(inner) or ""
        return said if stop is None else f"{said}\n\n(The team was stopped: {stop.message})".strip()

    async def _converse(self, inner: Conversation) -> Stop | None:
        if self.stop is None:
            return await converse(inner, self.next_speaker, lambda: None)

        def inside(event: Event) -> bool:
            return event.team == inner.path or event.team.startswith(f"{inner.path}/")

        watch = StopWatch(self.stop, past=filter(inside, inner.log))
        unsubscribe = inner.log.subscribe(lambda event: watch(event) if inside(event) else None, self.stop.hears)
        try:
            async with asyncio.timeout(watch.certain_after) as timer:
                return await converse(inner, self.next_speaker, watch.stopped)
        except TimeoutError:
            if not timer.expired():
                raise
            return Stop("deadline", "its time is over")
        finally:
            unsubscribe()


def side_by_side(replies: Sequence[Message]) -> str:
    """Return all replies under the names of those who gave them."""
    return "\n\n".join(f"# {reply.sender}\n\n{reply.content}" for reply in replies)


@dataclass(frozen=True)
class Concurrent:
    """Several agents who answer the same conversation at the same time; their replies are joined to one message.

    Attributes:
        name: Sender of the joined message.
        agents: Who is asked; each with a name of its own.
        join: Makes one text of the replies, which are in the order of `agents`.
        description: What they are for, for a model that selects.
    """

    name: str
    agents: Sequence[Agent]
    join: Callable[[Sequence[Message]], str] = side_by_side
    description: str = ""

    def __post_init__(self) -> None:
        by_name(self.agents)  # replies are told apart by who gave them

    async def reply(self, conversation: Conversation) -> str:
        """Ask all, wait for all, and join. Whoever had answered before an interruption is not asked again.

        Raises:
            Exception: the first error of an agent, once all have ended. That an answer comes later goes last.
        """
        aside = conversation.nested(self.name, conversation[0].content)

        async def ask(agent: Agent) -> Message:
            return aside.latest(agent.name) or aside.add(agent.name, await agent.reply(conversation))

        results = await asyncio.gather(*(ask(agent) for agent in self.agents), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        for error in sorted(errors, key=lambda error: isinstance(error, Suspended)):
            raise error
        return self.join([result for result in results if isinstance(result, Message)])


@dataclass(frozen=True)
class FunctionAgent:
    """A function that is an agent; see `agent`."""

    name: str
    function: Callable[[Conversation], Awaitable[str | Message] | str | Message]
    description: str = ""

    async def reply(self, conversation: Conversation) -> str | Message:
        """Call the function."""
        said = self.function(conversation)
        return said if isinstance(said, str | Message) else await said


def agent(
    name: str,
    function: Callable[[Conversation], Awaitable[str | Message] | str | Message],
    description: str = "",
) -> FunctionAgent:
    """Return an agent that says what a function (plain or async) of the conversation returns.

    A tool that is no model is one, too: `agent("counter", lambda conversation: str(len(conversation[-1].content)))`.
    """
    if name == TASK or not name:
        raise ValueError(f"an agent cannot be called {name!r}")
    return FunctionAgent(name, function, description)
