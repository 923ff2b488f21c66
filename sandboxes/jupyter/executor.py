"""`KernelExecutor`: blocks share one Jupyter kernel, inside any sandbox that shares a directory.

What the kernel prints comes through the runner, as with any block; displays and errors come as messages, which are
untrusted input: signed by a key that the kernel knows, bounded in size and number, and believed in nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient

from sandboxes.errors import (
    FileTooLarge,
    SandboxError,
    SandboxStartError,
    SandboxUnavailable,
    UnknownLanguage,
    UnsafePath,
    WorkspaceFileNotFound,
)
from sandboxes.jupyter.cell import Cell, next_message, picture
from sandboxes.jupyter.heartbeat import Heartbeat
from sandboxes.languages import find_language
from sandboxes.link import Outcome
from sandboxes.paths import workspace_path
from sandboxes.report import Report
from sandboxes.runner.files import empty_directory
from sandboxes.sandbox import Sandbox
from sandboxes.script import ScriptExecutor
from sandboxes.types import CodeBlock, Display, ErrorInfo, Limits, OnOutput, Result, Verdict, WorkspaceFile
from sandboxes.waiting import uninterrupted

READY_TIMEOUT = 30.0
"""Seconds for a kernel to answer its first question."""
INTERRUPT_GRACE, INTERRUPTS = 1.0, 3
"""Seconds that a cell has to come to an end, before the kernel is ended, and how often it is interrupted meanwhile."""
BEAT, PATIENCE = 2.0, 12.0
"""Seconds between two heartbeats while a cell runs, and for which a kernel may leave them unanswered."""
MAX_MESSAGE = 32 << 20
"""Bytes of one message."""
PICTURES = {"image/png": ".png", "image/jpeg": ".jpg", "image/svg+xml": ".svg"}
NO_SPACE = tuple(f"[Errno {number}]" for number in (errno.EFBIG, errno.ENOSPC, errno.EDQUOT))
_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


class KernelExecutor(ScriptExecutor):
    """Runs blocks as cells of one kernel: variables, imports and the working directory stay from block to block.

    A cell that runs too long is interrupted, and the state is kept. If it does not listen, or if the kernel dies, the
    next block has a new kernel, and the result says that the state is lost.

    Args:
        sandbox: Where the kernel runs; for the IPython kernel, with ipykernel installed.
        limits: What each cell may use.
        kernel: Name of another kernel that is installed there, e.g. `bash` or `ir`.
    """

    keeps_state = True

    def __init__(self, sandbox: Sandbox, limits: Limits | None = None, *, kernel: str = "") -> None:
        super().__init__(sandbox, limits)
        self._pictures = 0
        self._name = kernel
        self._here, self._inside = Path(), ""
        self._client: AsyncKernelClient | None = None
        self._heart: Heartbeat | None = None
        self._directory = -1

    async def _open(self) -> None:
        self._here, self._inside = self._sandbox.share()
        try:
            await super()._open()
        except SandboxStartError as error:
            if "cannot preload 'ipykernel" in str(error):
                raise SandboxUnavailable(
                    f"ipykernel is not installed in the sandbox's Python: type 'pip install ipykernel' there ({error})"
                ) from None
            raise
        try:
            await self._start_kernel()
        except BaseException:
            if self._link is not None:
                await uninterrupted(self._link.close())
            raise

    async def _start_kernel(self) -> None:
        """Start a kernel and connect to it, while nothing but its own code has run in it."""
        self._disconnect()
        await asyncio.to_thread(empty_directory, str(self._here))
        directory = secrets.token_hex(8)
        here = self._here / directory
        here.mkdir(mode=0o700)
        owner = self._here.stat()
        if os.geteuid() == 0:
            os.chown(here, owner.st_uid, owner.st_gid)
        connection: dict[str, Any] = {
            "transport": "ipc",
            "ip": f"{self._inside}/{directory}/k",
            "key": secrets.token_hex(32),
            "signature_scheme": "hmac-sha256",
            **{f"{name}_port": number for number, name in enumerate(_CHANNELS, 1)},
        }
        await self._guard(self._ready().start_kernel(self._name, f"{self._inside}/{directory}", connection))
        deadline = time.monotonic() + READY_TIMEOUT
        await self._wait_for_sockets(here, deadline)
        # By its descriptor: the name of a socket may have 107 characters, and the directory stays the one it is.
        self._directory = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
        self._connect({**connection, "ip": f"/proc/self/fd/{self._directory}/k"})
        await self._greet(deadline)
        await self._guard(self._ready().settle_kernel())

    async def _wait_for_sockets(self, here: Path, deadline: float) -> None:
        for number in range(1, len(_CHANNELS) + 1):
            while not _is_socket(here / f"k-{number}"):
                if time.monotonic() > deadline:
                    raise SandboxStartError(f"the kernel did not come up within {READY_TIMEOUT:g} s")
                await asyncio.sleep(0.002)

    def _connect(self, connection: Mapping[str, Any]) -> None:
        context = zmq.asyncio.Context()
        # A name in that directory is the kernel's to change: it is looked up now, and never again.
        context.setsockopt(zmq.RECONNECT_IVL, -1)
        context.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self._client = AsyncKernelClient(context=context)
        # Else pyzmq would keep a thread and a context of its own for ever, once a cell is longer than 64 KiB.
        self._client.session.copy_threshold = MAX_MESSAGE
        self._client.load_connection_info(dict(connection))  # type: ignore[arg-type]
        self._client.start_channels(stdin=False, hb=False, control=False)
        for channel in (self._client.shell_channel, self._client.iopub_channel):
            # A kernel that is gone, or does not listen, is nobody to wait for.
            channel.socket.linger = channel.socket.sndtimeo = 0
        self._heart = Heartbeat(context, f"ipc://{connection['ip']}-{connection['hb_port']}")

    async def _greet(self, deadline: float) -> None:
        """Wait until the kernel answers, and until what it publishes arrives."""
        client = self._client
        assert client is not None
        while time.monotonic() < deadline:
            asked = client.kernel_info()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while (await next_message(client.get_shell_msg))["parent_header"].get("msg_id") != asked:
                        pass
                    while True:
                        message = await next_message(client.get_iopub_msg)
                        if message["parent_header"].get("msg_id") == asked and message["msg_type"] == "status":
                            return
        raise SandboxStartError(f"the kernel does not answer within {READY_TIMEOUT:g} s")

    def _disconnect(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            if self._heart is not None:
                self._heart.close()
                self._heart = None
            client.stop_channels()
            client.context.destroy(linger=0)
            os.close(self._directory)

    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        code = self._cell(block)
        async with self._lock:
            self._ready()
            # Before anybody may cancel: what comes while a kernel starts or the cell is only being sent counts too.
            self._cancelled = asyncio.get_running_loop().create_future()
            self._running = True
            try:
                if self._client is None:
                    await self._start_kernel()
                if block.filename is not None:
                    await self._guard(
                        self._ready().put(workspace_path(block.filename), block.code.encode("utf-8", "surrogatepass"))
                    )
                return await self._run_cell(code, on_output)
            finally:
                self._running = False

    def _cell(self, block: CodeBlock) -> str:
        """Return a block as a cell of the kernel's language."""
        name = find_language(block.language).name
        if self._name:
            return block.code
        if name in ("bash", "sh", "javascript", "perl", "ruby"):
            return f"%%script {'node' if name == 'javascript' else name}\n{block.code}"
        if name != "python":
            raise UnknownLanguage(f"a Python kernel runs python, bash, sh, javascript, perl and ruby, not {name}")
        try:
            block.code.encode()
        except UnicodeEncodeError:  # no message can hold it, and Python would not take it either
            return "raise SyntaxError('the code holds half of a surrogate pair, which is no character')"
        return block.code.removeprefix("\ufeff")  # as `python FILE` takes it

    async def _run_cell(self, code: str, on_output: OnOutput | None) -> Result:
        assert self._client is not None
        link = self._ready()
        cell = Cell(self._client)
        ending = asyncio.ensure_future(await link.begin_cell(on_output))
        talking = asyncio.ensure_future(cell.run(code))
        verdict = ""
        try:
            verdict = await self._wait(ending, talking)
            if not ending.done():
                await link.tell("cell_end")
            outcome = await ending
        except BaseException:
            await uninterrupted(self._abandon(cell, ending, talking))
            raise
        finally:
            talking.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await talking
        return await self._finish(cell, outcome, verdict)

    async def _wait(self, ending: asyncio.Future[Outcome], talking: asyncio.Future[None]) -> str:
        """Wait for the end of a cell or of the kernel; return the verdict if it was not left to itself."""
        waiting: list[asyncio.Future[Any]] = [ending, talking, self._cancelled]
        end = time.monotonic() + self._limits.wall_time
        while not self._cancelled.done() and (left := end - time.monotonic()) > 0:
            await asyncio.wait(waiting, timeout=min(left, BEAT), return_when=asyncio.FIRST_COMPLETED)
            if talking.cancelled():  # the executor was closed meanwhile
                return ""
            if talking.done() and not ending.done() and (error := talking.exception()) is not None:
                await self._end(ending, "failed", f"its messages cannot be read ({error})")
            if ending.done() or talking.done():
                return ""
            if self._heart is not None and (silence := self._heart.silence()) > PATIENCE:
                await self._end(ending, "failed", f"it has answered no heartbeat for {silence:.0f} s")
                return ""
        verdict = "cancelled" if self._cancelled.done() else "timeout"
        await self._interrupt(ending, talking, verdict)
        return verdict

    async def _end(self, ending: asyncio.Future[Outcome], verdict: str, why: str) -> None:
        await self._ready().tell("stop", verdict=verdict, message=why)
        await asyncio.wait([ending], timeout=INTERRUPT_GRACE)

    async def _interrupt(self, ending: asyncio.Future[Outcome], talking: asyncio.Future[None], verdict: str) -> None:
        """Interrupt the cell, more than once, since a kernel that has not begun with it yet does not listen."""
        link = self._ready()
        both: list[asyncio.Future[Any]] = [ending, talking]
        for _ in range(INTERRUPTS):
            await link.tell("interrupt")
            done, _ = await asyncio.wait(
                both, timeout=INTERRUPT_GRACE / INTERRUPTS, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                return
        await self._end(ending, verdict, "it did not listen to an interrupt")

    async def _abandon(self, cell: Cell, ending: asyncio.Future[Outcome], talking: asyncio.Future[None]) -> None:
        """Nobody waits for the cell any more: end it, and the kernel only if need be."""
        with contextlib.suppress(SandboxError):
            if ending.done() and not isinstance(ending.exception(), SandboxError | None):
                # The listener raised: the cell still runs, and its report is still to come.
                ending = asyncio.ensure_future(self._ready().end_of_cell())
            if cell.sent:
                await self._interrupt(ending, talking, "cancelled")
            else:
                talking.cancel()
            if not ending.done():
                await self._ready().tell("cell_end")
            outcome = await ending
            if outcome.report is None:
                await self._lose()
            elif not outcome.report.alive:
                self._disconnect()

    async def _finish(self, cell: Cell, outcome: Outcome, verdict: str) -> Result:
        if outcome.report is None:
            self._disconnect()
            await self._lose()
            return self._lost(outcome)
        report = outcome.report
        result = self._result(outcome, report)
        pictures = [] if not report.alive else await self._save_pictures(cell.displays)
        changes: dict[str, Any] = {
            "displays": tuple(cell.displays),
            "error": cell.error,
            "execution_count": cell.execution_count,
            "files": (*result.files, *pictures),
        }
        notes = [report.message, *cell.notes]
        if not report.alive:
            self._disconnect()
            notes.append("the kernel has ended, and its state is lost; the next block has a new one")
        elif verdict:
            late = f"ran longer than {self._limits.wall_time:g} s"
            changes.update(verdict=verdict, exit_code=None)
            notes.append(f"{late if verdict == 'timeout' else 'cancelled'}; it was interrupted, and the state is kept")
        elif cell.error is not None:
            why, note = self._blame(cell.error, report, result.files)
            changes.update(verdict=why, exit_code=1)
            notes.append(note)
        changes["message"] = "; ".join(filter(None, notes))
        return result.model_copy(update=changes)

    def _blame(self, error: ErrorInfo, report: Report, files: Sequence[WorkspaceFile]) -> tuple[Verdict, str]:
        """Tell a cell that failed for want of space from one that failed by itself; return what is to be noted, too."""
        if error.name == "OSError" and error.message.startswith(NO_SPACE):
            if report.memory_is_full:
                return "memory", f"shared memory is full; the limit is {self._limits.memory >> 20} MiB"
            return "disk", ""
        # A process of the cell's own that was stopped by the limit leaves a file of that size.
        if any(file.size == self._limits.file_size for file in files):
            return "disk", f"a file reached the limit of {self._limits.file_size} bytes"
        return "failed", ""

    async def _save_pictures(self, displays: Sequence[Display]) -> list[WorkspaceFile]:
        """Write what was shown as a picture into the workspace, as `plot-1.png` and so on; return the files."""
        saved = []
        for display in displays:
            kind = next((kind for kind in PICTURES if kind in display.data), None)
            content = picture(display, kind) if kind is not None else b""
            if kind is None or not content or len(content) > self._limits.file_size:
                continue
            with contextlib.suppress(SandboxError):
                path = await self._free_name(PICTURES[kind])
                await self._guard(self._ready().put(path, content))
                digest = hashlib.sha256(content).hexdigest()
                saved.append(WorkspaceFile(path=path, size=len(content), sha256=digest, media_type=kind))
        return saved

    async def _free_name(self, ending: str) -> str:
        while True:
            self._pictures += 1
            path = f"plot-{self._pictures}{ending}"
            try:
                await self._guard(self._ready().get(path, 0))
            except WorkspaceFileNotFound:
                return path
            except (FileTooLarge, UnsafePath):  # there is something of that name
                continue

    async def cancel(self) -> None:
        if self._running and not self._cancelled.done():
            self._cancelled.set_result(None)

    async def reset(self) -> None:
        await super().reset()
        async with self._lock:
            self._disconnect()

    async def _lose(self) -> None:
        self._disconnect()
        await super()._lose()

    async def _close(self) -> None:
        self._disconnect()
        await super()._close()


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False
