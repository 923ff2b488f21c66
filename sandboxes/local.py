"""`LocalSandbox`: isolated by default, on Linux, without root and without a container engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from sandboxes.errors import SandboxStartError, SandboxUnavailable
from sandboxes.executor import Executor
from sandboxes.isolation import bwrap, devices, grouped, landlock
from sandboxes.isolation.cgroups import usable_place
from sandboxes.isolation.grouped import GroupedStream
from sandboxes.isolation.handover import Handover
from sandboxes.isolation.hierarchy import PIDS
from sandboxes.isolation.interpreter import Interpreter, find_interpreter
from sandboxes.paths import Pinned, check_workspace
from sandboxes.runner.files import empty_directory
from sandboxes.sandbox import ByteStream, Sandbox, module_names
from sandboxes.script import ScriptExecutor
from sandboxes.throwaway import ThrowawayDirectory
from sandboxes.types import Isolation, Limits, expect
from sandboxes.waiting import uninterrupted

IsolationName = Literal["auto", "bwrap", "landlock", "none"]


NPROC_PER_NAMESPACE = (5, 14)
"""Since Linux 5.14, RLIMIT_NPROC counts within the user namespace; before, all that the user has anywhere."""


NO_KERNELS = (
    "a kernel needs sockets of its own, which isolation='landlock' does not give: install bubblewrap "
    "(isolation='bwrap'), or use 'jupyter+docker'"
)

LAUNCH_TIMEOUT = 10.0
"""Seconds for bwrap to make its namespaces."""


class LocalSandbox(Sandbox):
    """A place on this machine.

    Args:
        workspace: An existing directory, the only one that is writable inside; None makes one that is removed
            at close.
        isolation: `bwrap` isolates with bubblewrap, in namespaces. `landlock` needs neither it nor namespaces, and
            hides less. `auto` is `bwrap` where that is installed and works, else `landlock`; what it came to, and
            why, is in `isolation()`. None of them ever falls back to less than they say. `none` is unsafe: code
            runs with all your rights, only watched and cleaned up after.
        python: Interpreter of the blocks, by path or name; None means the one that runs us, with its packages.
        preload: Modules that Python blocks find already imported, e.g. `["numpy", "pandas"]`.
        env: Variables that blocks see besides PATH, HOME and LANG. Nothing of ours is passed on.

    Raises:
        SandboxUnavailable: there is no such interpreter, or no such directory that you may write.
    """

    def __init__(
        self,
        *,
        workspace: Path | None = None,
        isolation: IsolationName = "auto",
        python: str | None = None,
        preload: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        if isolation not in get_args(IsolationName):
            raise ValueError(f"isolation={isolation!r}: choose from {', '.join(get_args(IsolationName))}")
        check_workspace(workspace)
        expect(env, (Mapping, type(None)), 'env maps names to values, as in {"TZ": "UTC"}')
        self._interpreter: Interpreter = find_interpreter(python)
        self._tier, self._why = choose(isolation)
        self._auto = isolation == "auto"
        self._own: ThrowawayDirectory | None = None
        self._temporary: ThrowawayDirectory | None = None
        self._shared: ThrowawayDirectory | None = None
        self._pinned = None if workspace is None else Pinned(workspace)
        self._workspace = None if self._pinned is None else self._pinned.path
        self._preload = module_names(preload)
        self._env = dict(env or {})
        self._place = usable_place()
        self._handover = -1
        self._limits: Limits | None = None

    @property
    def workspace(self) -> Path:
        """The workspace on this machine.

        Raises:
            SandboxUnavailable: it is a throw-away directory, and the sandbox was not started yet.
        """
        if self._workspace is None:
            raise SandboxUnavailable("the workspace is made at the start")
        return self._workspace

    def local_workspace(self) -> Path | None:
        return self._workspace

    async def launch(self, argv: Sequence[str], limits: Limits) -> ByteStream:
        if self._tier != "none" and not sys.platform.startswith("linux"):
            raise SandboxUnavailable(
                "the isolated local sandbox needs Linux; isolation='none' runs without any protection"
            )
        if self._workspace is None:
            await uninterrupted(asyncio.to_thread(self._make_workspace))
        if self._pinned is not None:  # another sandbox's block that works above it may have put a link in its place
            self._pinned.check()
        command = [self._interpreter.executable, *argv[1:]]
        if self._tier == "bwrap":
            try:
                return await self._launch_bwrap(command, limits)
            except bwrap.Forbidden as error:
                if not self._auto or not landlock.usable():
                    raise
                # The start was the attempt: from now on, and for the next sandboxes, it is known not to work here.
                remember_forbidden(str(error))
                self._tier, self._why = choose("auto")
                assert self._tier == "landlock"
        if self._tier == "landlock":
            self._limits = limits
            await self._prepare_landlock()
        return await self._launch_plain(command, limits)

    # Kept as soon as they are there: a start that is cancelled meanwhile has `close` remove them.

    def _make_workspace(self) -> None:
        self._own = ThrowawayDirectory()
        self._workspace = self._own.path
        self._pinned = Pinned(self._workspace)

    def _make_temporary(self) -> None:
        self._temporary = ThrowawayDirectory()

    async def _prepare_landlock(self) -> None:
        landlock.require(self._interpreter, self.workspace)
        if self._shared is not None:  # asked for while there was hope for bwrap
            raise SandboxUnavailable(f"{NO_KERNELS} ({self._why})")
        if self._temporary is None:
            await uninterrupted(asyncio.to_thread(self._make_temporary))
        else:
            await asyncio.to_thread(empty_directory, str(self._temporary.path))

    async def _launch_plain(self, command: Sequence[str], limits: Limits) -> ByteStream:
        with Handover() as handover:
            stream = await GroupedStream.spawn(
                command, env={"LANG": "C.UTF-8"}, cwd=self._workspace, pass_fds=[handover.descriptor]
            )
            try:
                self._place = stream.make_group(self._place, limits, preload=bool(self._preload))
                await stream.enter_group(stream.pid, handover)
                self._handover = -1 if self._place is None else handover.descriptor
            except (SandboxStartError, OSError) as error:
                await stream.close()
                raise SandboxStartError(f"the sandbox did not come up: {stream.diagnosis() or error}") from None
        return stream

    async def _launch_bwrap(self, command: Sequence[str], limits: Limits) -> ByteStream:
        shared = None if self._shared is None else self._shared.path
        with (
            Handover() as handover,
            bwrap.BwrapCommand(self._interpreter, self.workspace, command, limits, shared) as start,
        ):
            stream = await BwrapStream.spawn(start.argv, env={}, pass_fds=[*start.pass_fds, handover.descriptor])
            start.close_theirs()
            try:
                self._place = stream.make_group(self._place, limits, preload=bool(self._preload))
                async with asyncio.timeout(LAUNCH_TIMEOUT):
                    pid = await bwrap.read_info(start.info)
                await stream.enter_group(pid, handover)
                self._handover = -1 if self._place is None else handover.descriptor
            except SandboxStartError:
                await stream.close()
                raise
            except (EOFError, TimeoutError, OSError) as error:
                await stream.close()
                raise bwrap.explain(stream.diagnosis() or repr(error)) from None
        return stream

    def runner_options(self) -> Mapping[str, Any]:
        bwrapped = self._tier == "bwrap"
        home = str(self.workspace) if self._temporary is None else str(self._temporary.path)
        path = os.path.dirname(self._interpreter.executable)
        cores = os.cpu_count() or 1
        return {
            "workspace": bwrap.WORKSPACE if bwrapped else str(self.workspace),
            "env": {
                "PATH": f"{path}:/usr/local/bin:/usr/bin:/bin",
                "HOME": "/tmp" if bwrapped else home,  # noqa: S108
                **({"TMPDIR": home} if self._tier == "landlock" else {}),
                "LANG": "C.UTF-8",
                "USER": "sandbox",
                "PYTHONDONTWRITEBYTECODE": "1",
                # A thread for each of 64 cores would be half of `processes`.
                **({"OMP_NUM_THREADS": "16", "OPENBLAS_NUM_THREADS": "16"} if cores > 16 else {}),
                **self._env,
            },
            "preload": self._preload,
            "tmpfs": list(bwrap.TMPFS) if bwrapped else [],
            "process_cap": self._process_cap(),
            "handover": self._handover,
            "counted": [] if self._shared is None else [self.share()[1]],
        } | self._landlock_options()

    def _landlock_options(self) -> dict[str, Any]:
        if self._temporary is None or self._limits is None:
            return {}
        temporary = str(self._temporary.path)
        return {
            "seccomp": landlock.runner_filter(),
            "landlock": landlock.confinement(
                self._interpreter,
                [str(self.workspace), temporary],
                self._limits,
                ask_forks=self._process_cap() == "guard",
            ),
            "scratch": [temporary],
            "counted": [temporary],
        }

    def share(self) -> tuple[Path, str]:
        if self._tier == "landlock":
            raise SandboxUnavailable(f"{NO_KERNELS} ({self._why})")
        if self._shared is None:
            self._shared = ThrowawayDirectory()
        return self._shared.path, bwrap.SHARED if self._tier == "bwrap" else str(self._shared.path)

    def _holds(self, controller: str) -> bool:
        """Whether the sandbox has a control group with this controller."""
        return self._place is not None and controller in self._place.parents

    def _process_cap(self) -> str:
        if self._holds(PIDS):
            return "cgroup"
        if self._tier == "landlock":
            return "guard"
        if self._tier == "none" or os.geteuid() == 0:  # whom the kernel exempts from RLIMIT_NPROC
            return "watcher"
        return "rlimit" if _kernel() >= NPROC_PER_NAMESPACE else "watcher"

    def isolation(self, limits: Limits) -> Isolation:
        processes = {
            "rlimit": "RLIMIT_NPROC in a user namespace",
            "cgroup": "pids control group",
            "watcher": "runner's watcher",
            "guard": "the runner, asked by a seccomp filter",
        }[self._process_cap()]
        shared = {
            "wall_time": "runner",
            **grouped.mechanisms(self._place),
            "processes": processes,
            "disk": "runner's watcher",
            "file_size": "RLIMIT_FSIZE",
            "open_files": "RLIMIT_NOFILE",
            "output": "runner",
        }
        if self._tier == "none":
            return Isolation(
                tier="none",
                mechanisms={**shared, "kill": "process tree walk" + (" and control group" if self._place else "")},
                unenforced=() if limits.network else ("network",),
            )
        if self._tier == "landlock":
            own = landlock.mechanisms(limits, ask_forks=self._process_cap() == "guard")
            return Isolation(tier="landlock", mechanisms={**self._chosen(), **shared, **own})
        return Isolation(
            tier=self._tier,
            mechanisms={
                **self._chosen(),
                **shared,
                "network": "shared with this machine" if limits.network else "network namespace",
                "filesystem": "mount namespace, read-only but for the workspace and /tmp",
                "secrets": "nothing is passed on, PID namespace",
                "other processes": "PID namespace",
                "system calls": "seccomp filter, no capabilities",
                "kill": "PID namespace",
            },
        )

    def _chosen(self) -> dict[str, str]:
        return {"tier": self._why} if self._auto else {}

    async def close(self) -> None:
        removals = contextlib.ExitStack()  # all of them, also where one fails
        for each in (self._own, self._shared, self._temporary):
            if each is not None:
                removals.callback(each.remove)
        if self._own is not None:
            self._workspace = self._pinned = None
        self._own = self._shared = self._temporary = None
        await asyncio.to_thread(removals.close)


_forbidden = ""


def remember_forbidden(why: str) -> None:
    """Note that bwrap is installed, but may not do its work on this machine."""
    global _forbidden
    _forbidden = why


def choose(isolation: IsolationName) -> tuple[str, str]:
    """Return the tier that a wish comes to, and why.

    Where that is `landlock`, it may still turn out not to be available; then a start refuses with what to type.
    """
    if isolation != "auto":
        return isolation, "asked for"
    installed = bwrap.installed()
    if installed and not _forbidden:
        return "bwrap", "bwrap is installed and works"
    why = _forbidden if installed else "bwrap is not installed"
    return ("landlock", why) if landlock.usable() else ("bwrap", why)


class BwrapStream(GroupedStream):
    """A stream to a bwrap."""

    @classmethod
    def popen(cls, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        try:
            return devices.start_held(lambda: super(BwrapStream, cls).popen(argv, **options))
        except devices.NotHeld as error:
            raise bwrap.explain(str(error)) from None

    def kill(self) -> None:
        """End PID 1 of the sandbox, and with it everything inside; bwrap follows."""
        import psutil  # hardly ever needed, and a tenth of this package's import

        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children():
                child.kill()

    def sweep(self) -> None:
        """Nothing can be left: PID 1 took it along."""


def local_executor(arg: str | None, *, limits: Limits, workspace: Path | None, **options: Any) -> Executor:
    """Entry point `local`; options are those of `LocalSandbox`, and `local:PYTHON` names the interpreter."""
    if arg is not None:
        options.setdefault("python", arg)
    return ScriptExecutor(LocalSandbox(workspace=workspace, **options), limits)


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)
