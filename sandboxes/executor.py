"""The contract of everything that runs code blocks."""

from __future__ import annotations

import abc
import contextlib
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from sandboxes.errors import FileTooLarge, UnsafePath, WorkspaceFileNotFound
from sandboxes.types import CodeBlock, Isolation, Limits, OnOutput, Result, expect

DEFAULT_GET_BYTES = 256 << 20


def expect_block(block: object) -> None:
    """Raise a `TypeError` if this is no block: a string, above all."""
    expect(block, CodeBlock, 'run() takes a CodeBlock, as in run(CodeBlock("print(1)"))')


def expect_bytes(data: object) -> None:
    """Raise a `TypeError` if this is no content of a file: a string or a path, above all."""
    expect(data, (bytes, bytearray, memoryview), 'put() takes a file\'s bytes, as in put("a.txt", text.encode())')


class Executor(abc.ABC):
    """Runs code blocks under limits, in a workspace of its own.

    An executor is an async context manager: entering starts it, leaving closes it and everything in it.
    Calls that arrive while a block runs are queued. All paths are relative to the workspace.

    Code that fails is a `Result`. These are raised when the sandbox fails:

    - `SandboxUnavailable`: cannot be used on this machine; says what to type.
    - `SandboxStartError`: did not come up.
    - `SandboxLostError`: has died earlier; `restart()` brings it back. (A block that is running when the
      sandbox dies is a `Result` with verdict `lost`.)
    - `SandboxProtocolError`: the sandbox sent something it must not send; it is given up, as when lost.
    - `SandboxClosedError`: used before it was started or after it was closed.
    - `LimitNotEnforceable`: at start, for an explicit limit that nothing here can enforce.

    Attributes:
        keeps_state: Whether a block finds the variables of the one before.
        spec: What `open_executor` made it from, such as `"local"`; empty for one that was made otherwise.
    """

    keeps_state: ClassVar[bool] = False
    spec: str = ""

    @property
    @abc.abstractmethod
    def limits(self) -> Limits:
        """The limits every block runs under."""

    @property
    @abc.abstractmethod
    def isolation(self) -> Isolation:
        """What enforces them here. Complete once the executor has started."""

    @property
    def local_workspace(self) -> Path | None:
        """The directory of this machine that holds the workspace; None where there is none, or none yet."""
        return None

    @abc.abstractmethod
    async def start(self) -> None:
        """Bring the sandbox up. Starting twice has no effect."""

    @abc.abstractmethod
    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        """Run one block and wait for its end.

        Cancelling the awaiting task kills the block, leaves nothing of it running, and keeps the executor
        usable; the `CancelledError` is raised once the block is dead.

        Args:
            block: What to run.
            on_output: Called with each piece of output as it is written. If it raises, the block is
                killed and the exception is passed on.

        Raises:
            UnknownLanguage: no such language, or its interpreter is not in the sandbox.
            UnsafePath: `block.filename` leaves the workspace or crosses a symlink; nothing was written.
        """

    @abc.abstractmethod
    async def cancel(self) -> None:
        """Kill the block that is running, if any; its `run` returns verdict `cancelled`."""

    @abc.abstractmethod
    async def put(self, path: str, data: bytes) -> None:
        """Write a file into the workspace, making directories as needed.

        Raises:
            UnsafePath: the path leaves the workspace, crosses a symlink or is no regular file.
            FileTooLarge: larger than `limits.file_size`.
        """

    @abc.abstractmethod
    async def get(self, path: str, *, max_bytes: int = DEFAULT_GET_BYTES) -> bytes:
        """Read a regular file from the workspace.

        Raises:
            WorkspaceFileNotFound: there is none.
            UnsafePath: the path leaves the workspace or is no regular file.
            FileTooLarge: larger than `max_bytes`.
        """

    @abc.abstractmethod
    async def restart(self) -> None:
        """Replace the sandbox by a fresh one with the same workspace. Works after the sandbox was lost."""

    async def ping(self) -> None:
        """Return if the sandbox is alive and answers.

        Raises:
            SandboxLostError: it is not, or does not.
        """
        with contextlib.suppress(WorkspaceFileNotFound, FileTooLarge, UnsafePath):  # any answer will do
            await self.get("ping", max_bytes=0)

    async def reset(self) -> None:
        """Empty the workspace and forget all state, without the time that a new sandbox takes.

        Raises:
            NotImplementedError: this executor cannot; open a new one.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be emptied; open a new one")

    @abc.abstractmethod
    async def close(self) -> None:
        """End everything inside and release what the executor holds.

        Closing twice has no effect, and who closes what somebody else is closing waits for its end too.
        """

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
