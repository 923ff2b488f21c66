"""The filters' verdicts, call by call, on both architectures, by an interpreter of classic BPF."""

from __future__ import annotations

import errno
import platform
import struct

import pytest

from sandboxes.isolation.seccomp import (
    ASKED,
    ASKED_FORKS,
    ASKED_SIGNALS,
    AUDIT_ARCH,
    DENIED,
    SHARED,
    asked_calls,
    compile_filter,
    compile_shared_filter,
)

ALLOW, ASK = "allow", "ask"
MACHINES = list(AUDIT_ARCH)
AT_FDCWD = -100 & 0xFFFFFFFFFFFFFFFF
# More calls than the tables of the filters hold: (x86_64, aarch64), as the kernel's own tables have them.
NUMBERS = {
    "read": (0, 63),
    "openat": (257, 56),
    "openat2": (437, 437),
    "execve": (59, 221),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "accept4": (288, 242),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "mmap": (9, 222),
    "fallocate": (285, 47),
    "memfd_create": (319, 279),
    "setsockopt": (54, 208),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "clone3": (435, 435),
    "personality": (135, 92),
    "getxattr": (191, 8),
    "fgetxattr": (193, 10),
}


def verdict(program: bytes, machine: str, call: int, *arguments: int) -> str:
    """Run a filter over one system call; return `allow`, `ask` or the name of an error."""
    words = [argument & 0xFFFFFFFFFFFFFFFF for argument in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", call, AUDIT_ARCH[machine], 0, *words)
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:  # ld [k]
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:  # and #k
            accumulator &= value
        elif code == 0x06:  # ret #k
            action = value & 0xFFFF0000
            if action == 0x00050000:
                return errno.errorcode[value & 0xFFFF]
            return {0x7FFF0000: ALLOW, 0x7FC00000: ASK}[action]
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += if_true if holds else if_false


def number(name: str, machine: str) -> int | None:
    column = MACHINES.index(machine)
    tables = (NUMBERS, DENIED, {name: calls for name, (calls, _) in SHARED.items()}, ASKED, ASKED_FORKS, ASKED_SIGNALS)
    return next(table[name] for table in tables if name in table)[column]


CASES: list[tuple[str, tuple[int, ...], str, str]] = [
    # name, arguments, verdict with the network off, with the network on
    ("read", (), ALLOW, ALLOW),
    ("execve", (), ALLOW, ALLOW),
    ("socket", (1, 1, 0), "EAFNOSUPPORT", "EAFNOSUPPORT"),
    ("socket", (2, 1, 0), "EAFNOSUPPORT", ALLOW),
    ("socket", (10, 2, 0), "EAFNOSUPPORT", ALLOW),
    ("socket", (16, 3, 0), "EAFNOSUPPORT", ALLOW),
    ("socket", (16, 3, 9), "EAFNOSUPPORT", "EAFNOSUPPORT"),
    ("socket", (40, 1, 0), "EAFNOSUPPORT", "EAFNOSUPPORT"),
    ("socket", (17, 3, 0), "EAFNOSUPPORT", "EAFNOSUPPORT"),
    ("socketpair", (1, 1, 0), ALLOW, ALLOW),
    ("socketpair", (1, 1 | 0o2004000, 0), ALLOW, ALLOW),
    ("socketpair", (1, 5, 0), ALLOW, ALLOW),
    ("socketpair", (1, 2, 0), "EAFNOSUPPORT", "EAFNOSUPPORT"),  # datagrams can be sent to anybody
    ("socketpair", (1, 3, 0), "EAFNOSUPPORT", "EAFNOSUPPORT"),  # which the kernel takes for datagrams
    ("socketpair", (2, 1, 0), "EAFNOSUPPORT", "EAFNOSUPPORT"),
    ("connect", (3, 4096, 16), "EPERM", ALLOW),
    ("bind", (3, 4096, 16), "EPERM", ALLOW),
    ("accept4", (3, 0, 0, 0), ALLOW, ALLOW),
    *[("fcntl", (3, command), "EPERM", "EPERM") for command in (8, 10, 15, 1024, 1026)],
    *[("fcntl", (3, command), ALLOW, ALLOW) for command in (0, 1, 2, 3, 4, 6, 7, 9, 11, 1025, 1030, 1031, 1033)],
    *[("ioctl", (3, command), "EPERM", "EPERM") for command in (0x8901, 0x8902, 0x40086602, 0x401C5820)],
    *[("ioctl", (3, command), "EPERM", "EPERM") for command in (0x800C6613, 0x40806685)],
    *[("ioctl", (3, command), ALLOW, ALLOW) for command in (0x5401, 0x5413, 0x541B, 0x80086601)],
    ("prlimit64", (0, 7, 4096, 0), ALLOW, ALLOW),
    ("prlimit64", (1234, 7, 0, 4096), ALLOW, ALLOW),
    ("prlimit64", (1234, 7, 4096, 0), "EPERM", "EPERM"),
    ("prlimit64", (1234, 7, 1 << 32, 0), "EPERM", "EPERM"),
    ("sched_setaffinity", (0, 8, 4096), ALLOW, ALLOW),
    ("sched_setaffinity", (1, 8, 4096), "EPERM", "EPERM"),
    ("setpriority", (0, 0, 5), ALLOW, ALLOW),
    ("setpriority", (0, 1234, 5), "EPERM", "EPERM"),
    ("setpriority", (1, 0, 5), "EPERM", "EPERM"),
    ("setpriority", (2, 0, 5), "EPERM", "EPERM"),
    ("ioprio_set", (1, 0, 0), ALLOW, ALLOW),
    ("ioprio_set", (3, 0, 0), "EPERM", "EPERM"),
    ("truncate", (4096, 0), ALLOW, ALLOW),
    ("ftruncate", (3, 0), ALLOW, ALLOW),
    ("getxattr", (4096, 0, 0), "ENOTSUP", "ENOTSUP"),
    ("fgetxattr", (3, 0, 0), ALLOW, ALLOW),
    ("inotify_init1", (0,), "ENOSYS", "ENOSYS"),
    *[(name, (3, 0, 0, 0), ASK, ASK) for name in (*ASKED, *ASKED_FORKS)],
    *[(name, (1234, 9), ALLOW, ALLOW) for name in ASKED_SIGNALS],
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("network", [False, True], ids=["network off", "network on"])
def test_shared_filter(machine: str, network: bool) -> None:
    program = compile_shared_filter(network, 7, machine)
    for name, arguments, off, on in CASES:
        call = number(name, machine)
        if call is not None:
            assert verdict(program, machine, call, *arguments) == (on if network else off), (name, arguments)
    for name, (_, refused) in SHARED.items():
        call = number(name, machine)
        if call is not None:
            assert verdict(program, machine, call) == errno.errorcode[refused], name


@pytest.mark.parametrize("machine", MACHINES)
def test_shared_filter_makes_up_for_an_older_landlock(machine: str) -> None:
    old, middle, new = (compile_shared_filter(False, abi, machine) for abi in (2, 5, 6))
    truncate = number("truncate", machine)
    assert truncate is not None
    assert [verdict(program, machine, truncate, 4096, 0) for program in (old, middle, new)] == ["EPERM", ALLOW, ALLOW]
    for name in ASKED_SIGNALS:
        call = number(name, machine)
        assert call is not None
        assert [verdict(program, machine, call, 1, 9) for program in (old, middle, new)] == [ASK, ASK, ALLOW], name
    assert set(asked_calls(5, machine).values()) - set(asked_calls(6, machine).values()) == set(ASKED_SIGNALS)


@pytest.mark.parametrize("machine", MACHINES)
def test_shared_filter_leaves_forks_alone_where_a_group_counts(machine: str) -> None:
    program = compile_shared_filter(False, 7, machine, ask_forks=False)
    for name in ASKED_FORKS:
        call = number(name, machine)
        if call is not None:
            assert verdict(program, machine, call, 17, 0) == ALLOW
    asked = set(asked_calls(7, machine).values()) - set(asked_calls(7, machine, ask_forks=False).values())
    assert asked == {name for name in ASKED_FORKS if number(name, machine) is not None}


@pytest.mark.parametrize("machine", MACHINES)
def test_common_filter(machine: str) -> None:
    program = compile_filter(machine)
    for name in DENIED:
        call = number(name, machine)
        if call is not None:
            assert verdict(program, machine, call) == "EPERM", name
    cases: list[tuple[str, tuple[int, ...], str]] = [
        ("read", (), ALLOW),
        ("clone", (0x1200011,), ALLOW),
        ("clone", (0x10000000 | 17,), "EPERM"),
        ("clone3", (), "ENOSYS"),
        ("openat2", (), "ENOSYS"),
        ("ioctl", (0, 0x5412), "EPERM"),
        ("ioctl", (0, 0x5412 | 1 << 32), "EPERM"),
        ("ioctl", (0, 0x5423), "EPERM"),
        ("ioctl", (0, 0x5413), ALLOW),
        *[("ioctl", (3, command), "EPERM") for command in (0xC0506617, 0xC0406618, 0xC0406619)],
        *[("ioctl", (3, command), "EPERM") for command in (0x40305828, 0x4030582A, 0x40305839)],
        *[("fallocate", (3, mode, 0, 1 << 40), "ENOTSUP") for mode in (0, 1, 0x10, 0x11, 0x41)],
        *[("fallocate", (3, mode, 0, 1 << 40), ALLOW) for mode in (3, 8, 0x20)],
        *[("fcntl", (3, command), "EPERM") for command in (1024, 1026, 1040)],
        *[("fcntl", (3, command), ALLOW) for command in (0, 1, 2, 3, 4, 6, 8, 1025, 1030, 1031, 1033)],
        *[("setsockopt", (3, 1, option), "EPERM") for option in (26, 50, 51, 52, 60)],
        ("setsockopt", (3, 1, 7), ALLOW),
        ("setsockopt", (3, 6, 26), ALLOW),
        ("mmap", (0, 4096, 3, 0x22, -1, 0), ALLOW),
        ("mmap", (0, 4096, 3, 0x40022, -1, 0), "ENOMEM"),
        ("mmap", (0, 4096, 3, 0x40022 | 21 << 26, -1, 0), "ENOMEM"),
        ("memfd_create", (4096, 3), ALLOW),
        ("memfd_create", (4096, 5), "ENOMEM"),
        ("shmget", (0, 4096, 0o1600), ALLOW),
        ("shmget", (0, 4096, 0o5600), "ENOMEM"),
        ("personality", (0xFFFFFFFF,), ALLOW),
        ("personality", (0x40000,), "EPERM"),
        ("socket", (1, 2, 0), ALLOW),
        ("socket", (40, 1, 0), "EAFNOSUPPORT"),
        ("socket", (16, 3, 0), ALLOW),
        ("socket", (16, 3, 12), "EAFNOSUPPORT"),
        *[("socket", (family, 1, protocol), ALLOW) for family in (2, 10) for protocol in (0, 1, 6, 17, 58, 136, 262)],
        *[("socket", (family, 1, 132), "EPROTONOSUPPORT") for family in (2, 10)],
        ("openat", (AT_FDCWD, 0, 0o100, 0o4755), "EPERM"),
        ("openat", (AT_FDCWD, 0, 0o100, 0o755), ALLOW),
        ("openat", (AT_FDCWD, 0, 0, 0o4755), ALLOW),
        ("fchmodat", (AT_FDCWD, 0, 0o4755), "EPERM"),
        ("prlimit64", (0, 7, 4096, 0), ALLOW),
        ("prlimit64", (1, 7, 0, 4096), ALLOW),
        # A thread of the supervisor's is as good as the supervisor.
        *[("prlimit64", (anybody, 7, new, 0), "EPERM") for anybody in (1, 2, 1234) for new in (4096, 1 << 32)],
    ]
    for name, arguments, expected in cases:
        call = number(name, machine)
        assert call is not None
        assert verdict(program, machine, call, *arguments) == expected, (name, arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_same_call_gets_the_same_verdict_on_both_architectures(machine: str) -> None:
    for build in (compile_filter, lambda machine: compile_shared_filter(False, 7, machine)):
        ours, theirs = build(machine), build("x86_64")
        for name in (*NUMBERS, *DENIED, *SHARED, *ASKED, *ASKED_FORKS, *ASKED_SIGNALS):
            here, there = number(name, machine), number(name, "x86_64")
            if here is not None and there is not None:
                for arguments in ((), (1, 1), (0, 0x5412), (3, 0x40086602), (1, 2, 0o4755, 0o4755)):
                    assert verdict(ours, machine, here, *arguments) == verdict(theirs, "x86_64", there, *arguments), (
                        name
                    )


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_are_refused(machine: str) -> None:
    other = next(each for each in MACHINES if each != machine)
    for program in (compile_filter(machine), compile_shared_filter(True, 7, machine)):
        assert verdict(program, other, 0) == "EPERM"
        if machine == "x86_64":
            assert verdict(program, machine, 0x40000000) == "ENOSYS"


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(LookupError):
        compile_shared_filter(False, 7, "riscv64")


def test_this_machine_is_the_default() -> None:
    if platform.machine() in AUDIT_ARCH:
        assert compile_filter() == compile_filter(platform.machine())
