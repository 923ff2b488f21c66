"""The host's end of the stream to a runner: one request at a time, and nothing that comes back is believed."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Mapping
from typing import Any, Self, TypeVar

from sandboxes.errors import SandboxError, SandboxLostError, SandboxProtocolError, SandboxStartError
from sandboxes.languages import Language
from sandboxes.report import KernelTraits, Report, check_done, check_kernel, read_answer, read_report
from sandboxes.runner import bootstrap_argv, bundle
from sandboxes.runner.capture import HeadTail
from sandboxes.runner.frames import (
    CONTROL,
    DATA,
    KEPT_STDERR,
    KEPT_STDOUT,
    LIVE_STDERR,
    LIVE_STDOUT,
    Decoder,
    FrameError,
    encode_chunks,
    encode_control,
)
from sandboxes.sandbox import ByteStream, Sandbox
from sandboxes.types import Limits, OnOutput
from sandboxes.waiting import bounded, uninterrupted

T = TypeVar("T")

START_TIMEOUT = 60.0
"""Seconds for a runner to say hello, its preloads included."""
GRACE = 1.5
"""A runner that is silent for so many seconds after `wall_time` counts as lost."""
LAST_WORDS = 10.0
"""Seconds that a runner has after `wall_time` to send the rest of the output, which is bounded, and its report."""
FILE_TIMEOUT, SLOWEST = 60.0, 1 << 20
"""Seconds that a request may take; the transfer of a file has one second more for each `SLOWEST` bytes."""
KERNEL_GRACE = 4.0
"""Seconds more for a cell: it is interrupted first, and its kernel is ended only if that does not help."""
MAX_BANNER = 1 << 16
"""Bytes that may come before the runner's first frame: a login banner, an entry point's chatter."""


class Outcome:
    """What came of a block or a cell.

    Attributes:
        report: The runner's report; None if the sandbox died first.
        stdout: Bytes that the runner kept, head and tail, and sent with the report; likewise `stderr`.
        live: Head and tail of the output that came while the block ran, by kind of frame; for want of a report.
        reason: Why there is no report.
        answered: Whether a control frame came, so that the runner is ready for the next request.
    """

    def __init__(self, report: Report | None, stdout: bytes, stderr: bytes, live: Mapping[int, HeadTail]) -> None:
        self.report = report
        self.stdout = stdout
        self.stderr = stderr
        self.live = live
        self.reason = ""
        self.answered = False


class RunnerLink:
    """A connection to one runner. After any `SandboxLostError` or `SandboxProtocolError` it is of no more use."""

    def __init__(self, stream: ByteStream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._listener_error: Exception | None = None
        self._decoder = Decoder()
        self._frames: deque[tuple[int, bytes]] = deque()
        self.closed = False
        self.hello: dict[str, Any] = {}

    @classmethod
    async def open(cls, sandbox: Sandbox, limits: Limits) -> Self:
        """Launch a runner in a sandbox and wait until it is ready.

        Raises:
            SandboxUnavailable: the sandbox cannot be used on this machine.
            SandboxStartError: it did not come up; carries what it printed.
        """
        stream = await _launch(sandbox, limits)
        link = cls(stream, limits)
        try:
            await link._start({**_DEFAULT_OPTIONS, **sandbox.runner_options()})
        except BaseException:
            await uninterrupted(stream.close())
            raise
        return link

    async def _start(self, options: dict[str, Any]) -> None:
        token = secrets.token_hex(16)
        config = {**options, "token": token, "limits": self._limits.model_dump()}
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._stream.send(bundle(config))
                await self._skip_banner(token.encode())
                self.hello = await self._control()
        except (OSError, SandboxLostError, SandboxProtocolError) as error:
            # A dying launcher's last words may come a moment after its end of the stream is gone.
            await self._stream.close()
            words = self._stream.diagnosis() or str(error)
            raise SandboxStartError(f"the sandbox did not come up: {words}") from None
        except TimeoutError:
            raise SandboxStartError(f"the sandbox did not come up within {START_TIMEOUT:g} s") from None
        if self.hello.get("op") != "hello":
            raise SandboxStartError(str(self.hello.get("message", "the runner did not greet"))[:2000])
        try:
            self._stream.ready()
        except OSError as error:
            raise SandboxStartError(f"the sandbox did not come up: {error}") from None

    async def _skip_banner(self, token: bytes) -> None:
        seen = bytearray()
        while (found := seen.find(token)) < 0:
            if len(seen) > MAX_BANNER:
                raise SandboxProtocolError("too much output before the runner's first word")
            seen += await self._receive()
        self._feed(bytes(seen[found + len(token) :]))

    async def _receive(self) -> bytes:
        data = await self._stream.receive()
        if not data:
            raise SandboxLostError("the sandbox is gone")
        return data

    def _feed(self, data: bytes) -> None:
        try:
            self._frames.extend(self._decoder.feed(data))
        except FrameError as error:
            raise SandboxProtocolError(f"from the sandbox: {error}") from None

    async def _next(self) -> tuple[int, bytes]:
        while not self._frames:
            self._feed(await self._receive())
        return self._frames.popleft()

    async def _next_by(self, deadline: float) -> tuple[int, bytes]:
        """Return the next frame of a runner that should be done by `deadline` (on the clock of `time.monotonic`).

        Raises:
            SandboxLostError: the deadline is past, and the runner is silent for `GRACE`, or still talks after
                `LAST_WORDS`, be it in pieces of a frame that never becomes whole.
        """
        while True:
            left = deadline - time.monotonic()
            if left < -LAST_WORDS:
                raise SandboxLostError("the runner does not come to an end")
            if self._frames:
                return self._frames.popleft()
            try:
                async with asyncio.timeout(GRACE + max(0.0, left)):
                    self._feed(await self._receive())
            except TimeoutError:
                raise SandboxLostError("the runner does not answer") from None

    async def _control(self) -> dict[str, Any]:
        kind, payload = await self._next()
        if kind != CONTROL:
            raise SandboxProtocolError("from the sandbox: an answer was expected")
        return read_answer(payload)

    def _expect_silence(self) -> None:
        if self._frames:
            raise SandboxProtocolError("from the sandbox: an answer to no question")

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send(data)
        except OSError as error:
            raise SandboxLostError(f"the sandbox is gone: {error}") from None

    async def run(
        self, code: bytes, language: Language, *, filename: str | None, on_output: OnOutput | None
    ) -> Outcome:
        """Run a block; see `Executor.run`. On cancellation the block is dead when this raises."""
        self._expect_silence()
        request = {
            "op": "run",
            "size": len(code),
            "argv": list(language.command),
            "program": language.program or "".join(language.command[:1]),
            "suffix": language.suffix,
            "live": on_output is not None,
        }
        if filename is not None:
            request["filename"] = filename
        outcome = Outcome(None, b"", b"", {LIVE_STDOUT: HeadTail(1 << 20), LIVE_STDERR: HeadTail(1 << 20)})
        try:
            sending = self._send(encode_control(request) + b"".join(encode_chunks(DATA, code)))
            await bounded(self._limits.wall_time + GRACE, sending)
            await self._collect(outcome, on_output)
        except BaseException as error:
            if not self.by_listener(error):
                if isinstance(error, SandboxLostError):
                    outcome.reason = str(error)
                    return outcome
                if isinstance(error, SandboxProtocolError):
                    raise
            if not outcome.answered:
                await uninterrupted(self._abandon())
            raise
        return outcome

    def by_listener(self, error: BaseException | None) -> bool:
        """Whether an error was raised by `on_output`: a sandbox that it speaks of is another one."""
        return error is not None and error is self._listener_error

    async def start_kernel(self, name: str, directory: str, connection: Mapping[str, Any]) -> KernelTraits:
        """Start a kernel in the place of the last one.

        Args:
            name: Name of an installed kernel; empty for the IPython kernel that is forked from the runner.
            directory: Directory inside the sandbox for its connection file and its sockets.
            connection: Content of the connection file.

        Raises:
            SandboxUnavailable: no such kernel is installed, or it cannot be used.
        """
        request = {"op": "kernel", "name": name, "directory": directory, "connection": dict(connection)}
        return await bounded(FILE_TIMEOUT, self._ask_for_kernel(request))

    async def _ask_for_kernel(self, request: Mapping[str, Any]) -> KernelTraits:
        self._expect_silence()
        await self._send(encode_control(dict(request)))
        return check_kernel(await self._control())

    async def kernel_alive(self) -> None:
        """Return if the kernel that is coming up still runs.

        Raises:
            SandboxUnavailable: it has ended; the message says what it said.
        """
        await bounded(FILE_TIMEOUT, self._ask("kernel_alive"))

    async def settle_kernel(self) -> None:
        """Forget what the kernel has printed so far."""
        await bounded(FILE_TIMEOUT, self._ask("settle"))

    async def begin_cell(self, on_output: OnOutput | None) -> Awaitable[Outcome]:
        """Tell the runner that the kernel's next cell begins; return an awaitable of the cell's outcome."""
        self._expect_silence()
        await self._send(encode_control({"op": "cell", "live": on_output is not None}))
        return self.end_of_cell(on_output)

    async def end_of_cell(self, on_output: OnOutput | None = None) -> Outcome:
        """Wait for the end of the running cell; can be called again after a wait that was cancelled or failed."""
        outcome = Outcome(None, b"", b"", {LIVE_STDOUT: HeadTail(1 << 20), LIVE_STDERR: HeadTail(1 << 20)})
        try:
            await self._collect(outcome, on_output, KERNEL_GRACE)
        except SandboxLostError as error:
            if self.by_listener(error):
                raise
            outcome.reason = str(error)
        return outcome

    async def tell(self, operation: str, **words: str) -> None:
        """Send a request that is not answered: `cell_end`, `interrupt` or `stop`."""
        await self._send(encode_control({"op": operation, **words}))

    async def _collect(self, outcome: Outcome, on_output: OnOutput | None, grace: float = 0.0) -> None:
        deadline = time.monotonic() + self._limits.wall_time + grace
        kept = {KEPT_STDOUT: bytearray(), KEPT_STDERR: bytearray()}
        while True:
            kind, payload = await self._next_by(deadline)
            if kind in outcome.live:
                outcome.live[kind].feed(payload)
                if on_output is not None:
                    try:
                        on_output("stdout" if kind == LIVE_STDOUT else "stderr", payload)
                    except Exception as error:
                        self._listener_error = error
                        raise
            elif kind in kept:
                kept[kind] += payload
                if len(kept[kind]) > self._limits.output:
                    raise SandboxProtocolError("from the sandbox: more output than the limit")
            elif kind == CONTROL:
                outcome.answered = True
                outcome.report = read_report(payload)
                outcome.stdout, outcome.stderr = bytes(kept[KEPT_STDOUT]), bytes(kept[KEPT_STDERR])
                return
            else:
                raise SandboxProtocolError(f"from the sandbox: unexpected frame of kind {kind}")

    async def _abandon(self) -> None:
        """End the running block and read on to its report; failing that, end the sandbox."""
        try:
            async with asyncio.timeout(GRACE):
                await self.cancel()
                while (await self._next())[0] != CONTROL:
                    pass
        except (TimeoutError, SandboxError):
            await self.close()

    async def cancel(self) -> None:
        """Ask the runner to end the running block."""
        await self._send(encode_control({"op": "cancel"}))

    async def put(self, path: str, data: bytes) -> None:
        """Write a file; see `Executor.put`."""
        await bounded(FILE_TIMEOUT + len(data) / SLOWEST, self._put(path, data))

    async def _put(self, path: str, data: bytes) -> None:
        self._expect_silence()
        await self._send(encode_control({"op": "put", "path": path, "size": len(data)}))
        for frame in encode_chunks(DATA, data):
            await self._send(frame)
        check_done(await self._control())

    async def get(self, path: str, max_bytes: int) -> bytes:
        """Read a file; see `Executor.get`."""
        return await bounded(FILE_TIMEOUT + max_bytes / SLOWEST, self._get(path, max_bytes))

    async def _get(self, path: str, max_bytes: int) -> bytes:
        self._expect_silence()
        await self._send(encode_control({"op": "get", "path": path, "max_bytes": max_bytes}))
        content = bytearray()
        while True:
            kind, payload = await self._next()
            if kind == CONTROL:
                check_done(read_answer(payload))
                return bytes(content)
            content += payload
            if kind != DATA or len(content) > max_bytes:
                raise SandboxProtocolError("from the sandbox: not what was asked for")

    async def reset(self) -> None:
        """Empty the workspace and the memory-backed directories."""
        await bounded(FILE_TIMEOUT, self._ask("reset"))

    async def ping(self) -> None:
        """Return if the runner answers."""
        await bounded(GRACE, self._ask("ping"))

    async def _ask(self, operation: str) -> None:
        self._expect_silence()
        await self._send(encode_control({"op": operation}))
        check_done(await self._control())

    async def close(self) -> None:
        """End the runner and everything in its sandbox."""
        self.closed = True
        await self._stream.close()


async def _launch(sandbox: Sandbox, limits: Limits) -> ByteStream:
    """Launch a runner; if that is cancelled half-way, what was started is ended before this raises."""
    launching = asyncio.ensure_future(sandbox.launch(bootstrap_argv(), limits))
    try:
        return await asyncio.shield(launching)
    except asyncio.CancelledError:

        async def undo() -> None:
            sandbox.give_up()
            with contextlib.suppress(SandboxError):
                await (await launching).close()

        await uninterrupted(undo())
        raise


_DEFAULT_OPTIONS: dict[str, Any] = {
    "workspace": "/workspace",
    "env": {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"},  # noqa: S108
    "preload": [],
    "tmpfs": [],
    "process_cap": "watcher",
    "inherit_env": False,
    "memory_group": False,
    "write_below": [],
    "handover": -1,
    "counted": [],
    "seccomp": "",
    "landlock": None,
    "scratch": [],
}
