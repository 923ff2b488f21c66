"""Recorded runs: `RecordingModel` writes one, `ReplayModel` plays it back without a network."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from agentexec.errors import ReplayMismatch, SettingsError
from agentexec.models.base import (
    CallOptions,
    ChatMessage,
    Completion,
    Feature,
    Model,
    ModelWrapper,
    OnRetry,
    OnText,
    ToolCall,
    Usage,
)

_PIECE = re.compile(r"\s*\S+\s*|\s+")


class RecordedCall(BaseModel):
    """One line of a recorded run.

    Attributes:
        role: First line of the system prompt, e.g. `You are the coder.`; replies are matched by it.
        text: The reply.
        request: Digest of the whole request, to tell whether a replay asks what the recording was asked.
        usage: Tokens, or None where the server did not say.
        cost: USD, or None where unknown.
        finish_reason: As the server put it.
        model: The model that answered.
        calls: Tool calls: id, name and arguments of each.
        refusal: Whether the model declined.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    text: str
    request: str = ""
    usage: Usage | None = None
    cost: Decimal | None = None
    finish_reason: str = "stop"
    model: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    refusal: bool = False


class ReplayModel(Model):
    """Plays a recorded run: each role gets its replies in the order in which they were recorded.

    Args:
        path: A file that `RecordingModel` (or `agentexec solve --record`) wrote.
        strict: Also refuse a request that differs from the recorded one. Off by default, since what
            comes back from a sandbox holds timings and paths.
        pace: Seconds between pieces of a reply, for demonstrations.

    Raises:
        SettingsError: the file cannot be read or is not a recorded run.
    """

    def __init__(self, path: str | Path, *, strict: bool = False, pace: float = 0.0) -> None:
        self.name = f"replay:{path}"
        self._path = Path(path)
        self._strict = strict
        self._pace = pace
        self._calls = load_recording(self._path)
        self._played: Counter[str] = Counter()

    @property
    def supports(self) -> frozenset[Feature]:
        """All there is: whatever was asked when it was recorded is what comes."""
        return frozenset({"format", "tools"})

    def skip(self, played: Mapping[str, int]) -> None:
        for agent, count in played.items():
            self._played[f"You are the {agent}."] = count

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        """Return the next recorded reply for the role of the first message.

        Raises:
            ReplayMismatch: there is none left, or (`strict`) it answered another request.
        """
        call = self._next(role_of(messages))
        if self._strict and call.request and call.request != digest(messages):
            raise ReplayMismatch(f"{self._path} was recorded with another request to {call.role!r}; record it again")
        if on_text is not None:
            for piece in _PIECE.findall(call.text):
                on_text(piece)
                await asyncio.sleep(self._pace)
        return Completion(
            text=call.text,
            usage=call.usage,
            cost=call.cost,
            finish_reason=call.finish_reason,
            model=call.model,
            calls=tuple(ToolCall(*each) for each in call.calls),
            refusal=call.refusal,
        )

    def _next(self, role: str) -> RecordedCall:
        calls = [call for call in self._calls if call.role == role]
        number = self._played[role]
        if number >= len(calls):
            roles = ", ".join(f"{count} for {role!r}" for role, count in self._count().items()) or "none"
            raise ReplayMismatch(
                f"{self._path} holds no reply number {number + 1} for {role!r} (it holds {roles}): "
                "the run went another way than the recorded one; record it again"
            )
        self._played[role] += 1
        return calls[number]

    def _count(self) -> Counter[str]:
        return Counter(call.role for call in self._calls)


class RecordingModel(ModelWrapper):
    """Passes calls on to a model and writes what it answers to a file, one JSON line per call.

    The file is started anew with the first call. It holds replies and digests of requests: no key, and
    nothing of the conversation but the model's side.

    Args:
        model: The model that answers.
        path: The file; or another recorder whose file this one shares, where several models answer one run.
    """

    def __init__(self, model: Model, path: str | Path | RecordingModel) -> None:
        super().__init__(model)
        self._tape: _Tape = path._tape if isinstance(path, RecordingModel) else _Tape(Path(path))

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        """Answer as the wrapped model does, and record it."""
        answer = await super().complete(messages, on_text=on_text, on_retry=on_retry, options=options)
        self._tape.write(
            RecordedCall(
                role=role_of(messages),
                text=answer.text,
                request=digest(messages),
                usage=answer.usage,
                cost=answer.cost,
                finish_reason=answer.finish_reason,
                model=answer.model,
                calls=tuple((call.id, call.name, call.arguments) for call in answer.calls),
                refusal=answer.refusal,
            )
        )
        return answer


class _Tape:
    """The file of a recording, started anew by the first call that is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = False

    def write(self, call: RecordedCall) -> None:
        with self._path.open("a" if self._started else "w", encoding="utf-8") as file:
            file.write(call.model_dump_json() + "\n")
        self._started = True


def role_of(messages: Sequence[ChatMessage]) -> str:
    """Return the first line of the system prompt."""
    system = next((message.content for message in messages if message.role == "system"), "")
    return system.strip().partition("\n")[0].strip()


def digest(messages: Sequence[ChatMessage]) -> str:
    """Return a digest of a request."""
    parts = json.dumps([_parts(message) for message in messages])
    return "sha256:" + hashlib.sha256(parts.encode()).hexdigest()


def _parts(message: ChatMessage) -> list[str]:
    pictures = [f"{picture.name}:{hashlib.sha256(picture.data).hexdigest()}" for picture in message.pictures]
    calls = [f"{call.id}:{call.name}:{call.arguments}" for call in message.calls]
    return [message.role, message.content, *pictures, *calls, *([message.call_id] if message.call_id else [])]


def load_recording(path: Path) -> tuple[RecordedCall, ...]:
    """Read a recorded run.

    Raises:
        SettingsError: the file cannot be read, or a line is not a recorded call; the message says which.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot read the recorded run {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not a recorded run: it is not UTF-8") from error
    calls = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            calls.append(RecordedCall.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise SettingsError(
                f"{path}, line {number}, is not a recorded call: {where or 'line'}: {first['msg']}"
            ) from error
    if not calls:
        raise SettingsError(f"the recorded run {path} is empty")
    return tuple(calls)
