"""The planner: turns the task into a short plan, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentexec.agents.base import ModelAgent, Shape, load_prompt
from agentexec.context import Context
from agentexec.models.base import Model, ReplyFormat

NAME = "planner"


def _words(plan: Mapping[str, Any]) -> str:
    steps = [" ".join(step.split()) for step in plan["steps"]]
    if not any(steps):
        raise ValueError("a plan without steps")
    return "\n".join(f"{number}. {step}" for number, step in enumerate(filter(None, steps), 1))


SHAPE = Shape(
    ReplyFormat(
        "plan",
        {
            "type": "object",
            "properties": {
                "steps": {
                    "type": "array",
                    "items": {"type": "string", "description": "One step, one line, without a number"},
                }
            },
            "required": ["steps"],
            "additionalProperties": False,
        },
    ),
    _words,
)
"""A plan as JSON; in the conversation it is a numbered list."""


def planner(model: Model, prompt: str | None = None, *, context: Context | None = None) -> ModelAgent:
    """Return a planner.

    Args:
        model: Who answers.
        prompt: A system prompt in place of the package's own.
        context: How the conversation is kept within the model's window.
    """
    return ModelAgent(NAME, model, prompt or load_prompt(NAME), shape=SHAPE, context=context)
