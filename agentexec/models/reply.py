"""A reply as it comes in, whatever the protocol: pieces of a stream, or one whole object, become a `Completion`."""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from agentexec.models.base import Completion, OnText, ToolCall, Usage
from agentexec.models.failures import Call, broken

DONE = "[DONE]"
MAX_REPLY_CHARS = 8 << 20
"""Characters of a reply: its text, and the names and arguments of its tool calls."""
MAX_CALLS = 128
"""Tool calls of a reply; further ones are left out."""


class Reply(abc.ABC):
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
        self._refusal = False
        self.finish_reason: str | None = None
        self.done = False

    @property
    def complete(self) -> bool:
        """Whether the text is whole."""
        return self.done or self.finish_reason is not None

    @abc.abstractmethod
    def _take(self, value: Mapping[str, Any], *, whole: bool) -> None:
        """Take an event of a stream, or the whole object."""

    @property
    @abc.abstractmethod
    def _calls(self) -> tuple[ToolCall, ...]:
        """The tool calls, in order."""

    def feed(self, data: str) -> None:
        """Take the data of one event of a stream."""
        if data.strip() == DONE:
            self.done = True
        else:
            self._take(self._decode(data), whole=False)

    def feed_whole(self, body: bytes) -> None:
        """Take the one object of a server that does not stream."""
        self._take(self._decode(body), whole=True)
        self.done = True

    def completion(self, cost: Decimal | None = None) -> Completion:
        """Return what was collected."""
        reason = self.finish_reason or "stop"
        return Completion(
            text=_whole_characters("".join(self._pieces)),
            usage=self._usage,
            cost=cost,
            finish_reason=reason,
            model=self._model or self._call.model,
            calls=self._calls,
            refusal=self._refusal or reason == "content_filter",
        )

    def _decode(self, data: str | bytes) -> Mapping[str, Any]:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise broken(self._call, f"not JSON: {data[:200]!r}") from None
        if not isinstance(value, Mapping):
            raise broken(self._call, f"not an object: {data[:200]!r}")
        return value

    def _common(self, value: Mapping[str, Any]) -> None:
        """Take what both protocols put in the same place."""
        if isinstance(value.get("model"), str):
            self._model = value["model"]
        self._usage = read_usage(value.get("usage")) or self._usage

    def _add(self, text: str, *, refusal: bool = False) -> None:
        if not text:
            return
        self._refusal = self._refusal or refusal
        self._grow(len(text))
        self._pieces.append(text)
        if self._on_text is not None:
            self._on_text(text)

    def _grow(self, characters: int) -> None:
        self._length += characters
        if self._length > MAX_REPLY_CHARS:
            raise broken(self._call, f"more than {MAX_REPLY_CHARS} characters", retry=False)


class CallCollector:
    """Puts tool calls together from pieces, which servers number, or name, or neither."""

    def __init__(self) -> None:
        self._calls: list[dict[str, str]] = []
        self._by_index: dict[int, int] = {}

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """What was collected; a call without an id gets one."""
        return tuple(
            ToolCall(
                _whole_characters(call["id"]) or f"call_{number}",
                _whole_characters(call["name"]),
                _whole_characters(call["arguments"]),
            )
            for number, call in enumerate(self._calls)
        )

    def add(self, index: object, call_id: object, name: object, arguments: object) -> int:
        """Take a piece of a call: what servers send as `index`, `id`, `name` and `arguments`, each checked here.

        Returns:
            How many characters it brought.
        """
        call = self._find(index, call_id if isinstance(call_id, str) else "")
        if call is None:
            return 0
        if isinstance(arguments, Mapping):  # some servers decode them
            arguments = json.dumps(arguments)
        size = 0
        for key, piece in (("name", name), ("arguments", arguments)):
            if isinstance(piece, str):
                call[key] += piece
                size += len(piece)
        return size

    def _find(self, index: object, call_id: str) -> dict[str, str] | None:
        known = self._by_index.get(index) if isinstance(index, int) else len(self._calls) - 1
        if known is not None and known >= 0:
            call = self._calls[known]
            # Another id under the same number is another call.
            if not call_id or not call["id"] or call_id == call["id"]:
                call["id"] = call["id"] or call_id
                return call
        if len(self._calls) == MAX_CALLS:
            return None
        if isinstance(index, int):
            self._by_index[index] = len(self._calls)
        self._calls.append({"id": call_id, "name": "", "arguments": ""})
        return self._calls[-1]


def read_usage(value: object) -> Usage | None:
    """Read a `usage` object in either protocol's words; None where it is missing or holds no token counts."""
    if not isinstance(value, Mapping):
        return None
    given = [_count_in(value, name) for name in ("prompt_tokens", "input_tokens")]
    written = [_count_in(value, name) for name in ("completion_tokens", "output_tokens")]
    if not any(count is not None for count in (*given, *written)):
        return None
    details = [value.get(name) for name in ("prompt_tokens_details", "input_tokens_details")]
    kinds = [value.get(name) for name in ("completion_tokens_details", "output_tokens_details")]
    return Usage(
        input_tokens=_first(given),
        output_tokens=_first(written),
        cached_tokens=_first([_count_in(each, "cached_tokens") for each in details]),
        reasoning_tokens=_first([_count_in(each, "reasoning_tokens") for each in kinds]),
    )


def _count_in(value: object, name: str) -> int | None:
    count = value.get(name) if isinstance(value, Mapping) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _first(counts: Sequence[int | None]) -> int:
    return next((count for count in counts if count is not None), 0)


def text_of(content: object) -> str:
    """Return the text of a `content`, which some servers send as a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(text_of(part.get("text")) for part in content if isinstance(part, Mapping))
    return ""


def _whole_characters(text: str) -> str:
    # JSON may hold half a surrogate pair (or the halves in two pieces), which nothing can encode later.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
