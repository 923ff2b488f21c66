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
_LOAD, _EQUAL, _ABOVE_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000

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
_PRIO_USER, _IOPRIO_WHO_USER = 2, 3
_CLONE_NEW = 0x7E020000 | 0x80  # every CLONE_NEW* flag
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_PER_QUERY = 0xFFFFFFFF


def _statement(code: int, value: int) -> tuple[int, int, int, int]:
    return code, 0, 0, value


def _argument(index: int) -> tuple[int, int, int, int]:
    return _statement(_LOAD, 16 + 8 * index)  # the lower half, which is all the kernel looks at for these


def _refuse(number: int = errno.EPERM) -> tuple[int, int, int, int]:
    return _statement(_RETURN, _ERRNO | number)


_PASS = _statement(_RETURN, _ALLOW)


def _only_for(call: int, body: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Return `body`, which must end in a return, guarded by the system call's number."""
    return [(_EQUAL, 0, len(body), call), *body]


@functools.cache
def compile_filter(machine: str | None = None) -> bytes:
    """Return the filter as an array of `struct sock_filter`, as bwrap's `--seccomp` reads it.

    Args:
        machine: As `platform.machine()` names it; None means this machine.

    Raises:
        LookupError: there is no table for the architecture.
    """
    machine = machine or platform.machine()
    arch = AUDIT_ARCH[machine]
    column = list(AUDIT_ARCH).index(machine)
    program = [_statement(_LOAD, _ARCH), (_EQUAL, 1, 0, arch), _refuse(), _statement(_LOAD, _NR)]
    if machine == "x86_64":
        program += [(_ABOVE_EQUAL, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            program += _only_for(number, [_refuse()])
    # glibc falls back to clone, whose flags a filter can see.
    program += _only_for(_CLONE3[column], [_refuse(errno.ENOSYS)])
    program += _only_for(_CLONE[column], [_argument(0), (_ANY_BIT, 0, 1, _CLONE_NEW), _refuse(), _PASS])
    program += _only_for(
        _IOCTL[column], [_argument(1), (_EQUAL, 1, 0, _TIOCSTI), (_EQUAL, 0, 1, _TIOCLINUX), _refuse(), _PASS]
    )
    program += _only_for(
        _PERSONALITY[column], [_argument(0), (_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, _PER_QUERY), _refuse(), _PASS]
    )
    for calls, mode, flags in _MODES:
        call = calls[column]
        if call is not None:
            body = [_argument(mode), (_ANY_BIT, 0, 1, _SET_ID), _refuse(), _PASS]
            if flags is not None:  # without these the mode is not looked at, and may be anything
                body = [_argument(flags), (_ANY_BIT, 0, len(body) - 1, _CREATES), *body]
            program += _only_for(call, body)
    program += _only_for(_OPENAT2[column], [_refuse(errno.ENOSYS)])  # its mode lies in memory
    # The runner has the block's uid, so the kernel would let a block set its limits and starve it.
    new_limit = 16 + 8 * 2
    program += _only_for(
        _PRLIMIT[column],
        [
            _argument(0),
            (_EQUAL, 0, 5, _SUPERVISOR),
            _statement(_LOAD, new_limit),
            (_EQUAL, 0, 2, 0),
            _statement(_LOAD, new_limit + 4),
            (_EQUAL, 1, 0, 0),
            _refuse(),
            _PASS,
        ],
    )
    for numbers in _SCHEDULING:
        program += _only_for(numbers[column], [_argument(0), (_EQUAL, 0, 1, _SUPERVISOR), _refuse(), _PASS])
    for numbers, user in ((_SETPRIORITY, _PRIO_USER), (_IOPRIO_SET, _IOPRIO_WHO_USER)):
        body = [_argument(0), (_EQUAL, 2, 0, user), _argument(1), (_EQUAL, 0, 1, _SUPERVISOR), _refuse(), _PASS]
        program += _only_for(numbers[column], body)
    for call in (_SOCKET[column], _SOCKETPAIR[column]):
        program += _only_for(call, _sockets())
    program.append(_PASS)
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _sockets() -> list[tuple[int, int, int, int]]:
    """Allow unix and internet sockets, and the netlink protocol that lists interfaces; no other family."""
    return [
        _argument(0),
        (_EQUAL, 6, 0, _AF_UNIX),
        (_EQUAL, 5, 0, _AF_INET),
        (_EQUAL, 4, 0, _AF_INET6),
        (_EQUAL, 0, 2, _AF_NETLINK),
        _argument(2),
        (_EQUAL, 1, 0, _NETLINK_ROUTE),
        _refuse(errno.EAFNOSUPPORT),
        _PASS,
    ]
