"""A byte stream to a process on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sandboxes.errors import SandboxUnavailable
from sandboxes.sandbox import ByteStream

EXIT_GRACE = 1.0
"""Seconds a process has to end once its stream is closed, before it is killed."""
MAX_DIAGNOSIS = 8192


class ProcessStream(ByteStream):
    """Stdin and stdout of a process as one stream; its stderr is kept for error messages.

    Closing closes the stream, which ends a runner, and kills the process if it is not gone within
    `EXIT_GRACE`. A backend over SSH, kubectl or a micro-VM's console needs no other stream than this.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stderr: int,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._stderr = stderr
        self._printed = ""

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        cwd: str | Path | None = None,
    ) -> Self:
        """Start a process.

        Args:
            argv: Program and arguments.
            env: Its whole environment; None passes ours on.
            pass_fds: Descriptors it inherits besides 0, 1 and 2.
            cwd: Directory it starts in.

        Raises:
            SandboxUnavailable: there is no such program.
        """
        ours, theirs = socket.socketpair()
        stderr, stderr_write = os.pipe()
        try:
            process = cls.popen(
                argv,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=stderr_write,
                env=env,
                pass_fds=tuple(pass_fds),
                cwd=cwd,
            )
        except BaseException as error:
            ours.close()
            os.close(stderr)
            if isinstance(error, OSError):
                raise SandboxUnavailable(f"cannot start {argv[0]}: {error.strerror}") from None
            raise
        finally:
            theirs.close()
            os.close(stderr_write)
        os.set_blocking(stderr, False)
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer, stderr)

    @classmethod
    def popen(cls, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start the process itself, in about a millisecond; options are those of `subprocess.Popen`."""
        process: subprocess.Popen[bytes] = subprocess.Popen(argv, **options)
        return process

    @property
    def pid(self) -> int:
        """Process id of what was started."""
        return self._process.pid

    def kill(self) -> None:
        """End the process at once, as `close` does with one that does not end by itself."""
        self._process.kill()

    def sweep(self) -> None:
        """End what a runner could not take along, because it was killed itself and is no PID 1.

        It leads a session, and its blocks stay in it unless they make an effort.
        """
        for name in os.listdir("/proc") if sys.platform.startswith("linux") else ():
            with contextlib.suppress(OSError):
                if name.isdigit() and os.getsid(int(name)) == self.pid:
                    os.kill(int(name), signal.SIGKILL)

    async def receive(self) -> bytes:
        try:
            return await self._reader.read(1 << 16)
        except ConnectionError:
            return b""

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        if self._stderr < 0:
            return
        self._writer.transport.abort()
        if not await wait_exit(self._process, EXIT_GRACE):
            self.kill()
            await wait_exit(self._process, EXIT_GRACE)
        await asyncio.to_thread(self.sweep)  # which may wait for processes to die
        if self._stderr < 0:  # somebody else who closes us was faster
            return
        self.diagnosis()
        os.close(self._stderr)
        self._stderr = -1
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def diagnosis(self) -> str:
        if self._stderr >= 0:
            with contextlib.suppress(BlockingIOError):
                self._printed += os.read(self._stderr, MAX_DIAGNOSIS).decode("utf-8", "replace")
        return self._printed.strip()


async def wait_exit(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait until a child has ended; return false if it has not after so many seconds."""
    if process.poll() is not None:
        return True
    try:
        descriptor = os.pidfd_open(process.pid)
    except (OSError, AttributeError):  # not Linux, or before 5.3
        return await _poll_exit(process, seconds)
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_reader(descriptor, resolve, ended)
    try:
        async with asyncio.timeout(seconds):
            await ended
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.poll() is not None


def resolve(future: asyncio.Future[None]) -> None:
    """End the wait for a future, unless that was given up."""
    if not future.done():
        future.set_result(None)


async def _poll_exit(process: subprocess.Popen[bytes], seconds: float) -> bool:
    end = asyncio.get_running_loop().time() + seconds
    while process.poll() is None:
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(0.005)
    return True
