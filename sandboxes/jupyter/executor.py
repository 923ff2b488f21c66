"""`KernelExecutor`: blocks share one Jupyter kernel, inside any sandbox that shares a directory.

What the kernel prints comes through the runner, as with any block; displays and errors come as messages, which are
untrusted input: signed by a key that the kernel knows, bounded in size and number, and believed in nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sandboxes.errors import (
    FileTooLarge,
    SandboxError,
    SandboxStartError,
    SandboxUnavailable,
    UnknownLanguage,
    UnsafePath,
    WorkspaceFileNotFound,
)
from sandboxes.executor import expect_block
from sandboxes.jupyter.cell import Cell, blame, picture
from sandboxes.jupyter.client import CHANNELS, Audience, Client, ClosedError, SilenceError
from sandboxes.jupyter.zmtp import ZmtpError
from sandboxes.languages import canonical_language
from sandboxes.link import Outcome, RunnerLink
from sandboxes.paths import workspace_path
from sandboxes.report import KernelTraits
from sandboxes.runner.capture import HeadTail
from sandboxes.runner.files import empty_directory
from sandboxes.sandbox import Sandbox
from sandboxes.script import ScriptExecutor, join_output
from sandboxes.types import CodeBlock, Display, Limits, OnOutput, Result, WorkspaceFile
from sandboxes.waiting import uninterrupted

T = TypeVar("T")

READY_TIMEOUT, RECONNECT, GREETING = 30.0, 4.0, 1.0
"""Seconds for a kernel to come up and answer its first question, after which it is connected to again, and asked
again. A kernel whose own event loop has missed a message reads on at the next connection (ipykernel, issue 1554)."""
LOOK = 0.5
"""Seconds between two looks at whether a kernel that is coming up still runs."""
INTERRUPTS = (0.4, 0.4, 2.0)
"""Seconds that a cell has to come to an end, before the kernel is ended; it may be interrupted again after each. To
format the traceback of an interrupt in a long module takes a busy machine more than one."""
END_GRACE = 1.0
"""Seconds for the runner to report a kernel that it was told to end."""
BEAT, PATIENCE = 2.0, 12.0
"""Seconds between two heartbeats while a cell runs, and for which a kernel may leave them unanswered."""
PICTURES = {"image/png": ".png", "image/jpeg": ".jpg", "image/svg+xml": ".svg"}
PICTURE_NAMES = 100
"""How many numbers are tried for a picture's name: a block can have taken any number of them."""


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
        self._client: Client | None = None
        self._traits = KernelTraits(op="kernel", language="" if kernel else "python", interrupt_mode="signal")

    async def _open(self) -> None:
        # Which may first remove what a killed owner has left, however much that is; not while somebody closes us.
        self._here, self._inside = await uninterrupted(asyncio.to_thread(self._sandbox.share))
        try:
            await super()._open()
        except SandboxStartError as error:
            if "cannot preload 'ipykernel" in str(error):
                raise SandboxUnavailable(
                    f"ipykernel is not installed in the sandbox's Python: type 'pip install ipykernel' there ({error})"
                ) from None
            raise
        await self._start_kernel()

    async def _start_kernel(self) -> None:
        """Start a kernel and connect to it, while nothing but its own code has run in it."""
        self._disconnect()
        await uninterrupted(asyncio.to_thread(empty_directory, str(self._here)))
        directory = secrets.token_hex(8)
        here = self._here / directory
        here.mkdir(mode=0o700)
        owner = self._here.stat()
        if os.geteuid() == 0:
            os.chown(here, owner.st_uid, owner.st_gid, follow_symlinks=False)
        key = secrets.token_hex(32)
        connection: dict[str, Any] = {
            "transport": "ipc",
            "ip": f"{self._inside}/{directory}/k",
            "key": key,
            "signature_scheme": "hmac-sha256",
            **{f"{name}_port": number for number, name in enumerate(CHANNELS, 1)},
        }
        inside = f"{self._inside}/{directory}"
        self._traits = await self._whole(self._ready().start_kernel(self._name, inside, connection))
        self._client = Client(key.encode())
        opened = os.open(here, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        coming = asyncio.ensure_future(self._come_up(self._client, opened))
        try:
            while not (await asyncio.wait([coming], timeout=LOOK))[0]:
                await self._whole(self._ready().kernel_alive())
            await coming
            await self._whole(self._ready().settle_kernel())
        except BaseException as error:
            coming.cancel()
            self._disconnect()
            await asyncio.gather(coming, return_exceptions=True)
            if isinstance(error, OSError | SilenceError | ZmtpError):
                self._ready()  # which says so if it was closed meanwhile
                raise SandboxStartError(f"the kernel did not come up: {error}") from None
            raise
        finally:
            os.close(opened)

    async def _come_up(self, client: Client, directory: int) -> None:
        """Connect, and wait until the kernel answers; again if it does not, since a new connection may wake it up."""
        deadline = time.monotonic() + READY_TIMEOUT
        while time.monotonic() < deadline:
            await client.connect(directory, "k", deadline, control=self._traits.interrupt_mode == "message")
            if await self._greet(client, min(deadline, time.monotonic() + RECONNECT)):
                return
        raise SandboxStartError(f"the kernel does not answer within {READY_TIMEOUT:g} s")

    async def _greet(self, client: Client, deadline: float) -> bool:
        """Wait until the kernel answers, and until what it publishes arrives; return false where it does not."""
        patience = 0.1
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GREETING):
                    if (await client.ask("kernel_info_request", {}, Audience(), patience)).complete:
                        return True
            patience = min(2 * patience, GREETING / 2)
        return False

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        expect_block(block)
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
                    await self._whole(
                        self._ready().put(workspace_path(block.filename), block.code.encode("utf-8", "surrogatepass"))
                    )
                return await self._run_cell(code, on_output)
            finally:
                self._running = False

    @property
    def language(self) -> str:
        """What the kernel runs, as it says itself; empty if it does not. Known once the executor has started."""
        return self._traits.language

    def _cell(self, block: CodeBlock) -> str:
        """Return a block as a cell of the kernel's language."""
        name, ours = canonical_language(block.language), canonical_language(self.language)
        if ours == "python" and name in ("bash", "sh", "javascript", "perl", "ruby"):
            return f"%%script {'node' if name == 'javascript' else name}\n{block.code}"
        if ours == "python" and name != ours:
            raise UnknownLanguage(f"a Python kernel runs python, bash, sh, javascript, perl and ruby, not {name}")
        if ours and name != ours and (name, ours) != ("sh", "bash"):
            raise UnknownLanguage(f"the kernel {self._name} runs {ours}, not {name}: say language={ours!r}")
        if ours != "python":
            return block.code
        try:
            block.code.encode()
        except UnicodeEncodeError:  # no message can hold it, and Python would not take it either
            return "raise SyntaxError('the code holds half of a surrogate pair, which is no character')"
        return block.code.removeprefix("\ufeff")  # as `python FILE` takes it

    async def _run_cell(self, code: str, on_output: OnOutput | None) -> Result:
        assert self._client is not None
        link = self._ready()
        cell = Cell(self._limits.output, on_output)
        ending = asyncio.ensure_future(await link.begin_cell(None if on_output is None else cell.heard))
        talking = asyncio.ensure_future(cell.run(self._client, code))
        verdict = ""
        try:
            verdict = await self._wait(cell, ending, talking)
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
        result = await self._finish(cell, outcome, verdict)
        if cell.trouble.done():  # with the last that was written
            cell.trouble.result()
        return result

    async def _wait(self, cell: Cell, ending: asyncio.Future[Outcome], talking: asyncio.Future[None]) -> str:
        """Wait for the end of a cell or of the kernel; return the verdict if it was not left to itself."""
        waiting: list[asyncio.Future[Any]] = [ending, talking, self._cancelled, cell.trouble]
        end = time.monotonic() + self._limits.wall_time
        while not self._cancelled.done() and (left := end - time.monotonic()) > 0:
            await asyncio.wait(waiting, timeout=min(left, BEAT), return_when=asyncio.FIRST_COMPLETED)
            if cell.trouble.done():
                cell.trouble.result()
            if talking.done() and not ending.done() and (error := talking.exception()) is not None:
                if isinstance(error, ClosedError):  # the executor is being closed, and the sandbox is next
                    await asyncio.wait([ending], timeout=END_GRACE)
                    return ""
                if not isinstance(error, SilenceError):
                    raise error
                await self._end(ending, "failed", f"its messages cannot be read: {error}")
            if ending.done() or talking.done():
                return ""
            heart = self._client.heart if self._client is not None else None
            if heart is not None and (silence := heart.silence(2 * BEAT)) > PATIENCE:
                await self._end(ending, "failed", f"it has answered no heartbeat for {silence:.0f} s")
                return ""
        verdict = "cancelled" if self._cancelled.done() else "timeout"
        await self._interrupt(cell, ending, talking, verdict)
        return verdict

    async def _end(self, ending: asyncio.Future[Outcome], verdict: str, why: str) -> None:
        await self._ready().tell("stop", verdict=verdict, message=why)
        await asyncio.wait([ending], timeout=END_GRACE)

    async def _interrupt(
        self, cell: Cell, ending: asyncio.Future[Outcome], talking: asyncio.Future[None], verdict: str
    ) -> None:
        """Interrupt the cell; again if the kernel may not have begun with it, since it does not listen before.

        But not again after that: the next one would hit the kernel while it makes a traceback of the first. Only of
        ours is it known that it takes one for each cell, and it may have missed the first.
        """
        both: list[asyncio.Future[Any]] = [ending, talking]
        heard = False
        for patience in INTERRUPTS:
            if not heard or not self._name:
                heard = cell.begun
                await self._send_interrupt()
            if (await asyncio.wait(both, timeout=patience, return_when=asyncio.FIRST_COMPLETED))[0]:
                return
        await self._end(ending, verdict, "it did not listen to an interrupt")

    async def _send_interrupt(self) -> None:
        if self._client is not None and self._traits.interrupt_mode == "message":
            self._client.interrupt()
        else:
            await self._ready().tell("interrupt")
        if self._client is not None:
            self._client.probe()

    async def _abandon(self, cell: Cell, ending: asyncio.Future[Outcome], talking: asyncio.Future[None]) -> None:
        """Nobody waits for the cell any more: end it, and the kernel only if need be."""
        with contextlib.suppress(SandboxError):
            if ending.done() and self._ready().by_listener(ending.exception()):
                # The cell still runs, and its report is still to come.
                ending = asyncio.ensure_future(self._ready().end_of_cell())
            if cell.sent:
                await self._interrupt(cell, ending, talking, "cancelled")
            else:
                talking.cancel()
            if not ending.done():
                await self._ready().tell("cell_end")
            outcome = await ending
            if outcome.report is None:
                await self._lose()
            elif not outcome.report.alive:
                self._disconnect()

    async def _whole(self, call: Awaitable[T]) -> T:
        """Await a question to the runner and its answer, which must not be taken for that of the next one."""
        return await uninterrupted(self._guard(call))

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
        changes |= self._with_streams(outcome, result, cell)
        notes = [report.message, *cell.notes]
        if verdict:  # what came of the interrupt, an end of the kernel perhaps, is no verdict on the cell
            late = f"ran longer than {self._limits.wall_time:g} s"
            changes.update(verdict=verdict, exit_code=None)
            notes.insert(0, late if verdict == "timeout" else "cancelled")
        if not report.alive:
            self._disconnect()
            notes.append("the kernel has ended, and its state is lost; the next block has a new one")
        elif verdict:
            notes.append("it was interrupted, and the state is kept")
        elif cell.error is not None:
            why, note = blame(cell.error, report, self._limits)
            changes.update(verdict=why, exit_code=1)
            notes.append(note)
        changes["message"] = "; ".join(filter(None, notes))
        return result.model_copy(update=changes)

    def _with_streams(self, outcome: Outcome, result: Result, cell: Cell) -> dict[str, Any]:
        """Return what changes where a kernel sends what is printed in messages, as most do; ours does not."""
        changes: dict[str, Any] = {}
        for name, stream in cell.streams.items():
            if stream.total:
                written: bytes = getattr(outcome, name)
                total = getattr(result, f"{name}_bytes") + stream.total
                both = HeadTail(self._limits.output)
                for piece in (written, stream.head(), stream.tail()):
                    both.feed(piece)
                kept = both.head() + both.tail()
                changes |= {name: join_output(kept, len(both.head()), total), f"{name}_bytes": total}
                changes["truncated"] = changes.get("truncated", result.truncated) or total > len(kept)
        return changes

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
                await self._whole(self._ready().put(path, content))
                digest = hashlib.sha256(content).hexdigest()
                saved.append(WorkspaceFile(path=path, size=len(content), sha256=digest, media_type=kind))
        return saved

    async def _free_name(self, ending: str) -> str:
        for _ in range(PICTURE_NAMES):
            self._pictures += 1
            path = f"plot-{self._pictures}{ending}"
            try:
                await self._whole(self._ready().get(path, 0))
            except WorkspaceFileNotFound:
                return path
            except (FileTooLarge, UnsafePath):  # there is something of that name
                continue
        return f"plot-{secrets.token_hex(8)}{ending}"

    async def cancel(self) -> None:
        if self._running and not self._cancelled.done():
            self._cancelled.set_result(None)

    async def _reset(self, link: RunnerLink) -> None:
        self._disconnect()  # from a kernel that ends now; the next block starts another
        await super()._reset(link)

    async def _lose(self) -> None:
        self._disconnect()
        await super()._lose()

    async def _close(self) -> None:
        self._disconnect()
        await super()._close()
