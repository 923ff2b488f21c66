"""Planner, coder, reviewer and executor: agents that solve tasks by writing code and running it in a sandbox.

    result = await solve("Which region in sales.csv earned most?", model="gpt-5-mini", files=["sales.csv"])
    print(result.answer)

Importing this package has no effects and takes next to no time: a name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentexec.conversation import Agent, Conversation, NextSpeaker, converse
    from agentexec.errors import AgentexecError, ModelError, SettingsError, SnapshotError
    from agentexec.events import AnyEvent, Event, Message
    from agentexec.log import EventLog
    from agentexec.models.base import ChatMessage, Completion, Model, Usage
    from agentexec.result import BlockRecord, SolveResult
    from agentexec.search import Candidate, Score, SearchResult, best_of, check_command, tree_search
    from agentexec.snapshots.store import Snapshot, SnapshotStore
    from agentexec.solving import solve, solve_sync
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
    from agentexec.telemetry import Tracing

__all__ = [
    "Agent",
    "AgentexecError",
    "AnyEvent",
    "AnyStop",
    "BlockRecord",
    "Candidate",
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
    "Score",
    "SearchResult",
    "SettingsError",
    "Snapshot",
    "SnapshotError",
    "SnapshotStore",
    "SolveResult",
    "Stall",
    "Stop",
    "StopCondition",
    "TextSeen",
    "Tracing",
    "Usage",
    "best_of",
    "check_command",
    "converse",
    "solve",
    "solve_sync",
    "tree_search",
]

# asyncio and pydantic alone take most of the 150 ms that `import agentexec` may cost. No module may have the
# name of an export (hence `solving`): importing it would put the module in the export's place.
_HOMES = {
    "conversation": ("Agent", "Conversation", "NextSpeaker", "converse"),
    "errors": ("AgentexecError", "ModelError", "SettingsError", "SnapshotError"),
    "events": ("AnyEvent", "Event", "Message"),
    "log": ("EventLog",),
    "models.base": ("ChatMessage", "Completion", "Model", "Usage"),
    "search": ("Candidate", "Score", "SearchResult", "best_of", "check_command", "tree_search"),
    "snapshots.store": ("Snapshot", "SnapshotStore"),
    "result": ("BlockRecord", "SolveResult"),
    "solving": ("solve", "solve_sync"),
    "stops": (
        "AnyStop",
        "ConsecutiveFailures",
        "Deadline",
        "ExternalStop",
        "MaxCost",
        "MaxTokens",
        "MaxTurns",
        "Stall",
        "Stop",
        "StopCondition",
        "TextSeen",
    ),
    "telemetry": ("Tracing",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
