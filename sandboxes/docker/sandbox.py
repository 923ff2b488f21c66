"""`DockerSandbox`: one container, started once and kept warm; blocks go over its attached stream."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docker.types import Mount

from sandboxes.docker import hardening
from sandboxes.docker.engine import Engine, Image, PullProgress, engine_url, is_remote
from sandboxes.docker.hardening import ContainerOptions
from sandboxes.docker.owners import own_labels, remove_abandoned
from sandboxes.docker.pulling import Pull
from sandboxes.docker.stream import attach
from sandboxes.docker.workspace import WORKSPACE, ContainerWorkspace
from sandboxes.errors import SandboxError, SandboxUnavailable
from sandboxes.executor import Executor
from sandboxes.isolation.seccomp import AUDIT_ARCH, compile_filter
from sandboxes.mirror import MirroredExecutor
from sandboxes.paths import Pinned, check_workspace
from sandboxes.sandbox import ByteStream, Sandbox, module_names
from sandboxes.script import ScriptExecutor
from sandboxes.throwaway import ThrowawayDirectory
from sandboxes.types import Isolation, Limits, expect
from sandboxes.waiting import uninterrupted

SHARED = "/shared"
END_TIMEOUT = 10.0
"""Seconds to wait for the end of a container, which takes the engine a twentieth of one."""
DEFAULT_IMAGE = "agentexec/python"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Architectures as Go names them, and as kernels do."""


