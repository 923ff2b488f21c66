"""The coder: writes the code that is run, reads what came of it, and gives the final answer."""

from __future__ import annotations

from agentexec.agents.base import ModelAgent, load_prompt
from agentexec.models.base import Model

NAME = "coder"


def coder(model: Model, prompt: str | None = None) -> ModelAgent:
    """Return a coder.

    Args:
        model: Who answers.
        prompt: A system prompt in place of the package's own.
    """
    return ModelAgent(NAME, model, prompt or load_prompt(NAME))
