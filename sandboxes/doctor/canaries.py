"""Things on this machine that no block may see, touch or reach, for probes to try."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

VARIABLE = "AGENTEXEC_DOCTOR_CANARY"
_HELPER = "import sys; print(flush=True); sys.stdin.read()"


class Canaries:
    """A secret file, listeners, and a process with a secret in its environment. A context manager.

    Attributes:
        marker: What the secret begins with; probes know it, and look for what follows.
        secret: What must never come out.
        tag: Argument by which a process that was left behind is found.
    """

    def __init__(self) -> None:
        self.marker = f"canary-{secrets.token_hex(4)}-"
        self.secret = self.marker + secrets.token_hex(12)
        self.tag = f"agentexec-doctor-{secrets.token_hex(8)}"
        self._directory = Path(tempfile.mkdtemp(prefix="agentexec-doctor-"))
        self._closing = contextlib.ExitStack()
        self._closing.callback(shutil.rmtree, self._directory, ignore_errors=True)
        try:
            self._open()
        except BaseException:
            self._closing.close()
            raise

    def _open(self) -> None:
        self.file = self._directory / "secret"
        self.file.write_text(self.secret)
        tcp = self._closing.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._port: int = tcp.getsockname()[1]
        udp = self._closing.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        self._udp: int = udp.getsockname()[1]
        self._listeners = [tcp, udp]
        names = [str(self._directory / "socket")]
        if sys.platform.startswith("linux"):
            names.append("\0" + self.tag)
        for name in names:
            listener = self._closing.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(name)
            listener.listen()
            self._listeners.append(listener)
        self._helper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _HELPER],
            env={VARIABLE: self.secret},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at the terminal is for us alone
        )
        self._closing.callback(self._end_helper)
        assert self._helper.stdout is not None
        self._helper.stdout.readline()
        self._before = self._look()

    def _end_helper(self) -> None:
        self._helper.kill()
        self._helper.wait()
        for stream in (self._helper.stdin, self._helper.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in self.survivors():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._closing.close()

    def description(self) -> dict[str, Any]:
        """Return what probes are told."""
        return {
            "marker": self.marker,
            "tag": self.tag,
            "file": str(self.file),
            "directory": str(self._directory),
            "port": self._port,
            "udp": self._udp,
            "abstract": self.tag,
            "path": str(self._directory / "socket"),
            "pid": self._helper.pid,
        }

    def _look(self) -> tuple[object, ...]:
        return sorted(os.listdir(self._directory)), self.file.read_text(), self.file.stat().st_mode

    def touched(self) -> bool:
        """Whether a file was changed or made."""
        try:
            return self._look() != self._before
        except OSError:
            return True

    def reached(self) -> bool:
        """Whether anybody came to one of the listeners."""
        return bool(select.select(self._listeners, [], [], 0.05)[0])

    def killed(self) -> bool:
        """Whether the process was ended."""
        return self._helper.poll() is not None

    def survivors(self) -> list[int]:
        """Return the ids of processes on this machine that carry the tag."""
        found = []
        for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
            with contextlib.suppress(OSError):
                if name.isdigit() and self.tag.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
        return found
