"""The human in the loop: who is asked, when, and what the answers mean.

    result = await solve(task, model=model, approve="risky", human=ask)

`ask` gets a `Question` and returns an `Answer`, or a shorthand for one: True approves, False rejects, and a string is
the reason of a rejection, or, where the question is of kind `input`, what the human says. It may be async. Question and
answer are events, so that the answer can come later and from elsewhere: a callback that raises `Suspended` ends the run
as `waiting`, and `solve(..., resume=events)` goes on with the answer, or asks again.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, NoReturn, TypeVar, get_args

from agentexec.conversation import Conversation
from agentexec.errors import HumanSilent, Suspended
from agentexec.events import Answer, Question, QuestionAnswered, QuestionAsked
from agentexec.log import EventLog
from agentexec.risks import risks_of
from sandboxes.types import CodeBlock

T = TypeVar("T")


class _Ask(enum.Enum):
    ASK = "ask"


ASK: Final = _Ask.ASK
"""What an `approve` function returns to leave the decision to the human."""

Reply = Answer | bool | str | None
"""What a human's callback may return. None, as from a function that forgot to return, rejects."""

Ask = Callable[[Question], Awaitable[Reply] | Reply]
"""Asks a human. May raise `Suspended`: the answer comes later, and the run ends as `waiting`."""

Approve = Callable[[CodeBlock], Awaitable[Reply | _Ask] | Reply | _Ask]
"""Decides about a block before it runs: True lets it, False or a string (the reason) does not; or `ASK`."""

Approval = Literal["never", "always", "risky"]
"""Of which blocks the human is asked: none, all, or those that `agentexec.risks` finds risky."""

PATIENCE = 3600.0
"""Seconds that a human has for an answer, unless told."""


@dataclass(frozen=True, slots=True)
class Human:
    """Who is asked, and for how long.

    Attributes:
        ask: The callback.
        timeout: Seconds to wait for an answer; None waits without end (but not beyond the run's deadline).
        silent: What happens then: `stop` ends the run with stop reason `human`, `reject` counts as a no.
    """

    ask: Ask
    timeout: float | None = PATIENCE
    silent: Literal["stop", "reject"] = "stop"

    def __post_init__(self) -> None:
        if not callable(self.ask):
            raise TypeError(f"human is a function of a Question, or a Human with one, not {type(self.ask).__name__}")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"the time to answer must be more than 0 seconds, not {self.timeout}")

    async def answer(self, question: Question, conversation: Conversation) -> Answer:
        """Ask, unless the question has been answered before the run was resumed.

        Raises:
            HumanSilent: nobody answered in time, and that stops the run.
            Suspended: the answer comes later.
            ValueError: the answer is none of the question's options.
        """
        for event in conversation.resumed:
            if isinstance(event, QuestionAnswered) and event.id == question.id:
                return _checked(event.answer, question)
        conversation.log.append(QuestionAsked(question=question))
        answer = await self._wait(question)
        conversation.log.append(QuestionAnswered(id=question.id, answer=answer))
        return answer

    async def _wait(self, question: Question) -> Answer:
        try:
            async with asyncio.timeout(self.timeout) as timer:
                return read_answer(await _value(self.ask(question)), question)
        except TimeoutError:
            if not timer.expired():
                raise
        message = f"nobody answered within {self.timeout:g} s"
        if self.silent == "stop":
            raise HumanSilent(f"{message}: {question.text}")
        return Answer(decision="reject", text=message)


def later(question: Question) -> NoReturn:
    """Leave every question to be answered later: `human=later` ends the run as `waiting` at the first one."""
    raise Suspended(f"waits for an answer to question {question.id}: {question.text}")


def as_human(human: Human | Ask | None) -> Human | None:
    """Return a callback as a `Human` with the usual patience."""
    return human if isinstance(human, Human) or human is None else Human(human)


