"""Who takes part in a conversation. An agent is a name and, given the conversation, the next message."""

from agentexec.agents.base import ModelAgent, load_prompt
from agentexec.agents.coder import coder
from agentexec.agents.executor import ExecutorAgent
from agentexec.agents.human import HumanAgent, PlanReview
from agentexec.agents.planner import planner
from agentexec.agents.reviewer import Review, read_review, reviewer

__all__ = [
    "ExecutorAgent",
    "HumanAgent",
    "ModelAgent",
    "PlanReview",
    "Review",
    "coder",
    "load_prompt",
    "planner",
    "read_review",
    "reviewer",
]
