"""Answers kept on disk: the same request to the same model is answered from there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from agentexec.models.base import (
    CallOptions,
    ChatMessage,
    Completion,
    Model,
    ModelWrapper,
    OnRetry,
    OnText,
    ToolCall,
    Usage,
)

_log = logging.getLogger(__name__)
_FORMAT = 1
_SUFFIX = ".json"
# The user may have named a directory with files of their own, and those never go.
_OURS = re.compile(r"[0-9a-f]{64}(?:\.json|\.[0-9a-f]{8}\.tmp)")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    finish_reason: str
    model: str
    calls: tuple[tuple[str, str, str], ...] = ()


class CachingModel(ModelWrapper):
    """Keeps answers in a directory, one file each, and gives them again for the same request.

    The key is a digest of everything that is asked: model, server, parameters, messages with their pictures
    and tool calls, and options. An answer from the cache is marked (`Completion.cached`) and costs nothing.
    Empty answers, refusals and filtered ones are not kept, so that asking again may help.

    Several processes may share a directory: files appear whole or not at all. A file that cannot be read
    counts as missing, and an answer that cannot be kept is given all the same, with a warning in the log.

    Args:
        model: The model that answers.
        directory: Made if missing, for its owner only, since answers may quote what was private.
        max_bytes: Size of all files together; beyond it, those that were not used for longest go.

    Attributes:
        hits: How many calls were answered from the cache.
        misses: How many the model had to answer.
    """

    def __init__(self, model: Model, directory: str | Path, *, max_bytes: int = 256 << 20) -> None:
        super().__init__(model)
        if max_bytes <= 0:
            raise ValueError(f"max_bytes must be more than 0, not {max_bytes}")
        self.directory = Path(directory)
        self.max_bytes = max_bytes
        self._size: int | None = None
        self._counting = threading.Lock()
        self.hits = self.misses = 0

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        """Answer from the cache, or as the wrapped model does."""
        path = self.directory / (request_key(self.identity, messages, options) + _SUFFIX)
        entry = _read(path)
        if entry is None:
            self.misses += 1
            answer = await super().complete(messages, on_text=on_text, on_retry=on_retry, options=options)
            if _worth_keeping(answer):
                # In a thread, since now and then every file of the directory is looked at.
                await asyncio.to_thread(self._keep, path, answer)
            return answer
        self.hits += 1
        if on_text is not None and entry.text:
            on_text(entry.text)
        return Completion(
            text=entry.text,
            usage=Usage(),
            cost=Decimal(0),
            finish_reason=entry.finish_reason,
            model=entry.model,
            calls=tuple(ToolCall(*call) for call in entry.calls),
            cached=True,
        )

    def _keep(self, path: Path, answer: Completion) -> None:
        entry = _Entry(
            text=answer.text,
            finish_reason=answer.finish_reason,
            model=answer.model,
            calls=tuple((call.id, call.name, call.arguments) for call in answer.calls),
        )
        data = entry.model_dump_json().encode()
        unfinished = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                unfinished.write_bytes(data)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
            with self._counting:
                self._make_room(len(data))
        except OSError as error:
            _log.warning("an answer could not be kept in %s: %s", self.directory, error)

    def _make_room(self, added: int) -> None:
        if self._size is not None:
            self._size += added
            if self._size <= self.max_bytes:
                return
        # Now and then all are counted anew, since other processes write here too.
        files = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        files.append((status.st_mtime, status.st_size, entry.path))
        self._size = sum(size for _, size, _ in files)
        # Somewhat below the bound, so that not every answer from here on counts again.
        room = self.max_bytes if self._size <= self.max_bytes else self.max_bytes * 9 // 10
        for _, size, path in sorted(files):
            if self._size <= room:
                break
            Path(path).unlink(missing_ok=True)
            self._size -= size


def request_key(identity: str, messages: Sequence[ChatMessage], options: CallOptions | None = None) -> str:
    """Return a digest (SHA-256, hexadecimal) of all that decides what a model is asked.

    Args:
        identity: `Model.identity`.
        messages: The conversation; pictures and tool calls count.
        options: As for `Model.complete`.
    """
    asked = [_FORMAT, identity, [asdict(message) for message in messages], asdict(options or CallOptions())]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    raise TypeError(f"a request cannot hold {type(value).__name__}")


def _worth_keeping(answer: Completion) -> bool:
    whole = answer.finish_reason != "content_filter" and not answer.refusal and all(map(_sound, answer.calls))
    return whole and bool(answer.text.strip() or answer.calls) and not answer.cached


def _sound(call: ToolCall) -> bool:
    try:
        return isinstance(json.loads(call.arguments), dict)
    except (ValueError, RecursionError):
        return False


def _read(path: Path) -> _Entry | None:
    try:
        entry = _Entry.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        _log.warning("%s is not an answer that was kept: %s", path, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # what was used last is kept longest
    return entry
