"""The contract of an isolated place. Give a byte stream; limits, streaming and files come for free."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sandboxes.errors import SandboxUnavailable
from sandboxes.types import Isolation, Limits


def module_names(preload: Sequence[str]) -> list[str]:
    """Return the option `preload` as a list.

    Raises:
        TypeError: it is one name, and not several.
    """
    if isinstance(preload, str):
        raise TypeError(f"preload is a list of modules: write preload=[{preload!r}]")
    return list(preload)


class ByteStream(abc.ABC):
    """A two-way stream of bytes to a `python3` that was started inside a sandbox."""

    @abc.abstractmethod
    async def receive(self) -> bytes:
        """Wait for some bytes (at most 1 MiB); `b""` means that the other end is gone. Must survive cancellation."""

    @abc.abstractmethod
    async def send(self, data: bytes) -> None:
        """Send all of `data`, waiting while the other end is slow.

        Raises:
            OSError: the other end is gone.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """End the other end and everything it started, and wait until it is gone. Never raises for a dead one."""

    def ready(self) -> None:
        """The runner has greeted: all that it loads is loaded, and no block has run.

        Raises:
            OSError: the place cannot be made ready; the start fails.
        """

    def diagnosis(self) -> str:
        """What the launcher printed, for error messages (a stream without standard error has nothing to say)."""
        return ""


class Sandbox(abc.ABC):
    """An isolated place with a size.

    The one method that matters is `launch`. A complete backend over SSH, as an example, is a `Sandbox` whose
    `launch` returns `await ProcessStream.spawn(["ssh", host, shlex.join(argv)])`.
    """

    @abc.abstractmethod
    async def launch(self, argv: Sequence[str], limits: Limits) -> ByteStream:
        """Start `argv` (a Python 3.8+ and its arguments) inside, and return its stdin and stdout as a stream.

        Args:
            argv: `["python3", "-I", "-c", …]`. A backend may replace the first word by the interpreter it has.
            limits: What the place should hold to by its own means; the runner enforces the rest inside.

        Raises:
            SandboxUnavailable: cannot be used on this machine; say what to type.
            SandboxStartError: did not come up.
        """

    def runner_options(self) -> Mapping[str, Any]:
        """What the runner should know about the place.

        - `workspace`: directory inside the sandbox in which blocks run (`/workspace`).
        - `env`: environment of the blocks; nothing of the host's is added.
        - `preload`: modules that Python blocks find already imported.
        - `tmpfs`: memory-backed directories, which count as memory.
        - `inherit_env`: whether blocks also see the environment that the runner was started with.
        - `memory_group`: whether /sys/fs/cgroup tells of the sandbox's own memory control group.
        - `write_below`: where there is one, the directories that blocks are held to for writing, which keeps them from
          their own settings in /proc; none means that nothing but the file system holds them.
        - `handover`: descriptor of the runner's end of an `isolation.handover.Handover`, where there is one.
        - `seccomp`: base64 of a filter (an array of `struct sock_filter`) for the runner and all blocks.
        - `landlock`: the rules that the runner puts on its blocks, as `isolation.landlock.confinement` makes them.
        - `scratch`: directories besides the workspace that the runner empties at a reset.
        - `counted`: directories that count as the workspace does, for what kernels and the host share.
        - `process_cap`: what holds `limits.processes`: `rlimit` where a user namespace has the sandbox's processes
          to itself, `cgroup` where the sandbox sees to it, `guard` where a seccomp filter asks the runner before each
          fork (needs `landlock`), `watcher` (the default) where nothing else does.
        """
        return {}

    @abc.abstractmethod
    def isolation(self, limits: Limits) -> Isolation:
        """What enforces each limit here, apart from what the runner adds."""

    def local_workspace(self) -> Path | None:
        """Return the directory of this machine that holds the workspace; None where there is none, or none yet."""
        return None

    def share(self) -> tuple[Path, str]:
        """Make a directory that both sides see, before the launch, and return its two paths: here, and inside.

        Kernels have their sockets in it. It is removed at `close`.

        Raises:
            SandboxUnavailable: this sandbox has nothing of the kind.
        """
        raise SandboxUnavailable(f"{type(self).__name__} shares no directory, so no kernel can run in it")

    def give_up(self) -> None:
        """Learn that nobody wants the launch any more that may be under way; it should come to an end soon.

        Whoever calls this waits for the end of the launch and closes what it returns. By default it goes on.
        """

    async def close(self) -> None:
        """Release what the place holds beyond its launched streams, e.g. a throw-away workspace."""
