"""The coder: writes the code that is run, reads what came of it, and gives the final answer."""

from __future__ import annotations

from typing import Literal

from agentexec.agents.base import ModelAgent, load_prompt
from agentexec.agents.calls import EXECUTE_CODE
from agentexec.context import Context
from agentexec.models.base import Model

NAME = "coder"

CodeMode = Literal["fences", "tools"]
"""How a model sends code: in Markdown fences, or by calling `execute_code`. Messages are the same for both."""


def coder(
    model: Model, prompt: str | None = None, *, code_mode: CodeMode = "fences", context: Context | None = None
) -> ModelAgent:
    """Return a coder.

    Args:
        model: Who answers.
        prompt: A system prompt in place of the package's own.
        code_mode: How the model sends its code.
        context: How the conversation is kept within the model's window.

    Raises:
        ValueError: the model cannot call tools.
    """
    tools = (EXECUTE_CODE,) if code_mode == "tools" else ()
    return ModelAgent(NAME, model, prompt or load_prompt(prompt_name(code_mode)), tools=tools, context=context)


def prompt_name(code_mode: CodeMode) -> str:
    """Return which of the package's prompts a coder has."""
    return NAME if code_mode == "fences" else f"{NAME}_tools"
