"""A reply as it comes in: chat-completions chunks, or one whole object, become a `Completion`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from agentexec.models.base import Completion, OnText, Usage
from agentexec.models.failures import Call, broken, not_an_api, refused

DONE = "[DONE]"
MAX_REPLY_CHARS = 8 << 20


class Reply:
    """Collects one reply. Servers differ: every field may be missing or of another type.

    Attributes:
        finish_reason: Why the model stopped, once it said so.
        done: Whether the server said that nothing more follows.
    """

    def __init__(self, call: Call, on_text: OnText | None) -> None:
        self._call = call
        self._on_text = on_text
        self._pieces: list[str] = []
        self._length = 0
        self._model = ""
        self._usage: Usage | None = None
        self.finish_reason: str | None = None
        self.done = False

    @property
    def complete(self) -> bool:
        """Whether the text is whole."""
        return self.done or self.finish_reason is not None

    def feed(self, data: str) -> None:
        """Take the data of one event of a stream."""
        if data.strip() == DONE:
            self.done = True
        else:
            self._take(self._decode(data), "delta")

    def feed_whole(self, body: bytes) -> None:
        """Take the one object of a server that does not stream."""
        self._take(self._decode(body), "message")
        self.done = True

    def completion(self, cost: Decimal | None = None) -> Completion:
        """Return what was collected."""
        # JSON may hold half a surrogate pair (or the halves in two pieces), which nothing can encode later.
        text = "".join(self._pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return Completion(
            text=text,
            usage=self._usage,
            cost=cost,
            finish_reason=self.finish_reason or "stop",
            model=self._model or self._call.model,
        )

    def _decode(self, data: str | bytes) -> Mapping[str, Any]:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise broken(self._call, f"not JSON: {data[:200]!r}") from None
        if not isinstance(value, Mapping):
            raise broken(self._call, f"not an object: {data[:200]!r}")
        return value

    def _take(self, value: Mapping[str, Any], part: str) -> None:
        if value.get("error"):
            raise refused(self._call, 0, value, {})
        choices = value.get("choices")
        if choices is None and part == "message":
            raise not_an_api(self._call)
        if isinstance(value.get("model"), str):
            self._model = value["model"]
        self._usage = read_usage(value.get("usage")) or self._usage
        if not isinstance(choices, Sequence) or not choices or not isinstance(choices[0], Mapping):
            return
        choice = choices[0]
        if isinstance(choice.get("finish_reason"), str):
            self.finish_reason = choice["finish_reason"]
        message = choice.get(part)
        if isinstance(message, Mapping):
            self._add(_text(message.get("content")) or _text(message.get("refusal")))

    def _add(self, text: str) -> None:
        if not text:
            return
        self._length += len(text)
        if self._length > MAX_REPLY_CHARS:
            failure = broken(self._call, f"more than {MAX_REPLY_CHARS} characters")
            failure.retry = False
            raise failure
        self._pieces.append(text)
        if self._on_text is not None:
            self._on_text(text)


def read_usage(value: object) -> Usage | None:
    """Read a `usage` object; None where it is missing or holds no token counts."""
    if not isinstance(value, Mapping):
        return None
    prompt, completion = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    cached = _count(_field(value.get("prompt_tokens_details"), "cached_tokens"))
    reasoning = _count(_field(value.get("completion_tokens_details"), "reasoning_tokens"))
    return Usage(
        input_tokens=prompt or 0,
        output_tokens=completion or 0,
        cached_tokens=cached or 0,
        reasoning_tokens=reasoning or 0,
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _field(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else None


def _text(content: object) -> str:
    """Return the text of a `content`, which some servers send as a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, Mapping))
    return ""