class DockerSandbox(Sandbox):
    """A container of a Docker engine.

    Any image with Python 3.8 or newer works; nothing is installed in it. The container has no network unless
    `limits.network` is on, no capabilities, a read-only root and the caller's user id, and ends when its owner
    does, however that ends.

    Args:
        image: Image to use; None takes AGENTEXEC_IMAGE from the environment, else `agentexec/python`.
        workspace: An existing directory of this machine that blocks work in. None makes one that is removed
            at close; inside the engine, where that does not see this machine's files.
        url: The engine, e.g. `ssh://user@host`; None takes DOCKER_HOST, else what the `docker` command would use.
        preload: Modules that Python blocks find already imported.
        env: Variables that blocks see besides the image's own.
        cpus: Processors that blocks may keep busy, e.g. 1.5.
        tmpfs: Sizes of memory-backed directories, e.g. `{"/tmp": "256M"}`; what they hold counts as memory.
        mounts: Directories of the engine's machine to their places inside, all read-only.
        network: Name of the network if `limits.network` is on; None takes the engine's default.
        user: `UID` or `UID:GID`; None is the caller's, and where that is root, the workspace's owner's.
        gpus: How many, `"all"`, or their ids.
        runtime: OCI runtime, e.g. `runsc` (gVisor) or `kata-runtime`.
        labels: Labels of the container besides those that name its owner.
        host_config: Further arguments of docker-py's `create_host_config`. What may break the isolation is refused.
        unsafe: Take options that break the isolation all the same.
        on_pull: Called as an image is pulled.

    Raises:
        UnsafeOption: an option breaks the isolation, and `unsafe` is not set.
        ValueError: the user is not given as numbers, or a mount and the workspace lie in each other.
        SandboxUnavailable: the workspace is not a directory that you may write.
    """

    def __init__(
        self,
        image: str | None = None,
        *,
        workspace: Path | None = None,
        url: str | None = None,
        preload: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cpus: float | None = None,
        tmpfs: Mapping[str, int | str] | None = None,
        mounts: Mapping[str, str] | None = None,
        network: str | None = None,
        user: str | None = None,
        gpus: int | str | Sequence[str] | None = None,
        runtime: str | None = None,
        labels: Mapping[str, str] | None = None,
        host_config: Mapping[str, Any] | None = None,
        unsafe: bool = False,
        on_pull: Callable[[PullProgress], None] | None = None,
    ) -> None:
        nothing = type(None)
        expect(network, (str, nothing), "network is a network's name; limits=Limits(network=True) lets blocks use it")
        expect(cpus, (int, float, nothing), "cpus is a number of processors, as in 1.5")
        expect(tmpfs, (Mapping, nothing), 'tmpfs maps directories to sizes, as in {"/tmp": "256M"}')
        expect(mounts, (Mapping, nothing), 'mounts maps directories to places inside, as in {"/srv/data": "/data"}')
        expect(env, (Mapping, nothing), 'env maps names to values, as in {"TZ": "UTC"}')
        self._options = ContainerOptions(
            cpus, dict(tmpfs or {}), dict(mounts or {}), network, gpus, runtime, dict(host_config or {})
        )
        if user is not None and re.fullmatch(r"\d+(:\d+)?", user) is None:
            raise ValueError(f"user={user!r}: write numbers, UID or UID:GID")
        if not unsafe:
            hardening.refuse_loosening(self._options)
            if workspace is not None:
                hardening.refuse_place(workspace, "workspace")
        check_workspace(workspace)
        self.image = image or os.environ.get("AGENTEXEC_IMAGE") or DEFAULT_IMAGE
        self._workspace = ContainerWorkspace(None if workspace is None else workspace.resolve(), user)
        self._url = url
        self._preload = module_names(preload)
        self._env = {str(name): str(value) for name, value in (env or {}).items()}
        self._labels = dict(labels or {})
        self._unsafe = unsafe
        self._on_pull = on_pull
        local = not is_remote(engine_url(url))
        self._mounted = [Pinned(Path(source)) for source in self._options.mounts] if local else []
        if any(workspace is not None and _overlap(workspace.resolve(), each.path) for each in self._mounted):
            raise ValueError("mounts: what blocks can write to, the workspace, cannot be mounted a second time")
        self._engine: Engine | None = None
        self._found: Image | None = None
        self._pull: Pull | None = None
        self._given_up = threading.Event()
        self._shared: ThrowawayDirectory | None = None
        self._memory_backed: list[str] = []

    @property
    def workspace(self) -> Path:
        """The workspace on this machine.

        Raises:
            SandboxUnavailable: it lies in the engine, or the sandbox was not started yet.
        """
        return self._workspace.directory

    def local_workspace(self) -> Path | None:
        return self._workspace.local

    async def launch(self, argv: Sequence[str], limits: Limits) -> ByteStream:
        if self._engine is None:
            self._given_up.clear()
            self._engine = await asyncio.to_thread(Engine, self._url, self._given_up.is_set)
        engine = self._engine
        image, _ = await asyncio.gather(self._find_image(engine), self._reap(engine))
        try:
            container = await asyncio.to_thread(self._create, engine, image, list(argv), limits)
        except SandboxError as error:
            raise _explained(error, self.image) from None

        async def end() -> None:
            # An engine that is gone has taken the container along, or has it reaped later. One that hangs does
            # it when it comes to; nobody waits for that.
            with contextlib.suppress(SandboxError, TimeoutError):
                async with asyncio.timeout(END_TIMEOUT):
                    await asyncio.to_thread(engine.remove, container)

        try:
            stream = await attach(engine, container, end)
        except BaseException:
            await uninterrupted(end())
            raise
        try:
            await asyncio.to_thread(engine.start, container)
        except SandboxError as error:
            await stream.close()
            raise _explained(error, self.image) from None
        except BaseException:
            await uninterrupted(stream.close())
            raise
        return stream

    async def _reap(self, engine: Engine) -> None:
        with contextlib.suppress(SandboxError):
            await asyncio.to_thread(remove_abandoned, engine)

    async def _find_image(self, engine: Engine) -> Image:
        found = self._found or await asyncio.to_thread(engine.image, self.image)
        if found is None:
            self._pull = Pull(engine, self.image, self._on_pull)
            try:
                await self._pull.done()
            finally:
                self._pull = None
            found = await asyncio.to_thread(engine.image, self.image)
        if found is None:
            raise SandboxUnavailable(f"the engine has no image {self.image}, although it was pulled")
        self._found = found
        return found

    def give_up(self) -> None:
        self._given_up.set()
        if self._pull is not None:
            self._pull.give_up()

    def _create(self, engine: Engine, image: Image, argv: list[str], limits: Limits) -> str:
        tmpfs = hardening.tmpfs_sizes(limits, image, self._options.tmpfs)
        self._memory_backed = [*tmpfs, "/dev/shm"]  # noqa: S108 - inside the sandbox
        for each in self._mounted:
            each.check()
        workspace, user = self._workspace.mount(engine, self.image)
        shared = []
        if self._shared is not None:
            if os.geteuid() == 0 and not engine.rootless:
                os.chown(self._shared.path, *(int(number) for number in user.split(":")))
            shared.append(Mount(SHARED, str(self._shared.path), type="bind"))
        host = hardening.host_settings(
            limits,
            self._options,
            writable=[workspace, *shared, *self._workspace.covers()],
            tmpfs=tmpfs,
            preload=bool(self._preload),
        )
        return engine.create(
            self.image,
            argv,
            host,
            masked=hardening.MASKED,
            read_only=hardening.READ_ONLY,
            user=user,
            hostname="sandbox",
            working_dir=WORKSPACE,
            labels={**self._labels, **own_labels()},
            name=f"agentexec-{secrets.token_hex(6)}",
        )

    def runner_options(self) -> Mapping[str, Any]:
        machine = MACHINES.get(self._found.architecture if self._found else "", "")
        return {
            "workspace": WORKSPACE,
            "env": {
                "HOME": "/tmp",  # noqa: S108 - inside the sandbox
                "LANG": "C.UTF-8",
                "USER": "sandbox",
                "PYTHONDONTWRITEBYTECODE": "1",
                **self._env,
            },
            "inherit_env": True,
            "preload": self._preload,
            "tmpfs": self._memory_backed,
            "process_cap": "cgroup",
            "counted": [] if self._shared is None else [SHARED],
            "memory_group": True,
            # Besides these, all is read-only already, but what somebody insisted on and /proc.
            "write_below": [] if self._unsafe else [WORKSPACE, SHARED, "/dev", *self._memory_backed],
            "seccomp": base64.b64encode(compile_filter(machine)).decode() if machine in AUDIT_ARCH else "",
        }

    def share(self) -> tuple[Path, str]:
        url = engine_url(self._url)
        if is_remote(url):
            raise SandboxUnavailable(f"the engine at {url} does not see this machine's files, which a kernel needs")
        if self._shared is None:
            self._shared = ThrowawayDirectory()
        return self._shared.path, SHARED

    def isolation(self, limits: Limits) -> Isolation:
        return Isolation(
            tier="docker (loosened)" if self._unsafe else "docker",
            mechanisms={
                "wall_time": "runner",
                "cpu_time": "runner's watcher and RLIMIT_CPU",
                "memory": "runner's watcher and memory control group",
                "processes": "pids control group",
                "disk": "runner's watcher",
                "file_size": "RLIMIT_FSIZE",
                "open_files": "RLIMIT_NOFILE",
                "output": "runner",
                "network": f"network {self._options.network or 'bridge'}" if limits.network else "no network",
                "filesystem": "read-only root; the workspace, /tmp and /var/tmp are writable",
                "secrets": "nothing is passed on, PID namespace",
                "other processes": "PID namespace",
                "system calls": "Docker's seccomp profile and ours, no capabilities",
                "kill": "PID namespace",
            },
        )

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        try:
            await asyncio.to_thread(self._workspace.remove, engine)
        except SandboxError:  # the next start of ours removes it
            pass
        finally:
            if engine is not None:
                await asyncio.to_thread(engine.close)  # which waits for the `ssh` of a tunnel
            if self._shared is not None:
                shared, self._shared = self._shared, None
                await asyncio.to_thread(shared.remove)


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _explained(error: SandboxError, image: str) -> SandboxError:
    words = str(error)
    if "python3" in words and ("executable file not found" in words or "no such file" in words):
        return SandboxUnavailable(
            f"the image {image} has no python3: use one with Python 3.8 or newer, e.g. {DEFAULT_IMAGE}"
        )
    if "bind source path does not exist" in words:
        return SandboxUnavailable(
            f"{words}: the engine does not see this machine's files (are we in a container ourselves?); name it by an "
            "address, as in DOCKER_HOST=tcp://…, and files go in and out through the sandbox"
        )
    return error


def docker_executor(arg: str | None, *, limits: Limits, workspace: Path | None, **options: Any) -> Executor:
    """Entry point `docker`; options are those of `DockerSandbox`, and `docker:IMAGE` names the image."""
    if arg is not None:
        options.setdefault("image", arg)
    if workspace is not None and is_remote(engine_url(options.get("url"))):
        return MirroredExecutor(lambda: ScriptExecutor(DockerSandbox(**options), limits), workspace)
    return ScriptExecutor(DockerSandbox(workspace=workspace, **options), limits)
