"""A directory of this machine kept like the workspace of a sandbox that cannot see it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from sandboxes.errors import FileTooLarge, SandboxError, SandboxUnavailable, UnsafePath
from sandboxes.executor import DEFAULT_GET_BYTES, Executor
from sandboxes.paths import workspace_path
from sandboxes.runner.files import DIRECTORY, Refused, write_file
from sandboxes.types import CodeBlock, Isolation, Limits, OnOutput, Result
from sandboxes.waiting import uninterrupted


class MirroredExecutor(Executor):
    """Copies a directory in at the start, and what blocks create or change out after each.

    What blocks remove stays in the directory. Files larger than `file_size`, links and special files are not copied,
    nor more than the 1,000 that a `Result` names; nor are modes, nor what a block did whose `run` was cancelled.

    Args:
        make: Makes the executor in which blocks run, with a workspace of its own; again after a start that failed.
        directory: An existing directory of this machine.
    """

    def __init__(self, make: Callable[[], Executor], directory: Path) -> None:
        self._make = make
        self._executor = make()
        self._directory = directory.resolve()
        self._starting = asyncio.Lock()
        self._started = self._closed = False

    @property
    def limits(self) -> Limits:
        return self._executor.limits

    @property
    def isolation(self) -> Isolation:
        return self._executor.isolation

    @property
    def local_workspace(self) -> Path | None:
        return self._directory

    async def start(self) -> None:
        async with self._starting:
            if self._started and not self._closed:  # what has changed since is not copied in again
                return
            try:
                await self._executor.start()
                for name in await asyncio.to_thread(self._files):
                    data = await asyncio.to_thread(self._read, name)
                    if data is not None:
                        await self._executor.put(name, data)
            except BaseException:
                await uninterrupted(self._undo_start())
                raise
            self._started = True

    async def _undo_start(self) -> None:
        await self._executor.close()
        if not self._closed:
            self._executor = self._make()

    def _read(self, name: str) -> bytes | None:
        """Return a file's content; None if it is gone meanwhile."""
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SandboxUnavailable(f"cannot copy {self._directory / name}: {error.strerror}") from None

    def _files(self) -> list[str]:
        """Return the paths of the regular files that can be copied.

        Raises:
            FileTooLarge: together they are larger than the workspace may be.
        """
        found, total = [], 0
        for parent, _, names in os.walk(self._directory):
            for name in names:
                path = Path(parent, name)
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue
                if not path.is_symlink() and path.is_file() and status.st_size <= self.limits.file_size:
                    total += status.st_size
                    with contextlib.suppress(UnsafePath):
                        found.append(workspace_path(path.relative_to(self._directory).as_posix()))
        if total > self.limits.disk:
            raise FileTooLarge(
                f"{self._directory} holds {total} bytes, which have to be copied; `disk` allows {self.limits.disk}"
            )
        return found

    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        result = await self._executor.run(block, on_output=on_output)
        left_out = []
        for file in result.files if result.verdict != "lost" else ():
            try:
                await self._copy_out(file.path)
            except SandboxError as error:
                left_out.append(str(error))
        if not left_out:
            return result
        note = f"{len(left_out)} files were not copied to {self._directory}: {left_out[0]}"
        return result.model_copy(update={"message": "; ".join(filter(None, (result.message, note)))})

    async def _copy_out(self, name: str) -> None:
        data = await self._executor.get(name, max_bytes=self.limits.file_size)
        await uninterrupted(asyncio.to_thread(self._write, workspace_path(name), data))

    def _write(self, name: str, data: bytes) -> None:
        """Write a file in the directory, through nothing that may lead out of it."""
        root = os.open(self._directory, DIRECTORY)
        try:
            write_file(root, name, data)
        except (Refused, OSError) as error:
            raise SandboxError(f"cannot write {name!r} into {self._directory}: {error}") from None
        finally:
            os.close(root)

    async def cancel(self) -> None:
        await self._executor.cancel()

    async def put(self, path: str, data: bytes) -> None:
        await uninterrupted(self._put(path, data))

    async def _put(self, path: str, data: bytes) -> None:
        await self._executor.put(path, data)
        await asyncio.to_thread(self._write, workspace_path(path), data)

    async def get(self, path: str, *, max_bytes: int = DEFAULT_GET_BYTES) -> bytes:
        return await self._executor.get(path, max_bytes=max_bytes)

    async def ping(self) -> None:
        await self._executor.ping()

    async def restart(self) -> None:
        await self._executor.restart()

    async def close(self) -> None:
        self._closed = True
        await self._executor.close()
