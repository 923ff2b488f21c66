"""The human as an agent: reviews the plan, or says what the conversation waits for."""

from __future__ import annotations

from agentexec.conversation import Conversation
from agentexec.events import Question
from agentexec.human import Human

NAME = "human"


class HumanAgent:
    """Says what a person types when it is its turn.

    Args:
        human: Who is asked.
        name: Sender of the messages.
    """

    def __init__(self, human: Human, name: str = NAME) -> None:
        self.human, self.name = human, name

    async def reply(self, conversation: Conversation) -> str:
        """Ask for the next message.

        Raises:
            Suspended: it comes later.
            HumanSilent: it did not come in time.
        """
        last = conversation[-1]
        question = Question(
            # Two people may be asked about one message.
            id=f"input-{last.turn}" if self.name == NAME else f"input-{last.turn}-{self.name}",
            kind="input",
            text=f"What does the {self.name} say to the {last.sender}?",
            options=("answer",),
            turn=last.turn,
            content=last.content,
        )
        answer = await self.human.answer(question, conversation)
        if answer.decision == "answer":
            return answer.text
        return f"(No answer: {answer.text})" if answer.text else "(No answer.)"


class PlanReview:
    """Has a person approve, edit or reject the plan in the last message, and says so as a reviewer does.

    Args:
        human: Who is asked.
        name: Sender of the messages.
    """

    def __init__(self, human: Human, name: str = NAME) -> None:
        self.human, self.name = human, name

    async def reply(self, conversation: Conversation) -> str:
        """Ask about the last message.

        Returns:
            `APPROVE`; with the plan that takes the other's place, if it was edited; or `REVISE: reason`.

        Raises:
            Suspended: the answer comes later.
            HumanSilent: it did not come in time.
        """
        last = conversation[-1]
        question = Question(
            id=f"plan-{last.turn}",
            kind="plan",
            text="Is this plan good?",
            options=("approve", "edit", "reject"),
            turn=last.turn,
            content=last.content,
        )
        answer = await self.human.answer(question, conversation)
        if answer.decision == "approve":
            return "APPROVE"
        if answer.decision == "edit":
            return f"APPROVE, with changes. This plan counts:\n\n{answer.text}"
        return f"REVISE: {answer.text or 'the plan is rejected; write another one'}"
