"""An agent whose words come from a model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import overload

from agentexec.conversation import TASK, Conversation
from agentexec.events import Message, ModelCalled, ModelRetried, ModelText
from agentexec.models.base import ChatMessage, Model, ModelRetry

PROMPTS = Path(__file__).parent / "prompts"
EMPTY = "(empty)"


def load_prompt(name: str, path: str | Path | None = None) -> str:
    """Return an agent's system prompt: the package's own for `name`, or the file at `path`.

    Raises:
        OSError: the file cannot be read.
    """
    return Path(path or PROMPTS / f"{name}.md").read_text(encoding="utf-8").strip()


class ModelAgent:
    """Answers with what a model says to a system prompt and the conversation.

    Args:
        name: Sender of its messages.
        model: Who answers.
        prompt: The system prompt.
    """

    def __init__(self, name: str, model: Model, prompt: str) -> None:
        self.name = name
        self.model = model
        self._chat = _Chat(name, prompt)

    async def reply(self, conversation: Conversation) -> Message:
        """Ask the model for the next message.

        Raises:
            ModelError: the model could not answer.
        """
        log, began = conversation.log, time.monotonic()

        def on_text(text: str) -> None:
            log.append(ModelText(agent=self.name, text=text))

        def on_retry(retry: ModelRetry) -> None:
            log.append(ModelRetried(agent=self.name, attempt=retry.attempt, delay=retry.delay, reason=retry.reason))

        completion = await self.model.complete(self._chat.messages(conversation), on_text=on_text, on_retry=on_retry)
        log.append(
            ModelCalled(
                agent=self.name,
                model=completion.model or self.model.name,
                usage=completion.usage,
                cost=completion.cost,
                finish_reason=completion.finish_reason,
                duration=time.monotonic() - began,
            )
        )
        return Message(sender=self.name, content=completion.text, cut=completion.finish_reason == "length")


class _Chat:
    """The conversation as one agent's model sees it, extended as it grows rather than made anew.

    The agent's own messages are the assistant's. All between two of them becomes one user message, since
    many servers insist that the two roles alternate.
    """

    def __init__(self, name: str, prompt: str) -> None:
        self._name = name
        self._system = ChatMessage("system", prompt)
        self._conversation: Conversation | None = None
        self._messages: list[ChatMessage] = []
        self._seen = 0

    def messages(self, conversation: Conversation) -> Sequence[ChatMessage]:
        if conversation is not self._conversation:
            self._conversation, self._messages, self._seen = conversation, [self._system], 0
        heard: list[Message] = []
        for index in range(self._seen, len(conversation)):
            message = conversation[index]
            if message.sender != self._name:
                heard.append(message)
                continue
            self._hear(heard)
            heard = []
            # Some servers refuse an empty message.
            self._messages.append(ChatMessage("assistant", message.content or EMPTY))
        self._hear(heard)
        self._seen = len(conversation)
        return _Prefix(self._messages)

    def _hear(self, heard: list[Message]) -> None:
        if not heard:
            return
        texts = [_told(message) for message in heard]
        pictures = [picture for message in heard for picture in message.pictures]
        if self._messages[-1].role == "user":
            # Asked before without having spoken since. A new list, for a model may have kept the old one.
            *self._messages, last = self._messages
            texts, pictures = [last.content, *texts], [*last.pictures, *pictures]
        self._messages.append(ChatMessage("user", "\n\n".join(texts), tuple(pictures)))


def _told(message: Message) -> str:
    heading = "# The task" if message.sender == TASK else f"# Message from the {message.sender}"
    return f"{heading}\n\n{message.content or EMPTY}"


class _Prefix(Sequence[ChatMessage]):
    """A list that only grows, as long as it is now: a snapshot that costs the same for any length."""

    def __init__(self, items: list[ChatMessage]) -> None:
        self._items, self._length = items, len(items)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[ChatMessage]:
        return islice(self._items, self._length)

    @overload
    def __getitem__(self, index: int) -> ChatMessage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ChatMessage]: ...
    def __getitem__(self, index: int | slice) -> ChatMessage | Sequence[ChatMessage]:
        if isinstance(index, slice):
            return self._items[: self._length][index]
        return self._items[range(self._length)[index]]
