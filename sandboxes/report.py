"""What a runner says of a block, checked before anybody believes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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
