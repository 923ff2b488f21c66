"""Where a container's workspace lies, and whose it is."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from docker.types import Mount

from sandboxes.docker.engine import Engine
from sandboxes.docker.owners import own_labels
from sandboxes.errors import SandboxUnavailable
from sandboxes.isolation.sockets import sockets_in
from sandboxes.paths import Pinned
from sandboxes.throwaway import ThrowawayDirectory

WORKSPACE = "/workspace"
"""Its place inside."""
NOBODY = 65534
"""Owner of throw-away workspaces where we are root, so that blocks do not run as root."""


class ContainerWorkspace:
    """A directory of this machine, or a volume inside an engine that does not see those.

    Args:
        directory: An existing directory; None makes one, or a volume, that is thrown away.
        user: `UID:GID` of the blocks; None is the caller, and where that is root, the directory's owner.
    """

    def __init__(self, directory: Path | None, user: str | None) -> None:
        self._directory = directory
        self._pinned = None if directory is None else Pinned(directory)
        self._user = user
        self._own: ThrowawayDirectory | None = None
        self._volume = ""

    @property
    def local(self) -> Path | None:
        """The directory on this machine; None if it was not made yet, or lies in the engine."""
        return self._directory

    @property
    def directory(self) -> Path:
        """The directory on this machine.

        Raises:
            SandboxUnavailable: it was not made yet, or lies in the engine.
        """
        if self._directory is None:
            raise SandboxUnavailable("the workspace is made at the start; it lies in the engine if that is remote")
        return self._directory

    def owner(self, engine: Engine) -> str:
        """Return `UID:GID` of the blocks."""
        if self._user is not None:
            uid, _, gid = self._user.partition(":")
            return f"{uid}:{gid or uid}"
        if engine.rootless:  # whose root is the caller
            return "0:0"
        if os.geteuid() != 0:
            return f"{os.geteuid()}:{os.getegid()}"
        if self._directory is None:
            return f"{NOBODY}:{NOBODY}"
        status = self._directory.stat()
        return f"{status.st_uid}:{status.st_gid}"

    def mount(self, engine: Engine, image: str) -> tuple[Mount, str]:
        """Return the mount of the workspace, which is made if need be, and whose rights blocks have in it.

        Args:
            engine: Where the container will be.
            image: An image that the engine has, with Python.
        """
        if self._pinned is not None:
            self._pinned.check()
        owner = self.owner(engine)
        if self._directory is not None and engine.remote:
            raise SandboxUnavailable(
                f"the engine at {engine.url} does not see {self._directory}: give no workspace, and move files with "
                "put and get; or open it by its name, open_executor('docker', workspace=…), which copies them"
            )
        if self._directory is None and not self._volume:
            mine = engine.rootless or owner == f"{os.geteuid()}:{os.getegid()}"
            if engine.remote or not (mine or os.geteuid() == 0):
                self._make_volume(engine, image, owner)
            else:
                self._own = ThrowawayDirectory()
                if not mine:
                    os.chown(self._own.path, *(int(number) for number in owner.split(":")))
                self._directory = self._own.path
                self._pinned = Pinned(self._directory)
        if self._volume:
            return Mount(WORKSPACE, self._volume, type="volume", no_copy=True), owner
        return Mount(WORKSPACE, str(self._directory), type="bind", read_only=False), owner

    def covers(self) -> list[Mount]:
        """Return mounts that hide sockets of this machine's programs in the workspace."""
        if self._pinned is None or self._own is not None:
            return []
        return [
            Mount(f"{WORKSPACE}/{name}", "/dev/null", type="bind", read_only=True)
            for name in sockets_in(self._pinned.path)
        ]

    def _make_volume(self, engine: Engine, image: str, owner: str) -> None:
        """Make a volume and give it to the owner: a new one is root's, and no setting changes that."""
        volume = f"agentexec-{secrets.token_hex(6)}"
        engine.create_volume(volume, own_labels())
        self._volume = volume
        uid, _, gid = owner.partition(":")
        container = engine.create(
            image,
            ["python3", "-I", "-c", f"import os; os.chown({WORKSPACE!r}, {int(uid)}, {int(gid)})"],
            {
                "mounts": [Mount(WORKSPACE, volume, type="volume", no_copy=True)],
                "network_mode": "none",
                "cap_drop": ["ALL"],
                "cap_add": ["CHOWN"],
                "read_only": True,
            },
            user="0:0",
            labels=own_labels(),
        )
        try:
            if engine.run(container) != 0:
                raise SandboxUnavailable(f"cannot make a workspace with {image}: is there a python3 in it?")
        finally:
            engine.remove(container)

    def remove(self, engine: Engine | None) -> None:
        """Remove what was made here."""
        if self._volume and engine is not None:
            volume, self._volume = self._volume, ""
            engine.remove_volume(volume)
        if self._own is not None:
            own, self._own, self._directory, self._pinned = self._own, None, None, None
            own.remove()
