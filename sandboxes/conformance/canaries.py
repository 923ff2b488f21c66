"""What no block may see, touch or reach on this machine, and what this process must have back after every block."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import secrets
import select
import socket
import sys
import tempfile
import threading
from pathlib import Path


class Canaries:
    """Things on this machine that no block may see, touch or reach.

    Attributes:
        secret: Text that must never come out of a sandbox.
        file: A file that holds it.
        port: TCP and UDP port on the loopback interface.
        abstract: Name of an abstract unix socket, without the NUL.
        path: Of a unix socket, short enough to be an address wherever the tests' own directories lie.
    """

    def __init__(self, directory: Path) -> None:
        self.secret = f"secret-{secrets.token_hex(8)}"
        self.file = directory / "canary.txt"
        self.file.write_text(self.secret)
        self.abstract = f"canary-{secrets.token_hex(8)}"
        with contextlib.ExitStack() as opened:
            short = opened.enter_context(tempfile.TemporaryDirectory(prefix="canary-"))
            self.path = Path(short, "socket")
            tcp = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
            self.port: int = tcp.getsockname()[1]
            udp = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            udp.bind(("127.0.0.1", self.port))
            self._sockets = [tcp, udp]
            for name in [str(self.path), *([f"\0{self.abstract}"] if sys.platform == "linux" else [])]:
                listener = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                listener.bind(name)
                listener.listen()
                self._sockets.append(listener)
            self._before = self._look()
            self._opened = opened.pop_all()

    def _look(self) -> tuple[object, ...]:
        status = self.file.stat()
        return (
            sorted(os.listdir(self.file.parent)),
            sorted(os.listdir(self.path.parent)),
            self.file.read_text(),
            status.st_mode,
            status.st_mtime_ns,
            status.st_nlink,
        )

    def assert_untouched(self) -> None:
        """Fail if anything was read from outside, written or connected to."""
        assert self._look() == self._before
        assert select.select(self._sockets, [], [], 0)[0] == [], "something inside reached a socket of the host"

    def close(self) -> None:
        """Close the sockets."""
        self._opened.close()


def open_descriptors() -> dict[int, str]:
    """Return what this process has open; empty where the system does not tell."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


async def changed_since(before: dict[int, str]) -> set[tuple[int, str]]:
    """Return what is open now or was before, and not both; the pool's threads may take a moment to close their own.

    What has gone counts too: it was somebody else's, and is closed by mistake.
    """
    for _ in range(50):
        changed = before.items() ^ open_descriptors().items()
        if not changed:
            break
        await asyncio.sleep(0.02)
    return changed


def own_threads() -> set[threading.Thread]:
    """Return the living threads, without those of the event loop's pool, which ends with it."""
    return {each for each in threading.enumerate() if each.is_alive() and not each.name.startswith("asyncio_")}


def own_memory() -> int:
    """Return the bytes of memory that this process holds, after giving back what it does not need; 0 if unknown.

    What an earlier test has left to the collector is collected, so that its descriptors do not go while we count them.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # not the GNU library
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tagged(tag: str) -> list[int]:
    """Return the ids of processes on this machine with a tag in their arguments."""
    found = []
    names = os.listdir("/proc") if os.path.isdir("/proc/self") else []
    for name in names:
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if tag.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
    return found
