"""Landlock and seccomp from within: what a runner without namespaces does to itself, and to each block.

The runner confines itself to a file view. Each block is put into a domain of its own below, so that it can neither
signal nor look into the runner, and behind a filter that leaves some calls to the runner (`guard`).
"""

from __future__ import annotations

import binascii
import ctypes
import os
import stat
import struct
import sys

from . import linux

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

# linux/landlock.h
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = VERSION = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
RIGHTS = {1: (1 << 13) - 1, 2: REFER, 3: TRUNCATE, 5: IOCTL_DEV}
"""Rights of files, by the version that brought them."""
FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
BIND_TCP, CONNECT_TCP = 1, 2
ABSTRACT_SOCKETS, SIGNALS = 1, 2
REFER_ABI, NETWORK_ABI, SCOPE_ABI = 2, 4, 6
"""Versions since which it knows of moves between directories; of TCP; of signals and abstract sockets (Linux 6.12)."""

PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_SET_SECUREBITS, NOROOT = 28, 0x2F
CAPABILITY_VERSION = 0x20080522

SECCOMP_CALLS = {"x86_64": 317, "aarch64": 277}
SET_MODE_FILTER, NEW_LISTENER, WAIT_KILLABLE = 1, 1 << 3, 1 << 5


class _Attributes(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def _check(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, "%s: %s" % (what, os.strerror(error)))
    return result


def landlock_abi() -> int:
    """Return the version of the kernel's Landlock interface; 0 where there is none, or it is switched off."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(linux.LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION)))


def _new_ruleset(abi: int, files: int, network: int, scoped: int) -> int:
    attributes = _Attributes(files, network, scoped)
    # What an older kernel does not know, it takes only where it is not there.
    size = 8 if abi < NETWORK_ABI else 16 if abi < SCOPE_ABI else 24
    number = linux.LIBC.syscall(CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), 0)
    return _check(number, "landlock_create_ruleset")


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it has gone since it was found, or may not be reached
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= FOR_FILES
        rule = _Beneath(rights, parent)
        _check(linux.LIBC.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0), "landlock_add_rule")
    finally:
        os.close(parent)


def restrict(ruleset: int) -> None:
    """Hold this process, and all it will ever fork, to a ruleset.

    Raises:
        OSError: the kernel refused.
    """
    _check(linux.LIBC.syscall(RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")


class WritingHold:
    """Keeps a process from writing anywhere but below some directories; where Landlock is missing, it does not.

    Args:
        places: The directories.
    """

    def __init__(self, places: List[str]) -> None:
        self._ruleset = -1
        abi = landlock_abi()
        if abi < REFER_ABI:  # before, it would forbid all moves between directories
            return
        self._ruleset = _new_ruleset(abi, WRITE_FILE | REFER, 0, 0)
        _allow(self._ruleset, "/", REFER)
        for path in places:
            _allow(self._ruleset, path, WRITE_FILE)

    def put_on(self) -> None:
        """Hold this process, and all it will ever fork.

        Raises:
            OSError: the kernel refused.
        """
        if self._ruleset >= 0:
            restrict(self._ruleset)


def drop_privileges() -> None:
    """Give up all capabilities, also for programs that would get some; only root has any."""
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() == 0:
        try:
            linux.prctl(PR_SET_SECUREBITS, NOROOT)
            number = 0
            while linux.LIBC.prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
                linux.prctl(PR_CAPBSET_DROP, number)
                number += 1
        except OSError:  # this root has not the right to, as in a container; it cannot use them either
            pass
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    _check(linux.LIBC.capset(header, (ctypes.c_uint32 * 6)()), "capset")


class Confinement:
    """Confines this process at once; and each worker, when it asks.

    Args:
        config: As `sandboxes.isolation.landlock.confinement` returns it.

    Raises:
        OSError: the kernel refused.
    """

    def __init__(self, config: Dict[str, Any]) -> None:
        self._abi: int = config["abi"]
        drop_privileges()
        rights = sum(bits for version, bits in RIGHTS.items() if version <= self._abi)
        network = 0 if config["network"] or self._abi < NETWORK_ABI else BIND_TCP | CONNECT_TCP
        scoped = ABSTRACT_SOCKETS | SIGNALS if self._abi >= SCOPE_ABI else 0
        ruleset = _new_ruleset(self._abi, rights, network, scoped)
        for path in config["readable"]:
            _allow(ruleset, path, EXECUTE | READ_FILE | READ_DIR)
        _allow(ruleset, "/proc", READ_FILE | READ_DIR)
        for path in config["devices"]:
            _allow(ruleset, path, (READ_FILE | WRITE_FILE | TRUNCATE) & rights)
        for path in config["writable"]:
            _allow(ruleset, path, rights & ~(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV))
        restrict(ruleset)
        os.close(ruleset)
        # A ruleset must have something to say, so where nothing can be scoped it forbids what is forbidden already.
        self._below = _new_ruleset(self._abi, 0 if scoped else MAKE_BLOCK, 0, scoped)
        self._seccomp = SECCOMP_CALLS[os.uname().machine]
        self._filter = linux.FilterProgram.of(binascii.a2b_base64(config["filter"]))

    def separate(self) -> None:
        """Put this process, a worker, into a domain of its own below the runner's, which it cannot signal from there.

        Raises:
            OSError: the kernel refused.
        """
        restrict(self._below)

    def listen(self) -> int:
        """Put the filter on this process, a worker; return the descriptor at which its calls are to be answered.

        Raises:
            OSError: the kernel refused. EBUSY means that somebody answers for this container's calls already.
        """
        listener = -1
        for flags in (NEW_LISTENER | WAIT_KILLABLE, NEW_LISTENER):  # the second before Linux 5.19
            listener = linux.LIBC.syscall(self._seccomp, SET_MODE_FILTER, flags, ctypes.byref(self._filter))
            if listener >= 0:
                break
        return _check(listener, "seccomp")


def socket_pair() -> Tuple[int, int]:
    """Return two descriptors of a pair of connected sockets."""
    import _socket  # only where somebody is confined; `socket` itself takes milliseconds to load

    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return ours.detach(), theirs.detach()


def send_descriptors(channel: int, data: bytes, descriptors: List[int]) -> None:
    """Send descriptors, with some data, over a socket."""
    import _socket

    packed = struct.pack("%di" % len(descriptors), *descriptors)
    sock = _socket.socket(fileno=channel)
    try:
        sock.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if descriptors else [])
    finally:
        sock.detach()


def receive_descriptors(channel: int, most: int) -> Tuple[bytes, List[int]]:
    """Return data from a socket and the descriptors that came with it; no data means that none will come."""
    import _socket

    sock = _socket.socket(fileno=channel)
    try:
        data, extra, _, _ = sock.recvmsg(1 << 16, _socket.CMSG_SPACE(4 * most))
    finally:
        sock.detach()
    descriptors: List[int] = []
    for level, kind, payload in extra:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            descriptors += struct.unpack("%di" % (len(payload) // 4), payload)
    return data, descriptors
