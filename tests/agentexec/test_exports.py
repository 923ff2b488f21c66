"""What `import agentexec` gives, and what it does not cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import agentexec

EXPORTS = [
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


def modules_after(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_exports_are_pinned() -> None:
    assert sorted(agentexec.__all__) == sorted(EXPORTS)
    assert set(EXPORTS) <= set(dir(agentexec))


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_there_and_is_no_module(name: str) -> None:
    assert type(getattr(agentexec, name)).__name__ != "module"


def test_no_module_has_the_name_of_an_export() -> None:
    assert agentexec.__file__ is not None
    modules = {path.stem for path in Path(agentexec.__file__).parent.iterdir()}
    assert modules.isdisjoint(EXPORTS)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        agentexec.nonsense  # noqa: B018


def test_importing_the_package_loads_next_to_nothing() -> None:
    assert modules_after("import agentexec").isdisjoint({"pydantic", "asyncio", "sandboxes"})


def test_importing_solve_loads_no_client_engine_parser_or_terminal() -> None:
    heavy = {"openai", "httpx", "docker", "jupyter_client", "typer", "rich", "genai_prices", "markdown_it"}
    assert modules_after("from agentexec import solve").isdisjoint(heavy)
