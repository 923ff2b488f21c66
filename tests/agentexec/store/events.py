"""A run's events for tests of the store."""

from __future__ import annotations

from decimal import Decimal

from agentexec.events import (
    BlockFinished,
    BlockStarted,
    Event,
    Message,
    MessageAdded,
    ModelCalled,
    RunFinished,
    RunStarted,
    TurnStarted,
)
from agentexec.models.base import Usage
from sandboxes.types import CodeBlock, Limits, Result

BLOCK = CodeBlock("print(1)")


def started(run_id: str, task: str = "Count the stars.") -> RunStarted:
    return RunStarted(run_id=run_id, task=task, model="m", executor="local", limits=Limits(), workspace="/w")


def message(turn: int, text: str = "hello", sender: str = "coder") -> MessageAdded:
    return MessageAdded(message=Message(sender=sender, content=text, turn=turn))


def turn(number: int) -> list[Event]:
    """One turn: asked, answered, run."""
    return [
        TurnStarted(turn=number, agent="coder"),
        ModelCalled(agent="coder", model="m", usage=Usage(input_tokens=2, output_tokens=1), cost=Decimal("0.1")),
        message(number),
        BlockStarted(turn=number, index=0, block=BLOCK),
        BlockFinished(turn=number, index=0, block=BLOCK, result=Result(verdict="ok", stdout="1\n", stdout_bytes=2)),
    ]


def whole(run_id: str, turns: int = 3, task: str = "Count the stars.") -> list[Event]:
    """A run from its first event to its last."""
    events: list[Event] = [started(run_id, task), message(0, task, "task")]
    for number in range(1, turns + 1):
        events += turn(number)
    return [*events, RunFinished(status="solved", stop_reason="final_answer", answer="7", message="solved")]
