"""Models: what answers a conversation. Variety comes from wrapping the contract in `agentexec.models.base`.

Nothing here imports the `openai` package before a model is really called: the import takes half a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentexec.models.base import (
    CallOptions,
    ChatMessage,
    Completion,
    Model,
    ModelRetry,
    ModelWrapper,
    OnRetry,
    OnText,
    ReplyFormat,
    Tool,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from agentexec.models.api import ApiName
    from agentexec.models.cache import CachingModel
    from agentexec.models.fallback import FallbackModel
    from agentexec.models.limits import Budget, BudgetedModel, RateLimit, RateLimitedModel
    from agentexec.models.openai import OpenAIModel
    from agentexec.models.replay import RecordedCall, RecordingModel, ReplayModel
    from agentexec.models.retries import Retries, RetryingModel
    from agentexec.models.sight import Images

REPLAY_PREFIX = "replay:"
RESPONSES_PREFIX = "responses:"

__all__ = [
    "REPLAY_PREFIX",
    "RESPONSES_PREFIX",
    "Budget",
    "BudgetedModel",
    "CachingModel",
    "CallOptions",
    "ChatMessage",
    "Completion",
    "FallbackModel",
    "Model",
    "ModelRetry",
    "ModelWrapper",
    "OnRetry",
    "OnText",
    "OpenAIModel",
    "RateLimit",
    "RateLimitedModel",
    "RecordedCall",
    "RecordingModel",
    "ReplayModel",
    "ReplyFormat",
    "Retries",
    "RetryingModel",
    "Tool",
    "ToolCall",
    "Usage",
    "make_model",
]

_LAZY = {
    "Budget": "limits",
    "BudgetedModel": "limits",
    "CachingModel": "cache",
    "FallbackModel": "fallback",
    "OpenAIModel": "openai",
    "RateLimit": "limits",
    "RateLimitedModel": "limits",
    "RecordedCall": "replay",
    "RecordingModel": "replay",
    "ReplayModel": "replay",
    "Retries": "retries",
    "RetryingModel": "retries",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"agentexec.models.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def make_model(
    name: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    timeout: float = 300.0,
    retries: Retries | None = None,
    images: Images = "auto",
    context_window: int | None = None,
) -> Model:
    """Make the model that a name stands for.

    Args:
        name: `replay:FILE` plays a recorded run back, `responses:MODEL` speaks OpenAI's Responses; else a model
            of an OpenAI-compatible server, by chat completions.
        base_url: The server's address, usually ending in `/v1`; None takes `OPENAI_BASE_URL`, then OpenAI's.
        api_key: None takes `OPENAI_API_KEY`.
        timeout: Seconds a server may stay silent.
        retries: How often and how soon a failed call is tried again.
        images: Whether a server is sent pictures: `auto` does so until it refuses, `off` never.
        context_window: Tokens of a request and its reply; None takes what the price list says.

    Raises:
        SettingsError: the recorded run cannot be read, or the name is empty.
        ModelAuthError: OpenAI's own server needs a key and there is none.
    """
    if name.startswith(REPLAY_PREFIX):
        from agentexec.models.replay import ReplayModel

        return ReplayModel(name.removeprefix(REPLAY_PREFIX))
    from agentexec.models.openai import OpenAIModel

    api: ApiName = "responses" if name.startswith(RESPONSES_PREFIX) else "chat"
    return OpenAIModel(
        name.removeprefix(RESPONSES_PREFIX),
        base_url=base_url,
        api_key=api_key,
        timeout=timeout,
        retries=retries,
        images=images,
        api=api,
        context_window=context_window,
    )
