"""Models for tests, which say what they are told to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from agentexec.models.base import CallOptions, ChatMessage, Completion, Model, OnRetry, OnText, Usage
from agentexec.snapshots import Restored, SnapshotStore

Line = str | Completion | BaseException
Lines = Sequence[Line] | Callable[[Sequence[ChatMessage]], Line]

USAGE = Usage(input_tokens=10, output_tokens=5)
COST = Decimal("0.01")


def role_of(messages: Sequence[ChatMessage]) -> str:
    """Return which agent asks, by the first line of its system prompt."""
    first = messages[0].content.partition("\n")[0]
    return first.removeprefix("You are the ").removesuffix(".")


def slow_restore(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Make restoring a snapshot take a while; return what is set once that is under way."""
    begun, loop, restore = asyncio.Event(), asyncio.get_running_loop(), SnapshotStore.restore

    def slowly(store: SnapshotStore, snapshot: str, directory: Path) -> Restored:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.2)
        return restore(store, snapshot, directory)

    monkeypatch.setattr(SnapshotStore, "restore", slowly)
    return begun


def run(code: str, language: str = "python") -> str:
    """Return a coder's message with one block."""
    return f"I try this.\n\n```{language}\n{code}\n```\n"


class ScriptedModel(Model):
    """Answers each role with its lines in order, or by a function; an exception among them is raised.

    Attributes:
        calls: What was asked: role and messages.
    """

    name = "scripted"

    def __init__(self, coder: Lines, *, planner: Lines = ("1. Do it.",), reviewer: Lines | None = None) -> None:
        always: Lines = lambda messages: "APPROVE"  # noqa: E731
        self._lines: Mapping[str, Lines] = {
            "coder": coder,
            "planner": planner,
            "reviewer": always if reviewer is None else reviewer,
        }
        self._used = dict.fromkeys(self._lines, 0)
        self.calls: list[tuple[str, Sequence[ChatMessage]]] = []
        self.closed = 0

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        role = role_of(messages)
        self.calls.append((role, messages))
        lines = self._lines[role]
        if callable(lines):
            line = lines(messages)
        else:
            line = lines[self._used[role]]
            self._used[role] += 1
        if isinstance(line, BaseException):
            raise line
        if isinstance(line, str):
            line = Completion(line, usage=USAGE, cost=COST, model="scripted-1")
        if on_text is not None and line.text:
            on_text(line.text)
        return line

    async def close(self) -> None:
        self.closed += 1

    def asked(self, role: str) -> list[Sequence[ChatMessage]]:
        """Return what a role was asked, call by call."""
        return [messages for name, messages in self.calls if name == role]


class SilentModel(Model):
    """Never answers."""

    name = "silent"

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")
