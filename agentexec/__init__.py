"""Planner, coder, reviewer and executor: agents that solve tasks by writing code and running it in a sandbox.

    result = await solve("Which region in sales.csv earned most?", model="gpt-5-mini", files=["sales.csv"])
    print(result.answer)

Importing this package has no effects, and loads neither a model client nor a container engine.
"""

from agentexec.conversation import Agent, Conversation, NextSpeaker, converse
from agentexec.errors import AgentexecError, ModelError, SettingsError
from agentexec.events import AnyEvent, Event, Message
from agentexec.log import EventLog
from agentexec.models.base import ChatMessage, Completion, Model, Usage
from agentexec.result import BlockRecord, SolveResult
from agentexec.solve import solve, solve_sync
from agentexec.stops import (
    AnyStop,
    ConsecutiveFailures,
    Deadline,
    ExternalStop,
    MaxCost,
    MaxTokens,
    MaxTurns,
    Stall,
    Stop,
    StopCondition,
    TextSeen,
)

__all__ = [
    "Agent",
    "AgentexecError",
    "AnyEvent",
    "AnyStop",
    "BlockRecord",
    "ChatMessage",
    "Completion",
    "ConsecutiveFailures",
    "Conversation",
    "Deadline",
    "Event",
    "EventLog",
    "ExternalStop",
    "MaxCost",
    "MaxTokens",
    "MaxTurns",
    "Message",
    "Model",
    "ModelError",
    "NextSpeaker",
    "SettingsError",
    "SolveResult",
    "Stall",
    "Stop",
    "StopCondition",
    "TextSeen",
    "Usage",
    "converse",
    "solve",
    "solve_sync",
]
