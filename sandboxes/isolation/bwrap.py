"""bubblewrap: namespaces and a read-only view of the system, without root.

bwrap has no policy of its own; everything it protects is in these arguments. They go through a descriptor and
it starts with an empty environment, since /proc shows both of PID 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from sandboxes.errors import SandboxStartError, SandboxUnavailable
from sandboxes.isolation import devices
from sandboxes.isolation.interpreter import Interpreter
from sandboxes.isolation.seccomp import compile_filter
from sandboxes.isolation.sockets import sockets_in
from sandboxes.stream import resolve
from sandboxes.types import Limits

WORKSPACE, SHARED = "/workspace", "/shared"
TMPFS = ("/tmp", "/dev/shm")  # noqa: S108 - inside the sandbox
WRITABLE = (WORKSPACE, SHARED, "/var/tmp", *TMPFS)  # noqa: S108 - inside the sandbox
UID = 1000
SMALL = 1 << 20
"""Bytes of a file that is shown as a copy in memory."""

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
ETC = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/java-17-openjdk",
    "/etc/java-21-openjdk",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/pki",
    "/etc/R",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
)
ETC_NETWORK = ("/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/services")
ROOTS_OWN = (
    "/proc/kcore",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/slabinfo",
    "/proc/vmallocinfo",
)
"""What needs no capability to be read by root, who may have started us."""
EVERYBODYS = ("/proc/keys", "/proc/key-users")
"""What tells of the user's other programs, namespaces or not: what the keys are for that they keep in the kernel."""
PASSWD = f"root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nsandbox:x:{UID}:{UID}::/tmp:/bin/sh\n"
GROUP = f"root:x:0:\nsandbox:x:{UID}:\n"

NO_NAMESPACES = (
    "No permissions to create",
    "Creating new namespace failed",
    "uid map",
    "gid map",
    "loopback: Failed RTM_NEWADDR",  # AppArmor lets a namespace be made, but nothing be done in it
    "Can't mount proc",
    "Failed to make / slave",
    "unshare failed",
    "mount: /",
)
"""What bwrap prints where it may not do its work, whatever is asked of it."""

INSTALL = (
    "bubblewrap is not installed: type 'apt-get install bubblewrap' (Debian, Ubuntu), "
    "'dnf install bubblewrap' (Fedora) or 'pacman -S bubblewrap' (Arch); "
    "or ask for isolation='landlock', which needs no program, or for isolation='none', which is unsafe"
)


class Forbidden(SandboxUnavailable):
    """bwrap is installed, but may not make namespaces here."""


def installed() -> str | None:
    """Return the path of bwrap; None where it is not installed."""
    # Ubuntu's AppArmor profile allows user namespaces to this path only.
    return "/usr/bin/bwrap" if os.access("/usr/bin/bwrap", os.X_OK) else shutil.which("bwrap")


def find_bwrap() -> str:
    """Return the path of bwrap.

    Raises:
        SandboxUnavailable: it is not installed; says what to type.
    """
    path = installed()
    if path is None:
        raise SandboxUnavailable(INSTALL)
    return path


