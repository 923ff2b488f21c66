"""Who takes part in a conversation. An agent is a name and, given the conversation, the next message."""

from agentexec.agents.base import ModelAgent, load_prompt
from agentexec.agents.coder import coder
from agentexec.agents.executor import Approve, ExecutorAgent
from agentexec.agents.planner import planner
from agentexec.agents.reviewer import Review, read_review, reviewer

__all__ = [
    "Approve",
    "ExecutorAgent",
    "ModelAgent",
    "Review",
    "coder",
    "load_prompt",
    "planner",
    "read_review",
    "reviewer",
]
