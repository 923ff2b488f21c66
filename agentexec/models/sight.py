"""Whether a model server takes pictures: sent until it refuses, and what it refused is remembered."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from agentexec.models.base import ChatMessage
from agentexec.pictures import Picture
from agentexec.visible import visible

Images = Literal["auto", "off"]

MAX_PICTURES, MAX_BYTES = 20, 16 << 20
"""Of one request, the newest first: below what servers set as limits, and a conversation's cost stays bounded."""

_STATUSES = (400, 404, 413, 415, 422, 500, 501)
_ABOUT_PICTURES = re.compile(r"image|picture|vision|multi-?modal|modalit", re.IGNORECASE)
_ABOUT_TEXT_PARTS = re.compile(r"content.{0,80}(string|str\b)|(string|str\b).{0,80}content", re.IGNORECASE | re.DOTALL)
_UNABLE = re.compile(r"not support|unsupported|n[o']t (accept|take|allow|handle)|missing|mmproj", re.IGNORECASE)
_TOO_MANY = re.compile(r"at most|too many|maximum|up to|limit|exceed", re.IGNORECASE)
_BAD = re.compile(
    r"invalid image|image.{0,40}(invalid|corrupt|damaged|malformed|not valid|too large|too big|dimension)"
    r"|(decode|process|read|parse|load|open|identify).{0,30}image|unsupported image",
    re.IGNORECASE | re.DOTALL,
)


class Sight:
    """Which pictures a server is sent, and what was learned from its refusals.

    Args:
        images: `off` never sends one.
    """

    def __init__(self, images: Images = "auto") -> None:
        self._limit = MAX_PICTURES if images == "auto" else 0
        self._unwanted: set[Picture] = set()

    def choose(self, messages: Sequence[ChatMessage]) -> list[Picture]:
        """Return the newest pictures that are wanted, as many as a request may hold, newest first."""
        chosen: list[Picture] = []
        left = MAX_BYTES
        for picture in _newest_first(list(messages)) if self._limit else ():
            if picture in self._unwanted:
                continue
            left -= len(picture.data)
            if left < 0 or len(chosen) == self._limit:
                break
            chosen.append(picture)
        return chosen

    def refused(self, status: int, said: str, sent: Sequence[Picture]) -> bool:
        """Learn from a refused request; return whether to ask again, with fewer pictures or none.

        Args:
            status: The HTTP status.
            said: What the server said, if anything.
            sent: The pictures of the request.
        """
        if not sent or status not in _STATUSES:
            return False
        if status >= 500 and not _UNABLE.search(said):  # else it is like any failure, which passes
            return False
        if status not in (413, 415) and not _ABOUT_PICTURES.search(said) and not _ABOUT_TEXT_PARTS.search(said):
            return False
        if _BAD.search(said):  # it is about these, and says nothing of others
            self._unwanted.update(sent)
        elif len(sent) > 1 and (status == 413 or _TOO_MANY.search(said)):
            self._limit = 1
        else:
            self._limit = 0
        return True


def body_of(messages: Sequence[ChatMessage], pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Return messages as chat completions has them.

    Args:
        messages: The conversation.
        pictures: Those of its pictures that are sent; of others a text says that they cannot be seen.
    """
    chosen = {id(picture) for picture in pictures}
    return [
        {"role": message.role, "content": _content(message, chosen) if message.pictures else message.content}
        for message in messages
    ]


def _newest_first(messages: Sequence[ChatMessage]) -> Iterator[Picture]:
    for message in reversed(messages):
        yield from reversed(message.pictures)


def _content(message: ChatMessage, chosen: set[int]) -> str | list[dict[str, Any]]:
    text = message.content
    unseen = [picture for picture in message.pictures if id(picture) not in chosen]
    if unseen:
        names = ", ".join(visible(picture.name, keep="") for picture in unseen)
        text += f"\n\n(You cannot see these pictures: {names}.)"
    if len(unseen) == len(message.pictures):
        return text  # as servers take it that know nothing else
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    for picture in message.pictures:
        if id(picture) in chosen:
            parts.append({"type": "text", "text": f"{visible(picture.name, keep='')}:"})
            parts.append({"type": "image_url", "image_url": {"url": picture.url}})
    return parts
