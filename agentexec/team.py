"""Who speaks next, as functions of the conversation."""

from __future__ import annotations

from agentexec.agents.reviewer import read_review
from agentexec.conversation import Agent, Conversation, NextSpeaker
from agentexec.markdown import read_reply


def solve_cycle(
    *,
    coder: Agent,
    executor: Agent,
    planner: Agent | None = None,
    human: Agent | None = None,
    reviewer: Agent | None = None,
) -> NextSpeaker:
    """Return the order of turns of `solve`.

    The planner speaks once, or, if a human reviews the plan, until that is approved. Then the coder writes, the
    reviewer approves or sends back, the executor runs, and the coder is told. A message of the coder with neither code
    nor an answer goes to the executor, who says so. The end is a final answer of the coder that the reviewer, if there
    is one, approves.
    """

    def next_speaker(conversation: Conversation) -> Agent | None:
        last = conversation[-1]
        written = conversation.latest(coder.name)
        if written is None:
            if planner is None:
                return coder
            if last.sender == planner.name:
                return human or coder
            planned = human is not None and last.sender == human.name and read_review(last.content).approved
            return coder if planned else planner
        reply = read_reply(written.content, cut=written.cut)
        takes_effect = executor if reply.answer is None else None
        if last.sender == coder.name:
            return takes_effect if reviewer is None or reply.idle else reviewer
        if reviewer is not None and last.sender == reviewer.name and read_review(last.content).approved:
            return takes_effect
        return coder

    return next_speaker


def accepted_answer(conversation: Conversation, author: str = "coder") -> str | None:
    """Return the final answer in the author's last message, or None if that holds none."""
    written = conversation.latest(author)
    return None if written is None else read_reply(written.content, cut=written.cut).answer
