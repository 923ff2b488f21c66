"""Models: what answers a conversation. Variety comes from wrapping the contract in `agentexec.models.base`.

Nothing here imports the `openai` package before a model is really called: the import takes half a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentexec.models.base import ChatMessage, Completion, Model, ModelRetry, OnRetry, OnText, Usage

if TYPE_CHECKING:
    from agentexec.models.openai import OpenAIModel, Retries
    from agentexec.models.replay import RecordedCall, RecordingModel, ReplayModel
    from agentexec.models.sight import Images

REPLAY_PREFIX = "replay:"

__all__ = [
    "REPLAY_PREFIX",
    "ChatMessage",
    "Completion",
    "Model",
    "ModelRetry",
    "OnRetry",
    "OnText",
    "OpenAIModel",
    "RecordedCall",
    "RecordingModel",
    "ReplayModel",
    "Retries",
    "Usage",
    "make_model",
]

_LAZY = {
    "OpenAIModel": "openai",
    "Retries": "openai",
    "RecordedCall": "replay",
    "RecordingModel": "replay",
    "ReplayModel": "replay",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"agentexec.models.{_LAZY[name]}"), name)


def make_model(
    name: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    timeout: float = 300.0,
    images: Images = "auto",
) -> Model:
    """Make the model that a name stands for.

    Args:
        name: `replay:FILE` plays a recorded run back; else a model of an OpenAI-compatible server.
        base_url: The server's address, usually ending in `/v1`; None takes `OPENAI_BASE_URL`, then OpenAI's.
        api_key: None takes `OPENAI_API_KEY`.
        timeout: Seconds a server may stay silent.
        images: Whether a server is sent pictures: `auto` does so until it refuses, `off` never.

    Raises:
        SettingsError: the recorded run cannot be read, or the name is empty.
        ModelAuthError: OpenAI's own server needs a key and there is none.
    """
    if name.startswith(REPLAY_PREFIX):
        from agentexec.models.replay import ReplayModel

        return ReplayModel(name.removeprefix(REPLAY_PREFIX))
    from agentexec.models.openai import OpenAIModel

    return OpenAIModel(name, base_url=base_url, api_key=api_key, timeout=timeout, images=images)
