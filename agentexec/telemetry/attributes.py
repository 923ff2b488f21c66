"""What spans say, as the conventions name it; what they have no name for is `agentexec.*`."""

from __future__ import annotations

import json
from typing import Any

from opentelemetry.trace import Span, Status, StatusCode

from agentexec.models.base import Usage
from sandboxes.types import Limits, Result

MAX_CONTENT = 64 << 10
"""Characters of any one message, code or output that is captured; the rest is cut off."""


def ns(seconds: float) -> int:
    """Return a time of events as one of spans."""
    return int(seconds * 1e9)


def error_attributes(error: str) -> dict[str, str]:
    """Return what says that something failed, and how; nothing if it did not."""
    return {"error.type": error} if error else {}


def end_span(span: Span, time: float, error: str = "") -> None:
    """End a span, with a class of error if it failed. No description: that would be content."""
    if error:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))
    span.end(ns(time))


def cut(text: str) -> str:
    """Return text within `MAX_CONTENT`."""
    return text if len(text) <= MAX_CONTENT else f"{text[:MAX_CONTENT]}… ({len(text) - MAX_CONTENT} more)"


def message_json(messages: list[tuple[str, str, str]]) -> str:
    """Return (role, text, finish reason) as the conventions' JSON."""
    return json.dumps(
        [
            {
                "role": role,
                "parts": [{"type": "text", "content": cut(text)}],
                **({"finish_reason": reason} if reason else {}),
            }
            for role, text, reason in messages
        ]
    )


def usage_attributes(usage: Usage | None) -> dict[str, Any]:
    """Return the tokens of a call; nothing if they were not counted."""
    if usage is None:
        return {}
    found = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
    }
    return {
        **found,
        **({"gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens} if usage.reasoning_tokens else {}),
    }


def limit_attributes(limits: Limits) -> dict[str, Any]:
    """Return what blocks may use: seconds, bytes and counts."""
    return {f"agentexec.limit.{name}": value for name, value in limits.model_dump().items() if value is not None}


def result_attributes(result: Result) -> dict[str, Any]:
    """Return what came of a block, but for what it printed: seconds, bytes and counts."""
    found = {
        "agentexec.verdict": result.verdict,
        "agentexec.exit_code": result.exit_code,
        "agentexec.signal": result.signal,
        "agentexec.duration": result.duration,
        "agentexec.cpu_time": result.cpu_time,
        "agentexec.peak_memory": result.peak_memory,
        "agentexec.stdout.bytes": result.stdout_bytes,
        "agentexec.stderr.bytes": result.stderr_bytes,
        "agentexec.files": len(result.files),
        "agentexec.isolation": result.isolation.tier,
    }
    return {name: value for name, value in found.items() if value is not None}
