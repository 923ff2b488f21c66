"""The reviewer: lets code run and answers stand, or sends them back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentexec.agents.base import ModelAgent, Shape, load_prompt
from agentexec.context import Context
from agentexec.markdown import without_thoughts
from agentexec.models.base import Model, ReplyFormat

NAME = "reviewer"


def _words(review: Mapping[str, Any]) -> str:
    reason = review["reason"].strip()
    if review["verdict"] == "APPROVE":
        return f"APPROVE\n\n{reason}".strip()
    if review["verdict"] == "REVISE":
        return f"REVISE: {reason}"
    raise ValueError("neither APPROVE nor REVISE")


SHAPE = Shape(
    ReplyFormat(
        "review",
        {
            "type": "object",
            "properties": {
                "reason": {
                    "type": "string",
                    "description": "What is wrong and what to do; else why it may pass",
                },
                "verdict": {"type": "string", "enum": ["APPROVE", "REVISE"]},
            },
            "required": ["reason", "verdict"],
            "additionalProperties": False,
        },
    ),
    _words,
)
"""A judgement as JSON, the reason first so that it comes before the verdict; in the conversation it is words."""


def reviewer(model: Model, prompt: str | None = None, *, context: Context | None = None) -> ModelAgent:
    """Return a reviewer.

    Args:
        model: Who answers.
        prompt: A system prompt in place of the package's own.
        context: How the conversation is kept within the model's window.
    """
    return ModelAgent(NAME, model, prompt or load_prompt(NAME), shape=SHAPE, context=context)


@dataclass(frozen=True, slots=True)
class Review:
    """A reviewer's judgement.

    Attributes:
        approved: Whether the coder's message may take effect.
        reason: What the reviewer wrote besides the word.
    """

    approved: bool
    reason: str = ""


# The word alone or followed by punctuation: "Approve if you also …" is no approval.
_APPROVE = re.compile(r"[\s\W_]*approved?(?:[*_`\s]*$|[*_`]*\s*[.:,;!(\u2013\u2014-])", re.IGNORECASE)
_REVISE = re.compile(r"[\s\W_]*revised?\b[*_`\s]*[:.,;\u2013\u2014-]*[*_`\s]*", re.IGNORECASE)


def read_review(text: str) -> Review:
    """Read a reviewer's message, whose first line with text says `APPROVE` or `REVISE: why`.

    Case and emphasis do not matter. What is neither is taken for `REVISE` with the whole text as the reason:
    nothing runs on an unclear word.
    """
    stripped = without_thoughts(text).strip()
    first, _, rest = stripped.partition("\n")
    approve = _APPROVE.match(first)
    if approve is not None:
        return Review(True, f"{first[approve.end() :]}\n{rest}".strip())
    revise = _REVISE.match(first)
    return Review(False, stripped[revise.end() :].strip() if revise else stripped)
