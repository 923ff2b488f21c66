"""The contract of a model: a list of messages in, one reply out. Variety comes from wrapping it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agentexec.pictures import Picture

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message as a chat-completions server takes it.

    Attributes:
        role: `system`, `user` or `assistant`.
        content: Text.
        pictures: What goes along with the text, to a server that takes pictures.
    """

    role: Role
    content: str
    pictures: tuple[Picture, ...] = ()


class Usage(BaseModel):
    """Tokens of one call, or the sum of several (`a + b`).

    Attributes:
        input_tokens: Tokens of the request, cached ones included.
        output_tokens: Tokens of the reply, reasoning included.
        cached_tokens: Part of `input_tokens` that the server had cached.
        reasoning_tokens: Part of `output_tokens` that is not shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply.

    Attributes:
        text: The whole text.
        usage: Tokens; None where the server did not say.
        cost: USD; None where the price is unknown. Never 0 for want of knowledge.
        finish_reason: As the server put it: `stop`, `length`, `content_filter`, …
        model: The model that answered, as the server named it.
    """

    text: str
    usage: Usage | None = None
    cost: Decimal | None = None
    finish_reason: str = "stop"
    model: str = ""


@dataclass(frozen=True, slots=True)
class ModelRetry:
    """Tells a listener that a call is tried again.

    Attributes:
        attempt: The attempt that failed, from 1.
        delay: Seconds until the next.
        reason: For people. Text that was streamed by the failed attempt does not count.
    """

    attempt: int
    delay: float
    reason: str


OnText = Callable[[str], None]
OnRetry = Callable[[ModelRetry], None]


class Model(abc.ABC):
    """Something that answers a conversation.

    Attributes:
        name: What users call it, e.g. `gpt-5-mini` or `replay:demo.jsonl`.
    """

    name: str

    @abc.abstractmethod
    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
    ) -> Completion:
        """Answer a conversation.

        Args:
            messages: The conversation, a system message first.
            on_text: Called with each piece of the reply as it arrives.
            on_retry: Called before a failed call is tried again; pieces seen so far are void.

        Raises:
            ModelError: the model could not answer; see `agentexec.errors` for the kinds.
        """

    async def close(self) -> None:
        """Release connections. Closing twice has no effect."""
