"""The contract of a model: a list of messages in, one reply out. Variety comes from wrapping it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from agentexec.pictures import Picture

Role = Literal["system", "user", "assistant", "tool"]
Feature = Literal["format", "tools"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call instead of answering in words.

    Attributes:
        name: Letters, digits, `_` and `-`.
        description: What it does, for the model.
        parameters: JSON schema of its arguments, an object.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made.

    Attributes:
        id: The server's, under which the result goes back.
        name: The tool.
        arguments: JSON, as the model wrote it.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """The shape that a reply is to have.

    Attributes:
        name: What to call it: letters, digits, `_` and `-`.
        schema: JSON schema of an object. Servers that enforce it want every property required and
            `additionalProperties` false.
    """

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What else is asked of one call.

    A model gets them only if it `supports` what they ask for. Even then a server may not know a format, and
    answer in words: a caller reads both.

    Attributes:
        format: The shape of the reply.
        tools: What the model may call.
    """

    format: ReplyFormat | None = None
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message as a chat-completions server takes it.

    Attributes:
        role: `system`, `user`, `assistant`, or `tool` for the result of a call.
        content: Text.
        pictures: What goes along with the text, to a server that takes pictures.
        calls: Tool calls that an `assistant` message made. Each is answered by a `tool` message right after it.
        call_id: The call that a `tool` message answers.
    """

    role: Role
    content: str
    pictures: tuple[Picture, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""


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
        calls: Tool calls, in order.
        refusal: Whether the model, or a filter before it, declined; `text` is then what was said about it.
        cached: Whether it came from a cache of ours. Then usage and cost are 0: nothing was used.
    """

    text: str
    usage: Usage | None = None
    cost: Decimal | None = None
    finish_reason: str = "stop"
    model: str = ""
    calls: tuple[ToolCall, ...] = ()
    refusal: bool = False
    cached: bool = False


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

    @property
    def supports(self) -> frozenset[Feature]:
        """Which `CallOptions` it takes; a model that knows of none is called without them."""
        return frozenset()

    @property
    def context_window(self) -> int | None:
        """Tokens that a request and its reply may have together; None where that is not known."""
        return None

    @property
    def identity(self) -> str:
        """What tells this model from every other that may answer differently: name, server, parameters."""
        return f"{type(self).__name__}:{self.name}"

    @property
    def secrets(self) -> Sequence[str]:
        """Keys it was given, which must be written nowhere."""
        return ()

    def skip(self, played: Mapping[str, int]) -> None:
        """Leave out what a run that is resumed has been told already; only recorded runs have to.

        Args:
            played: Number of messages, by agent (`coder`).
        """

    @abc.abstractmethod
    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        """Answer a conversation.

        Args:
            messages: The conversation, a system message first.
            on_text: Called with each piece of the reply as it arrives.
            on_retry: Called before a failed call is tried again; pieces seen so far are void.
            options: What else is asked, if it `supports` that.

        Raises:
            ModelError: the model could not answer; see `agentexec.errors` for the kinds.
        """

    async def close(self) -> None:
        """Release connections. Closing twice has no effect."""


class ModelWrapper(Model):
    """Base of models that pass calls on to another one. It looks like that one in everything but `complete`.

    Args:
        model: The model that answers. Closing the wrapper closes it.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name = model.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    @property
    def supports(self) -> frozenset[Feature]:
        return self.model.supports

    @property
    def context_window(self) -> int | None:
        return self.model.context_window

    @property
    def identity(self) -> str:
        return self.model.identity

    @property
    def secrets(self) -> Sequence[str]:
        return self.model.secrets

    def skip(self, played: Mapping[str, int]) -> None:
        self.model.skip(played)

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        return await self.model.complete(messages, on_text=on_text, on_retry=on_retry, options=options)

    async def close(self) -> None:
        await self.model.close()
