"""The system call filter: allowed unless listed, and a refused call gets an error number, never a signal.

Compiled here to classic BPF (linux/filter.h, linux/seccomp.h), so that no library is needed. System call
numbers are those of the kernel's tables for each architecture.
"""

from __future__ import annotations

import errno
import functools
import platform
import struct

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6] (little-endian on both)
_NR, _ARCH = 0, 4
_LOAD, _EQUAL, _ABOVE_EQUAL, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_ALLOW, _ERRNO, _ASK = 0x7FFF0000, 0x00050000, 0x7FC00000  # the last is SECCOMP_RET_USER_NOTIF

# Name: (x86_64, aarch64); None where the architecture has no such call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # keys, and memory that no limit sees
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "memfd_secret": (447, 447),
    # kernel memory that no limit sees: 64 GB of semaphores, 500 MB of messages (System V; POSIX has its own bounds)
    "semget": (64, 190),
    "msgget": (68, 186),
    # a page in a pipe holds the huge page around it, 2 MiB that nobody maps any more
    "vmsplice": (278, 75),
    # message queues would outlive a block
    "mq_open": (240, 180),
    # large kernel surfaces
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "nfsservctl": (180, 42),
    # the machine
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
}
# Where there are no namespaces, these lead to what is the host's. Name: (x86_64, aarch64), error number.
SHARED: dict[str, tuple[tuple[int | None, int | None], int]] = {
    # System V and POSIX queues, semaphores and memory
    "shmget": ((29, 194), errno.EPERM),
    "shmat": ((30, 196), errno.EPERM),
    "shmctl": ((31, 195), errno.EPERM),
    "semop": ((65, 193), errno.EPERM),
    "semctl": ((66, 191), errno.EPERM),
    "semtimedop": ((220, 192), errno.EPERM),
    "msgsnd": ((69, 189), errno.EPERM),
    "msgrcv": ((70, 188), errno.EPERM),
    "msgctl": ((71, 187), errno.EPERM),
    "mq_unlink": ((241, 181), errno.EPERM),
    # What goes on in a directory, which Landlock does not ask about: programs fall back to looking
    "inotify_init": ((253, None), errno.ENOSYS),
    "inotify_init1": ((294, 26), errno.ENOSYS),
    # Attributes by name, of any file: programs take it for a file system without them
    "setxattr": ((188, 5), errno.EOPNOTSUPP),
    "lsetxattr": ((189, 6), errno.EOPNOTSUPP),
    "fsetxattr": ((190, 7), errno.EOPNOTSUPP),
    "getxattr": ((191, 8), errno.EOPNOTSUPP),
    "lgetxattr": ((192, 9), errno.EOPNOTSUPP),
    "listxattr": ((194, 11), errno.EOPNOTSUPP),
    "llistxattr": ((195, 12), errno.EOPNOTSUPP),
    "removexattr": ((197, 14), errno.EOPNOTSUPP),
    "lremovexattr": ((198, 15), errno.EOPNOTSUPP),
    "fremovexattr": ((199, 16), errno.EOPNOTSUPP),
    "setxattrat": ((463, 463), errno.EOPNOTSUPP),
    "getxattrat": ((464, 464), errno.EOPNOTSUPP),
    "listxattrat": ((465, 465), errno.EOPNOTSUPP),
    "removexattrat": ((466, 466), errno.EOPNOTSUPP),
    "file_setattr": ((469, 469), errno.EOPNOTSUPP),
}
# Answered by the runner, which knows whose file and whose process it is (`sandboxes.runner.guard`).
ASKED: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
ASKED_FORKS: dict[str, tuple[int | None, int | None]] = {"fork": (57, None), "vfork": (58, None), "clone": (56, 220)}
"""Asked about too where no control group counts processes. A signal that comes before the runner has taken such a
question makes the call fail with EINTR, which few programs expect of a fork."""
ASKED_SIGNALS: dict[str, tuple[int | None, int | None]] = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
}
"""Asked about too where Landlock does not see signals."""
_CONNECTING = ((42, 203), (49, 200), (50, 201))  # connect, bind, listen
_TRUNCATE, _FCNTL = (76, 45), (72, 25)
_FCNTL_OUTWARD = (8, 10, 15, 1024, 1026)  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY
# FIOSETOWN, SIOCSPGRP; FS_IOC_SETFLAGS, FS_IOC_SETVERSION, EXT4_IOC_SETVERSION, FS_IOC_FSSETXATTR,
# FS_IOC_SET_ENCRYPTION_POLICY, FS_IOC_ENABLE_VERITY, which need nothing but a file that may be read
_IOCTL_OUTWARD = (0x8901, 0x8902, 0x40086602, 0x40087602, 0x40086604, 0x401C5820, 0x800C6613, 0x40806685)
_SOCKET, _SOCKETPAIR, _CLONE, _CLONE3, _IOCTL, _PERSONALITY = (
    (41, 198),
    (53, 199),
    (56, 220),
    (435, 435),
    (16, 29),
    (135, 92),
)
# Set-uid files in the workspace would be root's where root started us. Index of the mode; of the flags, if it has any.
_MODES = (
    ((90, None), 1, None),  # chmod
    ((91, 52), 1, None),  # fchmod
    ((268, 53), 2, None),  # fchmodat
    ((452, 452), 2, None),  # fchmodat2
    ((85, None), 1, None),  # creat
    ((2, None), 2, 1),  # open
    ((257, 56), 3, 2),  # openat
    ((133, None), 1, None),  # mknod
    ((259, 33), 2, None),  # mknodat
)
_SET_ID, _CREATES = 0o6000, 0o20000100
_OPENAT2 = (437, 437)
_PRLIMIT, _SETPRIORITY, _IOPRIO_SET = (302, 261), (141, 140), (251, 30)
_SCHEDULING = ((142, 118), (144, 119), (203, 122), (314, 274))  # sched_set{param,scheduler,affinity,attr}
_SUPERVISOR = 1
_PRIO_PROCESS, _PRIO_USER, _IOPRIO_WHO_PROCESS, _IOPRIO_WHO_USER = 0, 2, 1, 3
_CLONE_NEW = 0x7E020000 | 0x80  # every CLONE_NEW* flag
# TIOCSTI, TIOCLINUX; TIOCSETD, for which the machine loads modules; FS_IOC_ADD_ENCRYPTION_KEY,
# FS_IOC_REMOVE_ENCRYPTION_KEY, …_ALL_USERS: with any file of an encrypted file system, they lock away the files of
# whoever started us.
# FS_IOC_RESVSP, FS_IOC_RESVSP64, FS_IOC_ZERO_RANGE: as fallocate beyond the end of a file, see there.
_IOCTL_REFUSED = (
    *(0x5412, 0x541C, 0x5423, 0xC0506617, 0xC0406618, 0xC0406619),
    *(0x40305828, 0x4030582A, 0x40305839),
)
# A call takes as much of the disk as there is at once, before anybody can look, and beyond the end of a file under no
# RLIMIT_FSIZE. These modes take none: to punch a hole, to collapse a range, to insert one.
_FALLOCATE, _FALLOCATE_NOTHING = (285, 47), (3, 8, 0x20)
# F_SETLEASE, F_NOTIFY, F_SETDELEG: hold up whoever opens a file, or tell of it, be it the machine's own.
_FCNTL_REFUSED = (1024, 1026, 1040)
# SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF and _EBPF: programs that the kernel compiles, in memory that
# no limit sees and that the whole machine has 500 MB of. SO_ZEROCOPY: as vmsplice.
_SETSOCKOPT, _SOL_SOCKET, _SOCKET_REFUSED = (54, 208), 1, (26, 50, 51, 52, 60)
# Huge pages that the machine has set aside count as nobody's memory. Call, index of its flags, flag.
_HUGE_PAGES = (
    ((9, 222), 3, 0x40000),  # mmap, MAP_HUGETLB
    ((319, 279), 1, 0x4),  # memfd_create, MFD_HUGETLB
    ((29, 194), 2, 0o4000),  # shmget, SHM_HUGETLB
)
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
# ICMP, TCP, UDP, ICMPv6, UDP-Lite, MPTCP. For others the machine loads modules, or runs the program that looks for one.
_PROTOCOLS = (0, 1, 6, 17, 58, 136, 262)
_SOCK_TYPE_MASK, _SOCK_STREAM, _SOCK_SEQPACKET = 0xF, 1, 5
_TRUNCATE_ABI, _SIGNAL_ABI = 3, 6
_PER_QUERY = 0xFFFFFFFF


