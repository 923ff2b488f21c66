"""Planner, coder, reviewer and executor: agents that solve tasks by writing code and running it in a sandbox.

    result = await solve("Which region in sales.csv earned most?", model="gpt-5-mini", files=["sales.csv"])
    print(result.answer)

Importing this package has no effects and takes next to no time: a name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentexec.agents import ExecutorAgent, HumanAgent, ModelAgent, PlanReview
    from agentexec.context import Context
    from agentexec.conversation import Agent, Conversation, NextSpeaker, converse
    from agentexec.errors import AgentexecError, ModelError, SettingsError, SnapshotError, Suspended
    from agentexec.events import Answer, AnyEvent, Event, Message, Question
    from agentexec.human import ASK, Human, later
    from agentexec.ledger import LedgerStall, managed
    from agentexec.log import EventLog
    from agentexec.models.base import ChatMessage, Completion, Model, Usage
    from agentexec.parts import Parts
    from agentexec.plan import Plan
    from agentexec.result import AgentUsage, BlockRecord, SolveResult
    from agentexec.risks import risks_of
    from agentexec.search import Candidate, Score, SearchResult, best_of, check_command, tree_search
    from agentexec.snapshots.store import Snapshot, SnapshotStore
    from agentexec.solving import solve, solve_sync
    from agentexec.stops import (
        AnyStop,
        ConsecutiveFailures,
        Deadline,
        ExternalStop,
        HandedTo,
        MaxCost,
        MaxMessages,
        MaxTokens,
        MaxTurns,
        RepeatedCode,
        RepeatedError,
        SourceSpoke,
        Stall,
        Stop,
        StopCondition,
        StopWhen,
        TextSeen,
    )
    from agentexec.team import Concurrent, Team, agent
    from agentexec.teamspec import TeamSpec, dump_team, load_team, read_team
    from agentexec.telemetry import Tracing
    from agentexec.turns import (
        Edge,
        answered,
        approved,
        graph,
        handoff,
        has_code,
        negated,
        round_robin,
        says,
        selector,
        sequential,
        solve_cycle,
    )

__all__ = [
    "ASK",
    "Agent",
    "AgentUsage",
    "AgentexecError",
    "Answer",
    "AnyEvent",
    "AnyStop",
    "BlockRecord",
    "Candidate",
    "ChatMessage",
    "Completion",
    "Concurrent",
    "ConsecutiveFailures",
    "Context",
    "Conversation",
    "Deadline",
    "Edge",
    "Event",
    "EventLog",
    "ExecutorAgent",
    "ExternalStop",
    "HandedTo",
    "Human",
    "HumanAgent",
    "LedgerStall",
    "MaxCost",
    "MaxMessages",
    "MaxTokens",
    "MaxTurns",
    "Message",
    "Model",
    "ModelAgent",
    "ModelError",
    "NextSpeaker",
    "Parts",
    "Plan",
    "PlanReview",
    "Question",
    "RepeatedCode",
    "RepeatedError",
    "Score",
    "SearchResult",
    "SettingsError",
    "Snapshot",
    "SnapshotError",
    "SnapshotStore",
    "SolveResult",
    "SourceSpoke",
    "Stall",
    "Stop",
    "StopCondition",
    "StopWhen",
    "Suspended",
    "Team",
    "TeamSpec",
    "TextSeen",
    "Tracing",
    "Usage",
    "agent",
    "answered",
    "approved",
    "best_of",
    "check_command",
    "converse",
    "dump_team",
    "graph",
    "handoff",
    "has_code",
    "later",
    "load_team",
    "managed",
    "negated",
    "read_team",
    "risks_of",
    "round_robin",
    "says",
    "selector",
    "sequential",
    "solve",
    "solve_cycle",
    "solve_sync",
    "tree_search",
]

# asyncio and pydantic alone take most of the 150 ms that `import agentexec` may cost. No module may have the
# name of an export (hence `solving`): importing it would put the module in the export's place.
_HOMES = {
    "context": ("Context",),
    "agents": ("ExecutorAgent", "HumanAgent", "ModelAgent", "PlanReview"),
    "conversation": ("Agent", "Conversation", "NextSpeaker", "converse"),
    "errors": ("AgentexecError", "ModelError", "SettingsError", "SnapshotError", "Suspended"),
    "events": ("Answer", "AnyEvent", "Event", "Message", "Question"),
    "human": ("ASK", "Human", "later"),
    "ledger": ("LedgerStall", "managed"),
    "log": ("EventLog",),
    "models.base": ("ChatMessage", "Completion", "Model", "Usage"),
    "parts": ("Parts",),
    "plan": ("Plan",),
    "result": ("AgentUsage", "BlockRecord", "SolveResult"),
    "risks": ("risks_of",),
    "search": ("Candidate", "Score", "SearchResult", "best_of", "check_command", "tree_search"),
    "snapshots.store": ("Snapshot", "SnapshotStore"),
    "solving": ("solve", "solve_sync"),
    "stops": (
        "AnyStop",
        "ConsecutiveFailures",
        "Deadline",
        "ExternalStop",
        "HandedTo",
        "MaxCost",
        "MaxMessages",
        "MaxTokens",
        "MaxTurns",
        "RepeatedCode",
        "RepeatedError",
        "SourceSpoke",
        "Stall",
        "Stop",
        "StopCondition",
        "StopWhen",
        "TextSeen",
    ),
    "team": ("Concurrent", "Team", "agent"),
    "teamspec": ("TeamSpec", "dump_team", "load_team", "read_team"),
    "telemetry": ("Tracing",),
    "turns": (
        "Edge",
        "answered",
        "approved",
        "graph",
        "handoff",
        "has_code",
        "negated",
        "round_robin",
        "says",
        "selector",
        "sequential",
        "solve_cycle",
    ),
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
