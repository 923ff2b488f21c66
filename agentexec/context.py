"""The conversation that goes to a model fits its window: old outputs are shortened first, then old messages go.

Kept always: the system prompt, the task with what follows it up to the model's own first message (the plan), and the
latest messages. What goes is whole groups from the middle (a message of the model and all that answers it), so that
no result is left without its call, roles go on alternating, and nothing changes places. Trimming goes down to half of
what fits, and what was trimmed stays trimmed, so it is rare, and a server's cache of the beginning stays good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agentexec.markdown import parse_fences
from agentexec.models.base import ChatMessage, Model
from agentexec.models.tokens import count_tokens

FOR_THE_REPLY = 1 / 3
"""Part of a window that is left for the reply, reasoning included."""

OLD_OUTPUT_CHARS, LATEST_OUTPUT_CHARS = 600, 2_000
"""What is left of a long quotation: in old messages; in the latest ones, if nothing else helps."""

NOTE = "(Left out here, since the conversation is long: {count} messages.{summary})"


@dataclass(frozen=True, slots=True)
class Context:
    """How conversations are kept within a model's window.

    Attributes:
        window: Tokens of a request and its reply together; None takes the model's own. Where nobody knows it, the
            conversation is trimmed when the server refuses it.
        summarize: Whether what is left out is summed up by a model first: the agent's own if True.
    """

    window: int | None = None
    summarize: bool | Model = False

    def __post_init__(self) -> None:
        if self.window is not None and self.window <= 0:
            raise ValueError(f"the context window must be more than 0 tokens, not {self.window}")


@dataclass(slots=True)
class Trimmed:
    """What came of trimming.

    Attributes:
        messages: What is left, in order.
        tokens: The size of each.
        shortened: How many messages had quotations shortened.
        dropped: What was left out.
    """

    messages: list[ChatMessage]
    tokens: list[int]
    shortened: int = 0
    dropped: list[ChatMessage] = field(default_factory=list)


def trim(messages: Sequence[ChatMessage], limit: float) -> Trimmed:
    """Return a conversation cut down to about `limit` tokens, as `count_tokens` counts; more if nothing else may go.

    Args:
        messages: A system message, then others; what comes before the first `assistant` message is kept.
        limit: Tokens.
    """
    done = Trimmed(list(messages), [count_tokens(message) for message in messages])
    starts = [index for index, message in enumerate(messages) if message.role == "assistant"]
    head, tail = (starts[0], starts[-1]) if starts else (len(messages), len(messages))
    _shorten(done, range(head, tail), limit, OLD_OUTPUT_CHARS)
    total = sum(done.tokens)
    end = head
    for start in starts[1:]:
        if total <= limit:
            break
        total -= sum(done.tokens[end:start])
        end = start
    done.dropped = list(messages[head:end])
    del done.messages[head:end], done.tokens[head:end]
    _shorten(done, range(len(done.messages)), limit, LATEST_OUTPUT_CHARS)
    return done


def _shorten(done: Trimmed, places: range, limit: float, size: int) -> None:
    total = sum(done.tokens)
    for place in places:
        if total <= limit:
            return
        message = done.messages[place]
        if message.role not in ("user", "tool"):
            continue
        content = shorten_quotations(message.content, size)
        if content == message.content:
            continue
        total -= done.tokens[place]
        done.messages[place] = replace(message, content=content)
        done.tokens[place] = count_tokens(done.messages[place])
        total += done.tokens[place]
        done.shortened += 1


def shorten_quotations(text: str, size: int) -> str:
    """Return a message with head and tail of each long quotation (a `text` fence, which holds what programs printed).

    Args:
        text: Markdown.
        size: Characters that are left of a quotation.
    """
    lines = text.split("\n")
    for fence in reversed(parse_fences(text)):
        first, end = fence.lines
        left_out = len(fence.code) - size
        if fence.language != "text" or left_out < size or fence.ended_by != "fence":
            continue
        head, tail = fence.code[: size // 2], fence.code[-(size // 2) :]
        note = f"[... {left_out:,} characters left out to keep the conversation short ...]"
        lines[first + 1 : end - 1] = [*head.split("\n"), note, *tail.removesuffix("\n").split("\n")]
    return "\n".join(lines)


def with_note(head: ChatMessage, count: int, summary: str = "") -> ChatMessage:
    """Return the message before a gap, with a note of how many messages are left out there.

    Args:
        head: The message.
        count: How many.
        summary: What they said, by a model.
    """
    note = NOTE.format(count=count, summary=f" In short:\n\n{summary}" if summary else "")
    return replace(head, content=f"{head.content}\n\n{note}")
