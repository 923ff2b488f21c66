"""How many tokens a message has, about. Exact counts need each model's vocabulary, which is a download."""

from __future__ import annotations

from agentexec.models.base import ChatMessage

BYTES_PER_TOKEN = 3.5
"""UTF-8 bytes, as a rule of thumb: English prose has somewhat more, code somewhat less. What a server counts
corrects it (`agentexec.context`)."""

PICTURE_TOKENS = 1000
"""Of one picture of ordinary size; providers count from 85 to some 1,600."""

MESSAGE_TOKENS = 4
"""What a message costs besides its text."""


def count_tokens(message: ChatMessage) -> int:
    """Return an estimate for one message."""
    size = len(message.content.encode("utf-8", "surrogatepass"))
    size += sum(len(call.name) + len(call.arguments.encode("utf-8", "surrogatepass")) for call in message.calls)
    return MESSAGE_TOKENS + round(size / BYTES_PER_TOKEN) + PICTURE_TOKENS * len(message.pictures)
