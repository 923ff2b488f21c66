"""An engine behind SSH, brought here as a socket by the `ssh` program, with its keys, agent and configuration."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from sandboxes.errors import SandboxUnavailable
from sandboxes.throwaway import ThrowawayDirectory

TIMEOUT = 30.0
"""Seconds for the connection to stand."""
END_TIMEOUT = 5.0
"""Seconds for `ssh` to end once it is told to, before it is killed."""
ENGINE_SOCKET = "/var/run/docker.sock"


class Tunnel:
    """Forwards a socket of this machine to the engine's on another.

    Args:
        url: `ssh://[user@]host[:port][/path/of/the/engine's/socket]`.
        given_up: Asked while the connection comes up; if it says so, this fails at once.

    Attributes:
        url: The address on this machine.

    Raises:
        SandboxUnavailable: `ssh` is missing or cannot connect; carries what it said.
    """

    def __init__(self, url: str, given_up: Callable[[], bool] = bool) -> None:
        there = urlsplit(url)
        self._directory = ThrowawayDirectory()
        self._socket = self._directory.path / "docker.sock"
        self.url = f"unix://{self._socket}"
        log = self._directory.path / "log"
        argv = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes"]
        argv += ["-L", f"{self._socket}:{there.path.rstrip('/') or ENGINE_SOCKET}"]
        argv += ["-p", str(there.port)] if there.port else []
        argv += ["-l", there.username] if there.username else []
        try:
            with log.open("wb") as words:
                # `cat` ends when its input does, which is when we do, however that comes about.
                self._process = subprocess.Popen(
                    [*argv, "--", there.hostname or "", "cat"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=words,
                )
        except OSError as error:
            self._directory.remove()
            raise SandboxUnavailable(f"cannot start ssh for {url}: {error.strerror}") from None
        if not self._wait(given_up):
            said = log.read_text("utf-8", "replace").strip()
            self.close()
            raise SandboxUnavailable(f"no connection to {url}: {said or 'ssh does not come to an end'}")

    def _wait(self, given_up: Callable[[], bool]) -> bool:
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end and self._process.poll() is None and not given_up():
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self._socket))
                return True
            time.sleep(0.02)
        return False

    def close(self) -> None:
        """End the connection."""
        self._process.terminate()
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:  # it waits for somebody itself, or was stopped
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._directory.remove()
