"""Keeps the machine's own devices as they are.

bwrap shows /dev/null and others of this machine, and has no option for devices on a read-only mount. Where root starts
it, a block is their owner, and could take them from everybody else. So bwrap gets them from a mount that is read-only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sandboxes.errors import SandboxUnavailable
from sandboxes.runner.linux import LIBC

T = TypeVar("T")

CAP_SYS_ADMIN = 1 << 21
# linux/sched.h and linux/mount.h
CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 1, 2, 32, 4096, 16384, 1 << 19
MNT_DETACH = 2

SHOWN = (b"null", b"zero", b"full", b"random", b"urandom", b"tty")
"""What bwrap's `--dev` shows of the machine's own."""
PROGRAMS = "/usr/bin:/bin:/usr/sbin:/sbin"
"""Where the system's own programs are, whatever PATH says."""


class NotHeld(Exception):
    """The devices cannot be held here; says what failed."""


def start_held(start: Callable[[], T]) -> T:
    """Return what `start` returns; a process that it starts has /dev read-only, where that takes no program to do.

    Raises:
        NotHeld: the mount was refused.
    """
    if os.geteuid() != 0 or not _may_mount():
        return start()

    def held() -> T:
        _hold()
        return start()

    # Mounts are a thread's, and this one and its mounts end with the call: a millisecond, where programs take five.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(held).result()


def held_by() -> list[str]:
    """Return the command that bwrap is to be started by, where that needs a user namespace: a container's root.

    Raises:
        SandboxUnavailable: a program of util-linux is missing.
    """
    if os.geteuid() != 0 or _may_mount():
        return []
    unshare, mount = shutil.which("unshare", path=PROGRAMS), shutil.which("mount", path=PROGRAMS)
    if unshare is None or mount is None:
        raise SandboxUnavailable(
            "for a container's root, isolation='bwrap' needs the programs 'unshare' and 'mount': type 'apt-get install "
            "util-linux mount' (Debian, Ubuntu) or 'dnf install util-linux' (Fedora), or be another user"
        )
    script = f'{mount} -o rbind,ro,nosuid /dev /dev && exec "$@"'
    return [unshare, "--mount", "--map-root-user", "/bin/sh", "-c", script, "sh"]


def _may_mount() -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) & CAP_SYS_ADMIN)


def _hold() -> None:
    """Give the thread mounts of its own, where those that this machine gets later arrive too, and hold /dev in them."""
    if LIBC.unshare(CLONE_NEWNS) != 0:
        raise NotHeld(f"unshare failed: {os.strerror(ctypes.get_errno())}")
    _mount(None, b"/", MS_REC | MS_SLAVE)
    _mount(b"/dev", b"/dev", MS_BIND | MS_REC)
    _mount(None, b"/dev", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)
    # bwrap shows nothing of it, and goes through the list of all mounts for each that it makes: a tenth of its time.
    LIBC.umount2(b"/sys", MNT_DETACH)
    for name in SHOWN:  # in some containers, each is a mount of its own; elsewhere it is none, or not there
        _mount(None, b"/dev/" + name, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID, but=(errno.EINVAL, errno.ENOENT))


def _mount(source: bytes | None, target: bytes, flags: int, but: tuple[int, ...] = ()) -> None:
    if LIBC.mount(source, target, None, ctypes.c_ulong(flags), None) != 0:
        error = ctypes.get_errno()
        if error not in but:
            raise NotHeld(f"mount: {target.decode()}: {os.strerror(error)}")