def read_answer(reply: Reply, question: Question) -> Answer:
    """Return what a callback returned as an `Answer`.

    Raises:
        ValueError: it is none of the question's options.
    """
    if isinstance(reply, Answer):
        return _checked(reply, question)
    if isinstance(reply, str):
        return Answer(decision="answer" if question.kind == "input" else "reject", text=reply)
    # Only True approves: a callback that forgets to return must not let code run.
    return Answer(decision="approve" if reply is True and "approve" in question.options else "reject")


def _checked(answer: Answer, question: Question) -> Answer:
    # A rejection is always possible: it is what silence may count as.
    if answer.decision not in (*question.options, "reject"):
        may = ", ".join(question.options)
        raise ValueError(f"the answer to question {question.id} is {answer.decision!r}; it may be: {may}")
    if answer.decision == "edit" and not answer.text.strip():
        return Answer(decision="reject", text="everything was deleted from it")
    return answer


async def _value(value: Awaitable[T] | T) -> T:
    return await value if inspect.isawaitable(value) else value


class Gate:
    """Stands before the executor: lets a block run, or has somebody decide.

    Args:
        approve: Which blocks are asked about, or a function that decides.
        human: Who answers; needed for `always` and `risky`.
    """

    def __init__(self, approve: Approval | Approve = "never", human: Human | None = None) -> None:
        if not callable(approve) and approve not in get_args(Approval):
            raise ValueError(f"approve={approve!r}: choose from {', '.join(get_args(Approval))}, or give a function")
        if approve in ("always", "risky") and human is None:
            raise ValueError(f"approve={approve!r} needs somebody to ask: give human=")
        self.approve, self.human = approve, human
        self._rules: _Rules | None = None

    async def decide(self, block: CodeBlock, turn: int, index: int, conversation: Conversation) -> Answer:
        """Return what is to happen with a block. See `Human.answer` for errors."""
        if self.approve == "never":
            return Answer(decision="approve")
        risks = risks_of(block)
        if self.approve == "risky" and not risks:
            return Answer(decision="approve")
        if self._rules is None or self._rules.events is not conversation.log.events:
            self._rules = _Rules(conversation.log)
        if (answer := self._rules.answer(block, risks)) is not None:
            return answer
        seems = f" It seems to: {', '.join(risks)}." if risks else ""
        question = Question(
            id=f"block-{turn}-{index}",
            kind="block",
            text=f"Run this {block.language} block?{seems}",
            options=("approve", "edit", "reject", "answer"),
            turn=turn,
            block=block,
            risks=risks,
        )
        return await self._asked().answer(question, conversation)

    def _asked(self) -> Human:
        human, decide = self.human, self.approve
        if isinstance(decide, str):
            assert human is not None
            return human

        async def ask(question: Question) -> Reply:
            assert question.block is not None
            reply = await _value(decide(question.block))
            if reply is not ASK:
                return reply
            if human is None:
                raise ValueError("approve returned ASK, and there is nobody to ask: give human=")
            return await _value(human.ask(question))

        return Human(ask, None) if human is None else Human(ask, human.timeout, human.silent)


class _Rules:
    """What was decided `always`: a fold over a run's log, which reads each event once."""

    def __init__(self, log: EventLog) -> None:
        self.events = log.events
        self._read = 0
        self._questions: dict[str, Question] = {}
        self._rules: list[tuple[Question, Answer]] = []

    def answer(self, block: CodeBlock, risks: tuple[str, ...]) -> Answer | None:
        """Return the decision that holds for a block, if one does; the latest first."""
        for event in self.events[self._read :]:
            if isinstance(event, QuestionAsked) and event.question.kind == "block":
                self._questions[event.question.id] = event.question
            elif isinstance(event, QuestionAnswered) and event.answer.always and event.id in self._questions:
                self._rules.append((self._questions[event.id], event.answer))
        self._read = len(self.events)
        for question, answer in reversed(self._rules):
            assert question.block is not None
            known, found = set(question.risks), set(risks)
            # A yes covers what does no more than what was seen, a no what does at least that.
            covered = found <= known if answer.decision == "approve" else found >= known and bool(found) == bool(known)
            if answer.decision in ("approve", "reject") and question.block.language == block.language and covered:
                return answer
        return None
