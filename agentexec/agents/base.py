"""An agent whose words come from a model."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentexec.agents.calls import MalformedCall, message_of
from agentexec.agents.chat import Chat
from agentexec.context import FOR_THE_REPLY, Context
from agentexec.conversation import Conversation
from agentexec.errors import ModelContextOverflow, ModelDeclined, ModelError, ModelReplyUnusable
from agentexec.events import ContextTrimmed, Message, ModelCalled, ModelRetried, ModelText
from agentexec.log import EventLog
from agentexec.markdown import without_thoughts
from agentexec.models.base import (
    CallOptions,
    ChatMessage,
    Completion,
    Model,
    ModelRetry,
    ReplyFormat,
    Tool,
)

PROMPTS = Path(__file__).parent / "prompts"

ATTEMPTS = 3
"""How often a model is asked that answers with nothing, with what cannot be read, or with a refusal."""

SHRINK_TO = 0.6
"""Part of a conversation that is kept when a server says that it is too long, and not how long it may be."""

SMALL_CHAT = 3_000
"""Tokens that every window takes."""

_VERSION = re.compile(r"\s*<!-- version: (\d+) -->\s*\Z")


def load_prompt(name: str, path: str | Path | None = None) -> str:
    """Return an agent's system prompt: the package's own for `name`, or the file at `path`.

    Raises:
        OSError: the file cannot be read.
    """
    return _VERSION.sub("", _read_prompt(name, path)).strip()


def prompt_version(name: str) -> int:
    """Return the version of the package's own prompt for `name`; it counts up with every change of its words."""
    match = _VERSION.search(_read_prompt(name, None))
    return int(match[1]) if match else 0


def _read_prompt(name: str, path: str | Path | None) -> str:
    return Path(path or PROMPTS / f"{name}.md").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Shape:
    """How an agent's message is asked for as JSON, where a server can hold a model to it.

    Attributes:
        format: What the server is asked for.
        words: Makes the message of the object, in the words that are also understood without it; raises
            LookupError, TypeError, ValueError or AttributeError for an object that is not as asked.
    """

    format: ReplyFormat
    words: Callable[[Mapping[str, Any]], str]

    def read(self, text: str) -> str:
        """Return the message; a reply that is not such an object is the message as it is."""
        bare = re.sub(r"\A\s*```(?:json)?\s*\n|\n\s*```\s*\Z", "", without_thoughts(text)).strip()
        try:
            value = json.loads(bare)
            return self.words(value) if isinstance(value, dict) else text
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
            return text


