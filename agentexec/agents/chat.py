"""The conversation as one agent's model sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import overload

from agentexec.agents.calls import calls_of, results_of
from agentexec.context import trim, with_note
from agentexec.conversation import TASK, Conversation
from agentexec.events import Message
from agentexec.markdown import without_thoughts
from agentexec.models.base import ChatMessage
from agentexec.models.tokens import count_tokens

EMPTY = "(empty)"


@dataclass(frozen=True, slots=True)
class Cut:
    """What was trimmed from a chat.

    Attributes:
        shortened: Messages of which quotations were shortened.
        dropped: Messages that were left out.
        before: Tokens before it.
        after: Tokens after it.
    """

    shortened: int
    dropped: tuple[ChatMessage, ...] = field(repr=False)
    before: int
    after: int


class Chat:
    """Follows a conversation, extended as it grows rather than made anew.

    The agent's own messages are the assistant's. All between two of them becomes one user message, since
    many servers insist that the two roles alternate.

    Args:
        name: The agent.
        prompt: Its system prompt.

    Attributes:
        summary: What a model made of all that was left out so far.
    """

    def __init__(self, name: str, prompt: str) -> None:
        self._name = name
        self._system = ChatMessage("system", prompt)
        self._conversation: Conversation | None = None
        self._forget()

    def _forget(self) -> None:
        self._messages: list[ChatMessage] = []
        self._sizes: list[int] = []
        self._total = 0
        self._seen = 0
        self._left_out = 0
        self.summary = ""
        self._before_gap: ChatMessage | None = None
        self._factor = 1.0

    @property
    def tokens(self) -> int:
        """Tokens of what is sent next, estimated, and corrected by what the server counted before."""
        return round(self._total * self._factor)

    def messages(self, conversation: Conversation) -> Sequence[ChatMessage]:
        """Return the conversation as it is now, a snapshot that stays as it is."""
        if conversation is not self._conversation:
            self._conversation = conversation
            self._forget()
            self._append(self._system)
        heard: list[Message] = []
        for index in range(self._seen, len(conversation)):
            message = conversation[index]
            if message.sender != self._name:
                heard.append(message)
                continue
            self._hear(heard)
            heard = []
            self._say(message)
        self._hear(heard)
        self._seen = len(conversation)
        return _Prefix(self._messages)

    def counted(self, tokens: int) -> None:
        """Learn how many tokens the server counted in what was sent last."""
        if tokens > 0 and self._total > 0:
            # A server that counts only what was not cached, or nothing sensible, must not lead far astray.
            self._factor = min(4.0, max(0.5, tokens / self._total))

    def trim(self, limit: int) -> Cut | None:
        """Cut down to about `limit` tokens; return what was cut, or None if there was nothing to cut."""
        before = self.tokens
        done = trim(self._messages, limit / self._factor)
        if not done.shortened and not done.dropped:
            return None
        self._messages, self._sizes, self._total = done.messages, done.tokens, sum(done.tokens)
        self._left_out += len(done.dropped)
        if done.dropped:
            self.summarize("")
        return Cut(done.shortened, tuple(done.dropped), before, self.tokens)

    def summarize(self, summary: str) -> None:
        """Note what was left out, in the message before the gap; an empty summary leaves the one there was."""
        self.summary = summary or self.summary
        place = next(index for index, message in enumerate(self._messages) if message.role == "assistant") - 1
        if self._before_gap is None:
            self._before_gap = self._messages[place]
        noted = with_note(self._before_gap, self._left_out, self.summary)
        # A new list, for a model may have kept the old one.
        self._messages = [*self._messages[:place], noted, *self._messages[place + 1 :]]
        self._total -= self._sizes[place]
        self._sizes[place] = count_tokens(noted)
        self._total += self._sizes[place]

    def _append(self, message: ChatMessage) -> None:
        self._messages.append(message)
        self._sizes.append(count_tokens(message))
        self._total += self._sizes[-1]

    def _say(self, message: Message) -> None:
        text, calls = calls_of(message)
        text = without_thoughts(text).strip() if "think" in text else text
        # Some servers refuse an empty message.
        self._append(ChatMessage("assistant", text or ("" if calls else EMPTY), calls=calls))

    def _hear(self, heard: list[Message]) -> None:
        last = self._messages[-1]
        if last.calls and heard:
            results, heard = results_of(last.calls, heard)
            for result in results:
                self._append(result)
        if not heard:
            return
        texts = [_told(message) for message in heard]
        pictures = [picture for message in heard for picture in message.pictures]
        if self._messages[-1].role == "user":
            # Asked before without having spoken since.
            *self._messages, last = self._messages
            self._total -= self._sizes.pop()
            texts, pictures = [last.content, *texts], [*last.pictures, *pictures]
        self._append(ChatMessage("user", "\n\n".join(texts), tuple(pictures)))


def _told(message: Message) -> str:
    if message.sender == TASK:
        return f"# The task\n\n{message.content or EMPTY}"
    said = without_thoughts(message.content).strip() if "think" in message.content else message.content
    return f"# Message from the {message.sender}\n\n{said or EMPTY}"


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
