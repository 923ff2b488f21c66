"""Whose a container is: its labels say, and what belonged to a process that is gone is removed.

A container ends by itself when its owner does, since its input ends; this is for those that were created and not
started yet, and for volumes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from functools import cache
from pathlib import Path

import psutil

from sandboxes.docker.engine import Engine
from sandboxes.errors import SandboxError

KIND, MACHINE, BOOT, USER, PROCESS = (f"agentexec.{word}" for word in ("kind", "machine", "boot", "user", "process"))


@cache
def _machine() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError):
            if text := Path(path).read_text().strip():
                return text
    return f"{socket.gethostname()}-{uuid.getnode():x}"


@cache
def _boot() -> str:
    """Return what is the same for all processes that see each other's ids, and for no others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{psutil.boot_time():.0f}"


def _process(pid: int) -> str:
    return f"{pid}.{psutil.Process(pid).create_time():.2f}"


def own_labels() -> dict[str, str]:
    """Return the labels that mark something as this process's."""
    user = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    return {KIND: "sandbox", MACHINE: _machine(), BOOT: _boot(), USER: user, PROCESS: _process(os.getpid())}


def is_abandoned(labels: dict[str, str]) -> bool:
    """Whether labels name an owner that cannot be alive any more. Doubt counts as life."""
    own = own_labels()
    if any(labels.get(key) != own[key] for key in (KIND, MACHINE, USER)):
        return False
    if labels.get(BOOT, "") != own[BOOT]:
        # Of an earlier boot nobody is alive. Of another PID namespace of this boot somebody may be.
        return labels.get(BOOT, "").partition(".")[0] != own[BOOT].partition(".")[0] and BOOT in labels
    pid, _, _ = labels.get(PROCESS, "").partition(".")
    if not pid.isdigit():
        return False
    try:
        return _process(int(pid)) != labels[PROCESS]
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def remove_abandoned(engine: Engine) -> list[str]:
    """Remove containers and volumes of this user's processes on this machine that are gone; return their names.

    What somebody else removes meanwhile is no error.
    """
    removed = []
    own = own_labels()
    containers, volumes = engine.labelled({KIND: own[KIND], MACHINE: own[MACHINE], USER: own[USER]})
    for container, labels in containers.items():
        if is_abandoned(labels):
            with contextlib.suppress(SandboxError):
                engine.remove(container)
                removed.append(f"container {container[:12]}")
    for volume, labels in volumes.items():
        if is_abandoned(labels):
            with contextlib.suppress(SandboxError):
                engine.remove_volume(volume)
                removed.append(f"volume {volume}")
    return removed