class BwrapCommand:
    """One start of bwrap: its argument list and the descriptors it reads.

    Use as a context manager around the start; the descriptors are closed at its end.

    There is no `--die-with-parent`: it kills bwrap's outer half only, and if that dies before it has written the
    user map, the inner half waits for it for ever (bubblewrap 0.8). The runner ends when its stream does, and
    everything inside with it, at whatever moment we are killed.

    Args:
        interpreter: What the runner is started with.
        workspace: Directory of this machine that becomes `/workspace`.
        argv: What to run inside.
        limits: Sizes of the memory-backed directories; the network.
        shared: A second directory that is writable inside, as `/shared`.

    Raises:
        SandboxUnavailable: bwrap is not installed, or there is no system call filter for this kind of processor.
        SandboxStartError: the paths to show inside are more than fit into a pipe.
    """

    def __init__(
        self, interpreter: Interpreter, workspace: Path, argv: Sequence[str], limits: Limits, shared: Path | None = None
    ) -> None:
        program = find_bwrap()
        try:
            filters = compile_filter()
        except LookupError as error:
            raise SandboxUnavailable(f"isolation='bwrap': {error}; use the docker sandbox") from None
        self.info, info = os.pipe()
        self._descriptors = [info]
        try:
            arguments = self._arguments(interpreter, workspace, limits, shared, filters)
            packed = "".join(argument + "\0" for argument in arguments).encode(errors="surrogateescape")
            self.argv = [*devices.held_by(), program, "--args", str(self._data(packed)), "--", *argv]
        except BaseException:
            self.__exit__()
            raise

    def _arguments(
        self, interpreter: Interpreter, workspace: Path, limits: Limits, shared: Path | None, filters: bytes
    ) -> list[str]:
        workspace = workspace.resolve()
        parts, held = interpreter.paths(), []
        if _lies_in(interpreter, workspace):
            parts = _not_led_out(interpreter.parts(), workspace)
            held = _outermost_in(workspace, [*interpreter.prefixes, *parts])
        return [
            *_namespaces(limits),
            *("--seccomp", str(self._data(filters))),
            *("--info-fd", str(self._descriptors[0])),
            *_system(),
            *self._etc(limits),
            *(("--bind", str(shared), SHARED) if shared is not None else ()),
            *_memory_backed(limits),
            *self._interpreter(parts),
            *_workspace(workspace, held),
        ]

    def _etc(self, limits: Limits) -> Iterator[str]:
        yield from _written(self._data(PASSWD.encode()), "/etc/passwd")
        yield from _written(self._data(GROUP.encode()), "/etc/group")
        for path in ETC:
            yield from self._shown(path)
        for path in ETC_NETWORK if limits.network else ():
            if os.path.exists(path):
                # As it is at any time, not a copy; a link such as /etc/resolv.conf into /run as what it leads to.
                yield from ("--ro-bind", os.path.realpath(path), path)

    def _interpreter(self, paths: Sequence[str]) -> Iterator[str]:
        # After /tmp, since a virtual environment may lie there; before the workspace, see there.
        for path in paths:
            if _is_below(path, SYSTEM):
                continue
            real = _real(path)
            if _is_below(path, WRITABLE) or _is_below(real, WRITABLE):
                yield from ("--ro-bind", path, path)  # anything but a mount could be replaced there
            elif real != path and real in paths:
                yield from ("--symlink", real, path)  # a virtual environment's lib64, which is its lib
            else:
                yield from self._shown(path)

    def _shown(self, path: str) -> Iterator[str]:
        """Show what there is at a path, read-only, and with a mount only where it takes one.

        bwrap reads the list of all mounts for each it makes, so that twenty of them cost more than a Python's start.
        """
        real = _real(path)
        if not os.path.exists(real):
            return
        if real != path and _is_below(real, SYSTEM):
            yield from ("--symlink", real, path)
        elif (descriptor := self._small_text(real)) is not None:
            yield from _written(descriptor, path)
        else:
            yield from ("--ro-bind", real, path)

    def _small_text(self, path: str) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o111 or status.st_size > SMALL:
            os.close(descriptor)
            return None
        self._descriptors.append(descriptor)
        return descriptor

    def _data(self, content: bytes) -> int:
        read, write = os.pipe()
        self._descriptors.append(read)
        try:
            # All of these fit into a pipe; a longer one would block here for ever.
            os.set_blocking(write, False)
            if os.write(write, content) != len(content):
                raise SandboxStartError("the arguments for bwrap are too long")
        finally:
            os.close(write)
        return read

    @property
    def pass_fds(self) -> list[int]:
        """Descriptors that bwrap inherits."""
        # The reading end of `info` too: if we are killed, bwrap would die of writing to it, half-way.
        return [*self._descriptors, self.info]

    def __enter__(self) -> BwrapCommand:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_theirs()
        os.close(self.info)

    def close_theirs(self) -> None:
        """Close what only bwrap needs; its end is seen on `info` only then."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []


def _namespaces(limits: Limits) -> Iterator[str]:
    yield "--unshare-all"
    yield "--unshare-user"  # also where we are root, and required by the next
    yield "--disable-userns"
    if limits.network:
        yield "--share-net"
    yield from ("--uid", str(UID), "--gid", str(UID), "--hostname", "sandbox")
    yield from ("--cap-drop", "ALL", "--new-session", "--as-pid-1", "--clearenv")
    yield from ("--setenv", "LANG", "C.UTF-8")


def _is_below(path: str, places: Sequence[str]) -> bool:
    return any(path == place or path.startswith(place + "/") for place in places)


def _real(path: str) -> str:
    return os.path.realpath(path) if os.path.islink(path) else path


def _lies_in(interpreter: Interpreter, workspace: Path) -> bool:
    places = (*interpreter.prefixes, *map(os.path.dirname, interpreter.links))
    return any(_leads_into(place, workspace) for place in places)


def _leads_into(path: str, workspace: Path) -> bool:
    return _is_below(path, [str(workspace)]) or _is_below(os.path.realpath(path), [str(workspace)])


def _not_led_out(paths: Sequence[str], workspace: Path) -> list[str]:
    """Return an interpreter's paths, but for those in the workspace that a link leads out of it.

    A block may have put that there, for the next start to show what it leads to.
    """
    theirs = {path for path in paths if _leads_into(path, workspace) or _leads_into(os.path.dirname(path), workspace)}
    seen = (str(workspace), *SYSTEM, *(path for path in paths if path not in theirs))
    return [path for path in paths if path not in theirs or _is_below(os.path.realpath(path), seen)]


def _outermost_in(workspace: Path, paths: Sequence[str]) -> list[Path]:
    """Return the real paths of what lies in the workspace, none of them below another."""
    found: list[Path] = []
    for place in sorted({Path(os.path.realpath(path)) for path in paths} - {workspace}):
        if place.is_relative_to(workspace) and place.exists() and not any(place.is_relative_to(each) for each in found):
            found.append(place)
    return found


def _written(descriptor: int, path: str) -> Iterator[str]:
    yield from ("--perms", "0644", "--file", str(descriptor), path)


def _system() -> Iterator[str]:
    for path in SYSTEM:
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        elif os.path.isdir(path):
            yield from ("--ro-bind", path, path)


def _memory_backed(limits: Limits) -> Iterator[str]:
    yield from ("--proc", "/proc", "--dev", "/dev")
    for path in (*EVERYBODYS, *(ROOTS_OWN if os.geteuid() == 0 else ())):
        if os.path.exists(path):
            yield from ("--ro-bind", "/dev/null", path)
    # Filling /tmp is running out of space; filling shared memory is using memory up. Both together are less than what
    # the control group holds: files stay when the kernel ends a process, and the runner would be next.
    yield from ("--size", str(max(limits.memory // 2, 1 << 20)), "--tmpfs", "/tmp")  # noqa: S108
    yield from ("--size", str(max(limits.memory // 2, 1 << 20)), "--tmpfs", "/dev/shm")  # noqa: S108
    yield from ("--dir", "/var", "--symlink", "../tmp", "/var/tmp")  # noqa: S108


def _workspace(workspace: Path, held: Sequence[Path]) -> Iterator[str]:
    yield from ("--bind", str(workspace), WORKSPACE)
    # An interpreter that lies in the workspace must stay what it is. These mount points exist: bwrap must never
    # make one inside a writable directory, where it could be led elsewhere (CVE-2026-87766).
    for place in held:
        # A directory that is mounted on cannot be renamed, but those above it can.
        for above in (*reversed(place.parents), place):
            if workspace in above.parents:
                there = str(WORKSPACE / above.relative_to(workspace))
                yield from ("--ro-bind" if above == place else "--bind", str(above), there)
    for name in sockets_in(workspace):  # existing mount points, too
        yield from ("--ro-bind", "/dev/null", os.path.join(WORKSPACE, name))
    # Where root starts us, the block is the owner of /proc/sys, and core_pattern would make it the host's root.
    yield from ("--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORKSPACE)


async def read_info(descriptor: int) -> int:
    """Wait until bwrap has made its namespaces; return the id of PID 1 in there, as this machine sees it.

    Raises:
        EOFError: bwrap failed before.
    """
    loop = asyncio.get_running_loop()
    text = b""
    while not text.rstrip().endswith(b"}"):
        ready = loop.create_future()
        loop.add_reader(descriptor, resolve, ready)
        try:
            await ready
        finally:
            loop.remove_reader(descriptor)
        piece = os.read(descriptor, 4096)
        if not piece:
            raise EOFError("bwrap ended at its start")
        text += piece
    return int(json.loads(text)["child-pid"])


def explain(words: str) -> SandboxUnavailable:
    """Return what is wrong, and what to do about it, given what bwrap printed when it failed."""
    if any(sign in words for sign in NO_NAMESPACES):
        return Forbidden(
            f"bubblewrap may not create namespaces here ({words}). On Ubuntu 24.04 and newer, type "
            "'sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0' or install bubblewrap's AppArmor profile; "
            "in a container, allow user namespaces (Docker: --security-opt seccomp=unconfined). "
            "isolation='landlock' needs no namespaces; isolation='none' runs without any protection"
        )
    return SandboxUnavailable(f"bubblewrap failed: {words}")