def _statement(code: int, value: int) -> tuple[int, int, int, int]:
    return code, 0, 0, value


def _argument(index: int) -> tuple[int, int, int, int]:
    return _statement(_LOAD, 16 + 8 * index)  # the lower half, which is all the kernel looks at for these


def _refuse(number: int = errno.EPERM) -> tuple[int, int, int, int]:
    return _statement(_RETURN, _ERRNO | number)


_PASS = _statement(_RETURN, _ALLOW)


def _only_for(call: int | None, body: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Return `body`, which must end in a return, guarded by the system call's number; nothing if there is none."""
    return [] if call is None else [(_EQUAL, 0, len(body), call), *body]


@functools.cache
def compile_filter(machine: str | None = None) -> bytes:
    """Return the filter as an array of `struct sock_filter`, as bwrap's `--seccomp` reads it.

    Args:
        machine: As `platform.machine()` names it; None means this machine.

    Raises:
        LookupError: there is no table for the architecture.
    """
    machine = machine or platform.machine()
    column = _column(machine)
    program = _start(machine)
    for numbers in DENIED.values():
        program += _only_for(numbers[column], [_refuse()])
    # glibc falls back to clone, whose flags a filter can see.
    program += _only_for(_CLONE3[column], [_refuse(errno.ENOSYS)])
    program += _only_for(_CLONE[column], [_argument(0), (_ANY_BIT, 0, 1, _CLONE_NEW), _refuse(), _PASS])
    for numbers, refused in ((_IOCTL, _IOCTL_REFUSED), (_FCNTL, _FCNTL_REFUSED)):
        program += _only_for(numbers[column], [_argument(1), *_any_of(refused, _refuse()), _PASS])
    body = [_argument(2), *_any_of(_SOCKET_REFUSED, _refuse()), _PASS]
    program += _only_for(_SETSOCKOPT[column], [_argument(1), (_EQUAL, 0, len(body) - 1, _SOL_SOCKET), *body])
    for numbers, index, huge in _HUGE_PAGES:
        program += _only_for(numbers[column], [_argument(index), (_ANY_BIT, 0, 1, huge), _refuse(errno.ENOMEM), _PASS])
    program += _only_for(
        _PERSONALITY[column], [_argument(0), (_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, _PER_QUERY), _refuse(), _PASS]
    )
    for calls, mode, flags in _MODES:
        body = [_argument(mode), (_ANY_BIT, 0, 1, _SET_ID), _refuse(), _PASS]
        if flags is not None:  # without these the mode is not looked at, and may be anything
            body = [_argument(flags), (_ANY_BIT, 0, len(body) - 1, _CREATES), *body]
        program += _only_for(calls[column], body)
    program += _only_for(_OPENAT2[column], [_refuse(errno.ENOSYS)])  # its mode lies in memory
    body = [_argument(1), *_any_of(_FALLOCATE_NOTHING, _PASS), _refuse(errno.EOPNOTSUPP)]
    program += _only_for(_FALLOCATE[column], body)
    # The runner has the block's uid, so the kernel would let a block set its limits and starve it, by the id of any of
    # its threads. So only the caller's own can be set, whom 0 stands for.
    changes = _changes_limit()
    program += _only_for(_PRLIMIT[column], [_argument(0), (_EQUAL, len(changes), 0, 0), *changes, _PASS])
    for numbers in _SCHEDULING:
        program += _only_for(numbers[column], [_argument(0), (_EQUAL, 0, 1, _SUPERVISOR), _refuse(), _PASS])
    for numbers, user in ((_SETPRIORITY, _PRIO_USER), (_IOPRIO_SET, _IOPRIO_WHO_USER)):
        body = [_argument(0), (_EQUAL, 2, 0, user), _argument(1), (_EQUAL, 0, 1, _SUPERVISOR), _refuse(), _PASS]
        program += _only_for(numbers[column], body)
    for call in (_SOCKET[column], _SOCKETPAIR[column]):
        program += _only_for(call, _sockets())
    return _assemble(program)


@functools.cache
def compile_shared_filter(
    network: bool, landlock_abi: int, machine: str | None = None, *, ask_forks: bool = True
) -> bytes:
    """Return the filter that blocks have besides `compile_filter`'s where they share namespaces with the host.

    Args:
        network: Whether blocks may have internet sockets.
        landlock_abi: What the kernel's Landlock can do; the filter makes up for what it cannot.
        machine: As `platform.machine()` names it; None means this machine.
        ask_forks: Whether the runner counts processes.

    Raises:
        LookupError: there is no table for the architecture.
    """
    machine = machine or platform.machine()
    column = _column(machine)
    program = _start(machine)
    for calls, number in SHARED.values():
        program += _only_for(calls[column], [_refuse(number)])
    for call in asked_calls(landlock_abi, machine, ask_forks=ask_forks):
        program += _only_for(call, [_statement(_RETURN, _ASK)])
    if landlock_abi < _TRUNCATE_ABI:
        program += _only_for(_TRUNCATE[column], [_refuse()])
    for calls, outward in ((_FCNTL, _FCNTL_OUTWARD), (_IOCTL, _IOCTL_OUTWARD)):
        program += _only_for(calls[column], [_argument(1), *_any_of(outward, _refuse()), _PASS])
    # Whoever is named may be anybody, so only the caller itself is left, which 0 stands for.
    for calls in (_PRLIMIT, *_SCHEDULING):
        otherwise = _changes_limit() if calls is _PRLIMIT else [_refuse()]
        program += _only_for(calls[column], [_argument(0), (_EQUAL, len(otherwise), 0, 0), *otherwise, _PASS])
    for calls, one in ((_SETPRIORITY, _PRIO_PROCESS), (_IOPRIO_SET, _IOPRIO_WHO_PROCESS)):
        body = [_argument(0), (_EQUAL, 0, 2, one), _argument(1), (_EQUAL, 1, 0, 0), _refuse(), _PASS]
        program += _only_for(calls[column], body)
    for calls in () if network else _CONNECTING:
        program += _only_for(calls[column], [_refuse()])
    program += _only_for(_SOCKET[column], _sockets(unix=False) if network else [_refuse(errno.EAFNOSUPPORT)])
    program += _only_for(_SOCKETPAIR[column], _pairs())
    return _assemble(program)


def asked_calls(landlock_abi: int, machine: str | None = None, *, ask_forks: bool = True) -> dict[int, str]:
    """Return number and name of the system calls that `compile_shared_filter` leaves to the runner."""
    column = _column(machine or platform.machine())
    table = {
        **ASKED,
        **(ASKED_FORKS if ask_forks else {}),
        **(ASKED_SIGNALS if landlock_abi < _SIGNAL_ABI else {}),
    }
    return {number: name for name, calls in table.items() if (number := calls[column]) is not None}


def _column(machine: str) -> int:
    if machine not in AUDIT_ARCH:
        raise LookupError(f"no table of system calls for {machine}")
    return list(AUDIT_ARCH).index(machine)


def _start(machine: str) -> list[tuple[int, int, int, int]]:
    """Refuse foreign calls, and load the number of the others."""
    arch = AUDIT_ARCH[machine]
    program = [_statement(_LOAD, _ARCH), (_EQUAL, 1, 0, arch), _refuse(), _statement(_LOAD, _NR)]
    if machine == "x86_64":
        program += [(_ABOVE_EQUAL, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    return program


def _assemble(program: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in [*program, _PASS])


def _any_of(values: tuple[int, ...], then: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """Return instructions that end in `then` for each of these values, and else go on behind it."""
    last = len(values) - 1
    return [(_EQUAL, last - at, 0 if at < last else 1, value) for at, value in enumerate(values)] + [then]


def _changes_limit() -> list[tuple[int, int, int, int]]:
    """Refuse a prlimit with a new limit, and else go on."""
    new_limit = 16 + 8 * 2
    return [
        _statement(_LOAD, new_limit),
        (_EQUAL, 0, 2, 0),
        _statement(_LOAD, new_limit + 4),
        (_EQUAL, 1, 0, 0),
        _refuse(),
    ]


def _pairs() -> list[tuple[int, int, int, int]]:
    """Allow pairs of connected sockets that cannot be used to send to another: no datagrams."""
    return [
        _argument(0),
        (_EQUAL, 0, 4, _AF_UNIX),
        _argument(1),
        _statement(_AND, _SOCK_TYPE_MASK),
        (_EQUAL, 2, 0, _SOCK_STREAM),
        (_EQUAL, 1, 0, _SOCK_SEQPACKET),
        _refuse(errno.EAFNOSUPPORT),
        _PASS,
    ]


def _sockets(*, unix: bool = True) -> list[tuple[int, int, int, int]]:
    """Allow unix sockets, those of the internet's usual protocols, and the netlink one that lists interfaces.

    Without namespaces there are no unix sockets: their names would lead to the host's services.
    """
    internet = [_argument(2), *_any_of(_PROTOCOLS, _PASS), _refuse(errno.EPROTONOSUPPORT)]
    return [
        _argument(0),
        *([(_EQUAL, 0, 1, _AF_UNIX), _PASS] if unix else []),
        (_EQUAL, 1, 0, _AF_INET),
        (_EQUAL, 0, len(internet), _AF_INET6),
        *internet,
        (_EQUAL, 0, 2, _AF_NETLINK),
        _argument(2),
        (_EQUAL, 1, 0, _NETLINK_ROUTE),
        _refuse(errno.EAFNOSUPPORT),
        _PASS,
    ]
