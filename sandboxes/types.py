"""The values that cross the executor contract: what to run, within which limits, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Verdict = Literal["ok", "failed", "timeout", "cpu_time", "memory", "disk", "cancelled", "lost"]
"""One word for what came of a block, with the same meaning on every backend:

ok          exit status 0
failed      the program's own doing: non-zero exit status, uncaught exception, a signal we did not send
timeout     `wall_time` passed; everything was killed, partial output is kept
cpu_time    `cpu_time` was used up
memory      ended because of the memory limit, however it is enforced
disk        ended because of the `disk` or `file_size` limit: killed for it, or failed after it refused space
cancelled   the caller cancelled
lost        the sandbox died under this block
"""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

Stream = Literal["stdout", "stderr"]
OnOutput = Callable[[Stream, bytes], None]
"""Called as output is written, with raw bytes that may end inside a UTF-8 character. Must not block."""

_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(value: object) -> int:
    """Turn `512`, `"512M"`, `"1.5GiB"` or `"64k"` into bytes (multiples of 1024).

    Raises:
        ValueError: not a size; the message shows the accepted forms.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'not a size: {value!r} (write bytes, or like "512M", "1.5G", "64k")')
    return int(float(match[1]) * _UNITS[match[2].lower()])


Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0, le=1 << 50)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400, allow_inf_nan=False)]


def expect(value: object, kind: type | tuple[type, ...], otherwise: str) -> None:
    """Refuse an argument of the wrong type where it is given, and not where it is first used.

    Raises:
        TypeError: `value` is not of `kind`; the message is `otherwise`, which says what to write, and the type it has.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{otherwise}, not {type(value).__name__}")


class Limits(BaseModel):
    """What one block may use. Times in seconds, sizes in bytes (or strings such as `"512M"`).

    Attributes:
        wall_time: Seconds from start to end of a block.
        cpu_time: CPU seconds of the block's whole process tree; None leaves it to `wall_time`.
        memory: Bytes the whole tree may hold, files in /tmp and /dev/shm included.
        processes: Processes and threads of the block at any one time.
        disk: Bytes the workspace may hold; every file counts as at least 4 KiB.
        file_size: Bytes of any single file.
        open_files: Open descriptors of any single process.
        output: Bytes kept of stdout and of stderr each: half from the head, half from the tail.
        network: Whether the block may reach a network at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_time: Seconds = 60.0
    cpu_time: Seconds | None = None
    memory: Size = 1 << 30
    processes: Annotated[int, Field(ge=1, le=1 << 20)] = 128
    disk: Size = 1 << 30
    file_size: Size = 256 << 20
    open_files: Annotated[int, Field(ge=16, le=1 << 20)] = 1024
    output: Size = 1 << 20
    network: bool = False

    @model_validator(mode="before")
    @classmethod
    def _have_names(cls, given: object) -> object:
        for name in given if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                raise ValueError(f"no limit is called {name!r}; there are {', '.join(cls.model_fields)}")
        return given

    if TYPE_CHECKING:
        # What may be given is more than what is held; without this, editors take `memory="512M"` for an error.
        def __init__(
            self,
            *,
            wall_time: float = 60.0,
            cpu_time: float | None = None,
            memory: int | str = 1 << 30,
            processes: int = 128,
            disk: int | str = 1 << 30,
            file_size: int | str = 256 << 20,
            open_files: int = 1024,
            output: int | str = 1 << 20,
            network: bool = False,
        ) -> None: ...


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Code to run.

    Attributes:
        code: The source text.
        language: A name or alias from the language table.
        filename: Where the code is saved in the workspace, and stays; None runs it from a file of the
            executor's own that is removed afterwards.
    """

    code: str
    language: str = "python"
    filename: str | None = None

    def __post_init__(self) -> None:
        expect(self.code, str, "the code of a CodeBlock is a string")
        expect(self.language, str, "the language of a CodeBlock is a string such as 'python'")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkspaceFile(_Frozen):
    r"""A regular file that a block created or changed.

    Attributes:
        path: Relative to the workspace, with `/` separators. Bytes that are not UTF-8 are escaped as `\xNN`.
        size: Bytes.
        sha256: Hex digest, or None where hashing had to stop: at 256 MiB a block, or after half a second.
        media_type: Guessed from the name, never from the content.
    """

    path: str
    size: int
    sha256: str | None = None
    media_type: str = "application/octet-stream"


class Display(_Frozen):
    """A rich output of a kernel: one object in several representations.

    Attributes:
        data: MIME type to text; binary types are base64.
        metadata: As the kernel sent it.
        execution_count: Where it is the value of a cell's last line, that cell's number; None where it was displayed.
    """

    data: Mapping[str, str]
    metadata: Mapping[str, Any] = Field(default_factory=dict)
    execution_count: int | None = None


class ErrorInfo(_Frozen):
    """An exception that a kernel reported.

    Attributes:
        name: Of its class.
        message: What it says.
        traceback: As text.
        coloured: The same with the terminal's colour codes.
    """

    name: str
    message: str
    traceback: str = ""
    coloured: str = ""


class Isolation(_Frozen):
    """What really holds a block on this machine.

    Attributes:
        tier: `bwrap`, `landlock`, `docker`, `none` or a backend's own word.
        mechanisms: Field of `Limits`, or an aspect such as `filesystem`, to the mechanism that enforces it.
        unenforced: Limits that nothing enforces here.
    """

    tier: str
    mechanisms: Mapping[str, str] = Field(default_factory=dict)
    unenforced: tuple[str, ...] = ()


_UNKNOWN = Isolation(tier="unknown")
# One for all results: a plain default would be copied, deeply, for every result that is made.


class Result(_Frozen):
    """What came of a block. A block that fails is a result, never an exception.

    Attributes:
        verdict: See `Verdict`.
        exit_code: The main process's exit status, or None if it ended by a signal or never ended.
        signal: Number of the signal that ended it, or None.
        stdout: Kept output as text; invalid UTF-8 is replaced, an omission is marked where it is.
        stderr: Likewise.
        stdout_bytes: Bytes the block wrote in all.
        stderr_bytes: Likewise.
        truncated: Whether some output was left out of `stdout` or `stderr`.
        duration: Wall-clock seconds.
        cpu_time: CPU seconds (user and system) of the whole tree, or None if unknown.
        peak_memory: Highest memory seen in the whole tree, in bytes, or None if unknown.
        files: Files created or changed in the workspace (at most 1,000).
        displays: Rich outputs (kernels).
        error: The exception that ended the cell (kernels).
        execution_count: The cell's number, counted by the kernel from 1 (kernels).
        isolation: What enforced the limits.
        message: For people: why the verdict is what it is, e.g. which limit was passed and by how much.
    """

    verdict: Verdict
    exit_code: int | None = None
    signal: int | None = None
    stdout: str = ""
    stderr: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: bool = False
    duration: float = 0.0
    cpu_time: float | None = None
    peak_memory: int | None = None
    files: tuple[WorkspaceFile, ...] = ()
    displays: tuple[Display, ...] = ()
    error: ErrorInfo | None = None
    execution_count: int | None = None
    isolation: Isolation = Field(default_factory=lambda: _UNKNOWN)
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether the verdict is `ok`."""
        return self.verdict == "ok"
