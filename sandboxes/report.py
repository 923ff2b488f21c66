"""What a runner answers, checked before anybody believes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandboxes.errors import (
    FileTooLarge,
    SandboxError,
    SandboxLostError,
    SandboxProtocolError,
    SandboxUnavailable,
    UnknownLanguage,
    UnsafePath,
    WorkspaceFileNotFound,
)
from sandboxes.runner.frames import FrameError, decode_control

Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _FileRecord(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, Field(strict=True, max_length=20_000)]
    size: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None


class Report(BaseModel):
    """What a runner says of a block, checked."""

    model_config = ConfigDict(extra="forbid")

    op: Literal["result"]
    verdict: Literal["ok", "failed", "timeout", "cpu_time", "memory", "disk", "cancelled"]
    exit_code: Annotated[int, Field(strict=True, ge=0, le=255)] | None
    signal: Annotated[int, Field(strict=True, ge=1, le=128)] | None
    stdout_bytes: Count
    stderr_bytes: Count
    stdout_head: Count
    stderr_head: Count
    duration: Time
    cpu_time: Time
    peak_memory: Count
    message: Annotated[str, Field(strict=True, max_length=2000)]
    alive: bool = True
    memory_is_full: bool = False
    files: Annotated[list[_FileRecord], Field(max_length=1000)]


class KernelTraits(BaseModel):
    """What a runner says of a kernel that it has started, checked.

    Attributes:
        language: What it runs; empty where it does not say.
        interrupt_mode: Whether an interrupt is a signal or a message.
    """

    model_config = ConfigDict(extra="forbid")

    op: Literal["kernel"]
    language: Annotated[str, Field(strict=True, max_length=100)]
    interrupt_mode: Literal["signal", "message"]


_REFUSALS: dict[str, type[SandboxError]] = {
    "unsafe_path": UnsafePath,
    "not_found": WorkspaceFileNotFound,
    "too_large": FileTooLarge,
    "no_interpreter": UnknownLanguage,
    "kernel": SandboxUnavailable,
    "io": SandboxError,
}


def read_answer(payload: bytes) -> dict[str, Any]:
    """Return a control frame's object.

    Raises:
        SandboxProtocolError: it is none.
    """
    try:
        return decode_control(payload)
    except FrameError as error:
        raise SandboxProtocolError(f"from the sandbox: {error}") from None


def read_report(payload: bytes) -> Report:
    """Return what a control frame says of a block.

    Raises:
        SandboxError: the block was refused, or the runner has failed; which one it is depends on why.
        SandboxProtocolError: the frame says nothing that it could.
    """
    try:
        return Report.model_validate_json(payload)
    except ValidationError as error:
        answer = read_answer(payload)
        if answer.get("op") in ("error", "fatal"):
            _refuse(answer)
        raise SandboxProtocolError(f"from the sandbox: not a report: {error.error_count()} errors") from None


def check_kernel(answer: Mapping[str, Any]) -> KernelTraits:
    """Return what an answer says of a kernel; raises as `read_report` does."""
    if answer.get("op") != "kernel":
        check_done(answer)
    try:
        return KernelTraits.model_validate(answer)
    except ValidationError:
        raise SandboxProtocolError("from the sandbox: not what a kernel is like") from None


def check_done(answer: Mapping[str, Any]) -> None:
    """Return if an answer says that something is done; raises as `read_report` does."""
    if answer.get("op") in ("error", "fatal"):
        _refuse(answer)
    if answer != {"op": "done"}:
        raise SandboxProtocolError(f"from the sandbox: unexpected answer {json.dumps(answer)[:200]}")


def _refuse(answer: Mapping[str, Any]) -> NoReturn:
    text = str(answer.get("message", ""))[:2000]
    if answer.get("op") == "fatal":
        raise SandboxLostError(text)
    raise _REFUSALS.get(str(answer.get("kind")), SandboxError)(text)
