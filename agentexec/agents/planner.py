"""The planner: turns the task into a short plan, once."""

from __future__ import annotations

from agentexec.agents.base import ModelAgent, load_prompt
from agentexec.models.base import Model

NAME = "planner"


def planner(model: Model, prompt: str | None = None) -> ModelAgent:
    """Return a planner.

    Args:
        model: Who answers.
        prompt: A system prompt in place of the package's own.
    """
    return ModelAgent(NAME, model, prompt or load_prompt(NAME))
