"""Landlock: the file view, and no signals out, without namespaces, root or a program of anybody else's.

What the runner does to itself and to its blocks is decided here, and done by `sandboxes.runner.confine`. The numbers
are those of linux/landlock.h; what each version of the interface (ABI) brought is in landlock(7).
"""

from __future__ import annotations

import functools
import os
import platform
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sandboxes.errors import SandboxUnavailable
from sandboxes.isolation.bwrap import ETC, ETC_NETWORK, SYSTEM
from sandboxes.isolation.interpreter import Interpreter
from sandboxes.isolation.seccomp import AUDIT_ARCH, asked_calls, compile_filter, compile_shared_filter
from sandboxes.runner.confine import SCOPE_ABI, landlock_abi
from sandboxes.types import Limits

PROBED = ("/etc/debian_version",)
"""Harmless files that programs take to be missing or readable, and nothing else: pip fails where it is forbidden."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
MISSING = (
    "Landlock is not available here: it needs Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and 'landlock' among "
    "the modules in /sys/kernel/security/lsm (type 'lsm=landlock,lockdown,yama,integrity,apparmor,bpf' on the kernel's "
    "command line); in a container, its seccomp profile must allow it"
)


@functools.cache
def abi() -> int:
    """Return the version of the kernel's Landlock interface, as `landlock_abi` does; it stays what it is."""
    return landlock_abi()


def usable() -> bool:
    """Whether blocks can be held by Landlock here."""
    return abi() > 0 and platform.machine() in AUDIT_ARCH


def require(interpreter: Interpreter, workspace: Path) -> None:
    """Check that a workspace can be confined to.

    Raises:
        SandboxUnavailable: there is no Landlock, or the interpreter lies in the workspace; says what to do.
    """
    if platform.machine() not in AUDIT_ARCH:
        raise SandboxUnavailable(
            f"isolation='landlock' knows the system calls of {' and '.join(AUDIT_ARCH)}, not of {platform.machine()}; "
            "use isolation='bwrap' or the docker sandbox"
        )
    if abi() == 0:
        raise SandboxUnavailable(MISSING)
    for path in (*_readable(interpreter, network=True), *DEVICES, "/proc"):
        if Path(path).resolve().is_relative_to(workspace.resolve()):
            raise SandboxUnavailable(
                f"{path} lies in the workspace {workspace}, and Landlock cannot keep a part of it read-only: "
                "use another workspace or interpreter, or isolation='bwrap'"
            )


def confinement(
    interpreter: Interpreter, writable: Sequence[str], limits: Limits, *, ask_forks: bool
) -> dict[str, Any]:
    """Return what the runner is to do to itself and to its blocks.

    Args:
        interpreter: What the runner is started with.
        writable: The workspace, and the other directories that blocks may write to.
        limits: The network.
        ask_forks: Whether the runner has to count processes, as no control group does.
    """
    version = abi()
    filters = compile_shared_filter(limits.network, version, ask_forks=ask_forks)
    return {
        "abi": version,
        "readable": list(_readable(interpreter, limits.network)),
        "devices": list(DEVICES),
        "writable": list(writable),
        "network": limits.network,
        "filter": b64encode(filters).decode(),
        "asked": {str(number): name for number, name in asked_calls(version, ask_forks=ask_forks).items()},
        "ask_forks": ask_forks,
    }


def runner_filter() -> str:
    """Return the filter of the runner itself, in base64."""
    return b64encode(compile_filter()).decode()


def _readable(interpreter: Interpreter, network: bool) -> Iterator[str]:
    """Yield existing files and directories that are shown, and may be executed."""
    for path in (*SYSTEM, *ETC, *PROBED, *(ETC_NETWORK if network else ()), *interpreter.paths()):
        if os.path.exists(path):
            yield os.path.realpath(path)


def mechanisms(limits: Limits, *, ask_forks: bool) -> dict[str, str]:
    """Return what holds what, and what is left open, for `Isolation`."""
    signals = "Landlock's scope" if abi() >= SCOPE_ABI else "the runner, asked by a seccomp filter"
    return {
        "network": "shared with this machine" if limits.network else "seccomp filter: no sockets but connected pairs",
        "filesystem": (
            f"Landlock (ABI {abi()}): system read-only, the workspace and a temporary directory writable; modes and "
            "times by the runner, asked by a seccomp filter; not hidden: whether a file of a known name exists, and "
            "how large it is"
        ),
        "other processes": f"signals by {signals}, memory by Landlock; not hidden: ids, names and arguments",
        "secrets": "nothing is passed on, memory by Landlock",
        "system calls": "seccomp filter",
        "kill": "subreaper, process tree walk with forks held by "
        + ("a seccomp filter" if ask_forks else "the pids control group"),
    }
