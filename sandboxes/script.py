"""`ScriptExecutor`: every block is a fresh process, in any sandbox."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from sandboxes.errors import (
    FileTooLarge,
    LimitNotEnforceable,
    SandboxClosedError,
    SandboxLostError,
    SandboxProtocolError,
    UnknownLanguage,
)
from sandboxes.executor import DEFAULT_GET_BYTES, Executor, expect_block, expect_bytes
from sandboxes.languages import find_language
from sandboxes.link import Outcome, RunnerLink
from sandboxes.paths import workspace_path
from sandboxes.report import Report
from sandboxes.runner.frames import LIVE_STDERR, LIVE_STDOUT, MAX_CODE
from sandboxes.sandbox import Sandbox
from sandboxes.types import CodeBlock, Isolation, Limits, OnOutput, Result, WorkspaceFile
from sandboxes.waiting import Once, uninterrupted

T = TypeVar("T")

# Without the system's files, so that the same name has the same type everywhere.
_TYPES = mimetypes.MimeTypes(filenames=())
for _type, _suffix in (("text/markdown", ".md"), ("application/x-ipynb+json", ".ipynb"), ("image/webp", ".webp")):
    _TYPES.add_type(_type, _suffix)


class ScriptExecutor(Executor):
    """Runs each block as a process of its own, in a sandbox that is started once and kept warm.

    Args:
        sandbox: Where to run.
        limits: What each block may use.
    """

    def __init__(self, sandbox: Sandbox, limits: Limits | None = None) -> None:
        self._sandbox = sandbox
        self._limits = limits or Limits()
        self._link: RunnerLink | None = None
        self._lock = asyncio.Lock()
        self._running = False
        self._state = "new"
        self._opening = asyncio.Lock()
        self._closing = Once()
        self._isolation = sandbox.isolation(self._limits)

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def isolation(self) -> Isolation:
        return self._isolation

    @property
    def local_workspace(self) -> Path | None:
        return self._sandbox.local_workspace()

    @property
    def sandbox(self) -> Sandbox:
        """The place the blocks run in."""
        return self._sandbox

    async def start(self) -> None:
        async with self._lock:
            if self._state == "closed":
                raise SandboxClosedError("the executor is closed; open a new one")
            if self._state == "new":
                self._refuse_unenforceable()
                try:
                    await self._open()
                except BaseException:
                    await uninterrupted(self._undo_opening("new"))
                    raise

    async def _undo_opening(self, state: str) -> None:
        """Take away what an opening has made that did not come to its end; a restart keeps the workspace."""
        await self._lose()
        self._become(state)
        if self._state != "lost":
            await self._sandbox.close()

    def _become(self, state: str) -> None:
        if self._state != "closed":  # which is for good
            self._state = state

    def _refuse_unenforceable(self) -> None:
        asked = sorted(set(self._isolation.unenforced) & self._limits.model_fields_set)
        if asked:
            raise LimitNotEnforceable(
                f"nothing can enforce {', '.join(asked)} with isolation {self._isolation.tier!r} here; "
                "leave it out to run without, or use another sandbox"
            )

    async def _open(self) -> None:
        async with self._opening:
            self._link = await RunnerLink.open(self._sandbox, self._limits)
            if self._state == "closed":  # meanwhile
                await uninterrupted(self._link.close())
                raise SandboxClosedError("the executor was closed while it started")
            self._isolation = self._sandbox.isolation(self._limits)  # complete only now
            self._state = "open"

    def _ready(self) -> RunnerLink:
        if self._state == "lost":
            raise SandboxLostError("the sandbox has died; call restart() to get a fresh one with the same workspace")
        if self._link is None or self._state != "open":
            raise SandboxClosedError("the executor is not open; use it inside 'async with', or call start()")
        return self._link

    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        expect_block(block)
        language = find_language(block.language)
        filename = None if block.filename is None else workspace_path(block.filename)
        code = block.code.encode("utf-8", "surrogatepass")
        if len(code) > min(self._limits.file_size, MAX_CODE):
            most = min(self._limits.file_size, MAX_CODE)
            raise FileTooLarge(f"the block has {len(code)} bytes; at most {most} are possible")
        async with self._lock:
            link = self._ready()
            self._running = True
            try:
                outcome = await self._guard(link.run(code, language, filename=filename, on_output=on_output))
            except UnknownLanguage as error:
                if link.by_listener(error):
                    raise
                raise UnknownLanguage(f"{error}; Debian's package {language.install} has it") from None
            finally:
                self._running = False
            if outcome.report is None:
                await self._lose()
                return self._lost(outcome)
            return self._result(outcome, outcome.report)

    async def _guard(self, call: Awaitable[T]) -> T:
        """Await a call on the link; whatever breaks the link makes the executor lost."""
        try:
            return await call
        except (SandboxLostError, SandboxProtocolError) as error:
            if self._link is None or not self._link.by_listener(error):
                await self._lose()
            raise
        finally:
            if self._link is not None and self._link.closed:
                await self._lose()

    async def _lose(self) -> None:
        self._become("lost")
        if self._link is not None:
            await uninterrupted(self._link.close())

    def _lost(self, outcome: Outcome) -> Result:
        out, err = outcome.live[LIVE_STDOUT], outcome.live[LIVE_STDERR]
        return Result(
            verdict="lost",
            stdout=join_output(out.head() + out.tail(), len(out.head()), out.total),
            stderr=join_output(err.head() + err.tail(), len(err.head()), err.total),
            stdout_bytes=out.total,
            stderr_bytes=err.total,
            isolation=self._isolation,
            message=f"the sandbox died under this block: {outcome.reason}",
        )

    def _result(self, outcome: Outcome, report: Report) -> Result:
        return Result(
            verdict=report.verdict,
            exit_code=report.exit_code,
            signal=report.signal,
            stdout=join_output(outcome.stdout, report.stdout_head, report.stdout_bytes),
            stderr=join_output(outcome.stderr, report.stderr_head, report.stderr_bytes),
            stdout_bytes=report.stdout_bytes,
            stderr_bytes=report.stderr_bytes,
            truncated=report.stdout_bytes > len(outcome.stdout) or report.stderr_bytes > len(outcome.stderr),
            duration=report.duration,
            cpu_time=report.cpu_time,
            peak_memory=report.peak_memory,
            files=tuple(
                WorkspaceFile(path=file.path, size=file.size, sha256=file.sha256, media_type=media_type(file.path))
                for file in report.files
            ),
            isolation=self._isolation,
            message=report.message,
        )

    async def cancel(self) -> None:
        if self._running:
            await self._ready().cancel()

    async def put(self, path: str, data: bytes) -> None:
        expect_bytes(data)
        name = workspace_path(path)
        if len(data) > self._limits.file_size:
            raise FileTooLarge(f"{path!r} has {len(data)} bytes; file_size allows {self._limits.file_size}")
        await self._exclusive(lambda link: link.put(name, data))

    async def get(self, path: str, *, max_bytes: int = DEFAULT_GET_BYTES) -> bytes:
        name = workspace_path(path)
        return await self._exclusive(lambda link: link.get(name, max_bytes))

    async def _exclusive(self, call: Callable[[RunnerLink], Awaitable[T]]) -> T:
        """Make a call that must not stop half-way, since the stream would be out of step."""
        async with self._lock:
            link = self._ready()
            return await uninterrupted(self._guard(call(link)))

    async def ping(self) -> None:
        await self._exclusive(lambda link: link.ping())

    async def reset(self) -> None:
        await self.cancel_if_running()
        await self._exclusive(self._reset)

    async def _reset(self, link: RunnerLink) -> None:
        await link.reset()

    async def restart(self) -> None:
        await self.cancel_if_running()
        async with self._lock:
            if self._state in ("new", "closed"):
                raise SandboxClosedError("the executor is not open; use it inside 'async with', or call start()")
            await self._lose()
            try:
                await self._open()
            except BaseException:
                await uninterrupted(self._undo_opening("lost"))
                raise

    async def cancel_if_running(self) -> None:
        """End the running block, if the sandbox still listens."""
        if self._running and self._state == "open":
            await self.cancel()

    async def close(self) -> None:
        self._state = "closed"
        await self._closing.run(self._close)

    async def _close(self) -> None:
        self._sandbox.give_up()
        async with self._opening:  # what is on its way would miss what is taken away here
            pass
        if self._link is not None:
            await self._link.close()
            self._link = None
        await self._sandbox.close()


def media_type(path: str) -> str:
    """Guess a media type from a file's name."""
    kind: Any = _TYPES.guess_type(path, strict=False)[0]
    return str(kind) if kind else "application/octet-stream"


def join_output(kept: bytes, head: int, total: int) -> str:
    """Return kept output as text, with a note where some was left out."""
    if total <= len(kept):
        return kept.decode("utf-8", "replace")
    note = f"\n[... {total - len(kept)} of {total} bytes left out ...]\n"
    return kept[:head].decode("utf-8", "replace") + note + kept[head:].decode("utf-8", "replace")