class ModelAgent:
    """Answers with what a model says to a system prompt and the conversation.

    A reply that is empty, malformed or a refusal is asked for again a few times. What no longer fits the
    model's window is trimmed in what the model is sent; the conversation itself stays whole.

    Args:
        name: Sender of its messages.
        model: Who answers.
        prompt: The system prompt.
        shape: Asks for the message as JSON, from models that support it.
        tools: What the model may call; its calls become fences of the message.
        context: How the conversation is kept within the model's window.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        prompt: str,
        *,
        shape: Shape | None = None,
        tools: tuple[Tool, ...] = (),
        context: Context | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.context = context or Context()
        self._shape = shape if shape is not None and "format" in model.supports else None
        if tools and "tools" not in model.supports:
            raise ValueError(f"the model {model.name!r} cannot call tools; let it write code in fences")
        wanted = CallOptions(format=self._shape.format if self._shape else None, tools=tools)
        self._options = None if wanted == CallOptions() else wanted
        self.description = ""
        """What the agent is for, for a model that chooses who speaks."""
        self._chat = Chat(name, prompt)
        self._limit: int | None = None

    async def reply(self, conversation: Conversation, note: str = "") -> Message:
        """Ask the model for the next message.

        Args:
            conversation: What was said.
            note: Something to tell the model besides, this once.

        Raises:
            ModelError: the model could not answer, or again and again not usably.
        """
        log = conversation.log
        for attempt in range(1, ATTEMPTS + 1):
            answer = await self._fitting(conversation, note)
            try:
                return self._message(answer)
            except ModelError as error:
                if attempt == ATTEMPTS:
                    raise type(error)(f"{error} (asked {attempt} times)") from None
                log.append(ModelRetried(agent=self.name, attempt=attempt, delay=0.0, reason=str(error)))
        raise AssertionError("unreachable")

    def _message(self, answer: Completion) -> Message:
        said = answer.text.strip()
        if answer.refusal:
            why = f": {' '.join(said.split())[:300]}" if said else ""
            raise ModelDeclined(f"{self._who(answer)} declined to answer ({answer.finish_reason}){why}")
        if not said and not answer.calls:
            hint = "; give it a higher limit" if answer.finish_reason == "length" else ""
            raise ModelReplyUnusable(f"{self._who(answer)} answered with nothing ({answer.finish_reason}){hint}")
        try:
            text = self._shape.read(answer.text) if self._shape else answer.text
            return message_of(self.name, text, answer.calls, cut=answer.finish_reason == "length")
        except MalformedCall as error:
            raise ModelReplyUnusable(f"{self._who(answer)} made a call that cannot be run: {error}") from None

    def _who(self, answer: Completion) -> str:
        return f"the {self.name}'s model {answer.model or self.model.name!r}"

    async def _fitting(self, conversation: Conversation, note: str = "") -> Completion:
        """Ask with what fits; where the server says that it does not, once more with less."""
        log = conversation.log
        messages = self._chat.messages(conversation)
        window = self._window()
        if window is not None and self._chat.tokens > window:
            await self._trim(log, window // 2, "window")
            messages = self._chat.messages(conversation)
        try:
            return await self._ask(log, _noted(messages, note))
        except ModelContextOverflow:
            self._limit = int(self._chat.tokens * SHRINK_TO)
            if not await self._trim(log, self._limit, "refused"):
                raise
        return await self._ask(log, _noted(self._chat.messages(conversation), note))

    def _window(self) -> int | None:
        """Return how many tokens may be sent, if anybody knows."""
        if self._limit is None:
            # Looked up only when it may matter: the price list that knows it takes a while to load.
            if self.context.window is None and self._chat.tokens < SMALL_CHAT:
                return None
            window = self.context.window or self.model.context_window
            return None if window is None else int(window * (1 - FOR_THE_REPLY))
        return self._limit

    async def _trim(self, log: EventLog, limit: int, reason: Any) -> bool:
        cut = self._chat.trim(limit)
        if cut is None:
            return False
        summary = problem = ""
        if cut.dropped and self.context.summarize:
            try:
                summary = await self._summarize(log, cut.dropped)
            except ModelError as error:  # a model that cannot costs no more than the summary
                problem = str(error)
        if summary:
            self._chat.summarize(summary)
        log.append(
            ContextTrimmed(
                agent=self.name,
                shortened=cut.shortened,
                dropped=len(cut.dropped),
                tokens_before=cut.before,
                tokens_after=self._chat.tokens,
                reason=reason,
                summary=summary,
                problem=problem,
            )
        )
        return True

    async def _summarize(self, log: EventLog, dropped: Sequence[ChatMessage]) -> str:
        """Let a model sum up what is left out."""
        model = self.context.summarize if isinstance(self.context.summarize, Model) else self.model
        parts = [f"# {message.role}\n\n{message.content}" for message in dropped]
        earlier = [f"# Summary of what came before\n\n{self._chat.summary}"] if self._chat.summary else []
        told = "\n\n".join([*earlier, *parts])
        request = [ChatMessage("system", load_prompt("summary")), ChatMessage("user", told)]
        return (await self._ask(log, request, model=model)).text.strip()

    async def _ask(self, log: EventLog, messages: Sequence[ChatMessage], *, model: Model | None = None) -> Completion:
        began = time.monotonic()

        def on_text(text: str) -> None:
            log.append(ModelText(agent=self.name, text=text))

        def on_retry(retry: ModelRetry) -> None:
            log.append(ModelRetried(agent=self.name, attempt=retry.attempt, delay=retry.delay, reason=retry.reason))

        if model is not None:
            answer = await model.complete(messages, on_retry=on_retry)
        elif self._options is None:
            answer = await self.model.complete(messages, on_text=on_text, on_retry=on_retry)
        else:
            # JSON on its way is nothing to show.
            shown = None if self._options.format else on_text
            answer = await self.model.complete(messages, on_text=shown, on_retry=on_retry, options=self._options)
        if model is None and answer.usage is not None and not answer.cached:
            self._chat.counted(answer.usage.input_tokens)
        log.append(
            ModelCalled(
                agent=self.name,
                model=answer.model or (model or self.model).name,
                usage=answer.usage,
                cost=answer.cost,
                finish_reason=answer.finish_reason,
                duration=time.monotonic() - began,
                cached=answer.cached,
            )
        )
        return answer


def _noted(messages: Sequence[ChatMessage], note: str) -> Sequence[ChatMessage]:
    """Return messages with a note at their end; roles go on alternating."""
    if not note:
        return messages
    *before, last = messages
    if last.role != "user":
        return [*messages, ChatMessage("user", note)]
    return [*before, replace(last, content=f"{last.content}\n\n{note}")]
