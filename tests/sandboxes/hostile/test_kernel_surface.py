"""Section G: each call gets an error number, and the block goes on."""
# ruff: noqa: E501 - programs are shown as they run

from __future__ import annotations

import platform
import resource
from collections.abc import Mapping

import pytest

from sandboxes import Limits
from sandboxes.conformance.programs import ADMINISTRATION, administer
from sandboxes.isolation.seccomp import DENIED
from sandboxes.runner.block import block_rlimits
from tests.sandboxes.hostile.arena import Arena

COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), -1)
pytestmark = pytest.mark.skipif(COLUMN < 0, reason="no table of system calls for this architecture")


def call_all(calls: Mapping[str, tuple[int, ...]]) -> str:
    """Return a block that makes system calls and prints those that did not fail."""
    return f"""
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    for name, words in {calls!r}.items():
        ctypes.set_errno(0)
        result = libc.syscall(*(ctypes.c_long(word) for word in words))
        if result != -1:
            print(name, "gave", result)
        elif ctypes.get_errno() not in (1, 13, 22, 38, 97):  # EPERM EACCES EINVAL ENOSYS EAFNOSUPPORT
            print(name, "failed with", os.strerror(ctypes.get_errno()))
    print("done")
    """


async def test_denied_calls_get_an_error(arena: Arena) -> None:
    calls = {name: (numbers[COLUMN] or 0, 0, 0, 0, 0, 0, 0) for name, numbers in DENIED.items() if numbers[COLUMN]}
    assert len(calls) > 40
    assert (await arena.attack(call_all(calls))).stdout == "done\n"


async def test_what_the_kernel_has_for_all_together_is_refused(arena: Arena) -> None:
    # Huge pages that no limit sees, programs that the kernel compiles, leases on files that others open, keys.
    code = f"""
    import ctypes, fcntl, os, socket, struct
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    def attempt(name, *words):
        ctypes.set_errno(0)
        result = libc.syscall(*(ctypes.c_long(word) for word in words))
        print(name, "gave" if result != -1 else os.strerror(ctypes.get_errno()))
    attempt("mmap", {(9, 222)[COLUMN]}, 0, 0, 3, 0x40022, -1, 0)  # of no length, so it never works
    attempt("memfd_create", {(319, 279)[COLUMN]}, ctypes.addressof(ctypes.create_string_buffer(b"x")), 4)
    one, other = socket.socketpair()
    accept = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 1))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 1, ctypes.addressof(accept)))
    attempt("filter", {(54, 208)[COLUMN]}, one.fileno(), 1, 26, ctypes.addressof(program), 16)
    open("own", "w").close()
    file = os.open("own", os.O_RDONLY)
    attempt("lease", {(72, 25)[COLUMN]}, file, 1024, 0)
    attempt("notify", {(72, 25)[COLUMN]}, os.open(".", os.O_RDONLY), 1026, 1)
    attempt("key", {(16, 29)[COLUMN]}, file, 0xC0406618, ctypes.addressof(ctypes.create_string_buffer(64)))
    """
    refused = "Operation not permitted"
    expected = dict.fromkeys(("filter", "lease", "notify", "key"), refused)
    expected |= dict.fromkeys(("mmap", "memfd_create"), "Cannot allocate memory")
    result = await arena.attack(code)
    assert dict(line.split(" ", 1) for line in result.stdout.splitlines()) == expected


async def test_no_rank_before_the_supervisor(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever makes music may take such a rank, and hands that on to all that is started.
    monkeypatch.setattr(resource, "getrlimit", lambda number: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    pairs = block_rlimits({"limits": Limits().model_dump(), "process_cap": "watcher"})
    assert {(resource.RLIMIT_RTPRIO, 0), (resource.RLIMIT_NICE, 0)} <= set(pairs)
    monkeypatch.undo()
    code = """
    import os
    for attempt in (
        lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)),
        lambda: os.nice(-20),
        lambda: os.setpriority(os.PRIO_PROCESS, 0, -1),
    ):
        try:
            attempt()
            print("done")
        except OSError:
            pass
    """
    assert (await arena.attack(code)).stdout == ""


async def test_timers_of_the_user_are_not_used_up(arena: Arena) -> None:
    code = """
    import ctypes, time
    libc = ctypes.CDLL(None)
    event = (ctypes.c_int * 16)(0, 0, 10, 0)  # SIGUSR1
    timer = ctypes.c_void_p()
    count = 0
    while count < 20_000 and libc.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(timer)) == 0:
        count += 1
    print(count)
    """
    assert 0 < int((await arena.attack(code)).stdout) <= 4096


UNSHARE, CLONE, SETNS = (272, 97), (56, 220), (308, 268)
NEW = {
    "user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x08000000,
    "uts": 0x04000000, "cgroup": 0x02000000, "time": 0x80,
}  # fmt: skip


async def test_no_new_namespace(arena: Arena) -> None:
    calls: dict[str, tuple[int, ...]] = {f"unshare {name}": (UNSHARE[COLUMN], flag) for name, flag in NEW.items()}
    calls |= {f"clone {name}": (CLONE[COLUMN], flag | 17, 0, 0, 0, 0) for name, flag in NEW.items() if name != "time"}
    calls["clone3"] = (435, 0, 88)
    assert (await arena.attack(call_all(calls))).stdout == "done\n"


@pytest.mark.skipif(COLUMN != 0, reason="x86 only")
async def test_x32_calls_are_refused(arena: Arena) -> None:
    calls = {f"x32 {number}": (0x40000000 | number, 0, 0, 0) for number in (0, 39, 57, 101, 165, 272, 520, 545)}
    assert (await arena.attack(call_all(calls))).stdout == "done\n"


@pytest.mark.skipif(COLUMN != 0, reason="x86 only")
async def test_32_bit_calls_are_refused(arena: Arena) -> None:
    # mov eax, NUMBER; int 0x80; ret: getpid, ptrace, unshare
    code = """
    import ctypes, mmap, os
    for number in (20, 26, 310, 21):
        if os.fork() == 0:
            code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            code.write(b"\\xb8" + number.to_bytes(4, "little") + b"\\xcd\\x80\\xc3")
            at = ctypes.addressof(ctypes.c_char.from_buffer(code))
            os._exit(0 if ctypes.CFUNCTYPE(ctypes.c_int)(at)() < 0 else 1)
        print(os.wait()[1] != 256)
    """
    assert (await arena.attack(code)).stdout == "True\n" * 4


async def test_other_processes_are_out_of_reach(arena: Arena) -> None:
    # Even a child of its own: a debugger would get around the filter on old kernels.
    ptrace, readv, writev = (101, 117)[COLUMN], (310, 270)[COLUMN], (311, 271)[COLUMN]
    calls = {
        "ptrace attach": (ptrace, 16, 1, 0, 0),
        "ptrace seize": (ptrace, 0x4206, 1, 0, 0),
        "ptrace traceme": (ptrace, 0, 0, 0, 0),
        "process_vm_readv": (readv, 1, 0, 0, 0, 0, 0),
        "process_vm_writev": (writev, 1, 0, 0, 0, 0, 0),
    }
    assert (await arena.attack(call_all(calls))).stdout == "done\n"


async def test_terminal_input_cannot_be_forged(arena: Arena) -> None:
    # CVE-2017-5226
    code = """
    import ctypes, fcntl, os, pty
    for path in ("/dev/tty", "/dev/console", "/dev/tty0", "/dev/pts/0"):
        try:
            print(os.open(path, os.O_RDWR), path)
        except OSError:
            pass
    try:
        master, slave = os.openpty()
    except OSError:
        slave = os.open("/dev/null", os.O_RDWR)  # the filter comes before the question whether that is a terminal
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (0x5412, 0x541C, 0x5423, 0x5412 | 1 << 32):  # TIOCSTI, TIOCLINUX, TIOCSETD; junk is ignored
        print(libc.ioctl(slave, ctypes.c_ulong(request), ctypes.c_char_p(b"x")), ctypes.get_errno())
    """
    assert (await arena.attack(code)).stdout == "-1 1\n" * 4


async def test_set_uid_programs_give_nothing(arena: Arena) -> None:
    code = """
    import os, subprocess
    for path in ("/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/usr/bin/sudo", "/usr/bin/newgrp", "/usr/bin/chsh"):
        if os.path.exists(path):
            flags = os.statvfs(path).f_flag
            assert flags & os.ST_NOSUID or "NoNewPrivs:\t1" in open("/proc/self/status").read(), path
    print(subprocess.run(["sh", "-c", "exec id -u"], capture_output=True).stdout)
    try:
        os.setuid(0)
        print("root")
    except OSError:
        pass
    """
    result = await arena.attack(code)
    assert "b'0" not in result.stdout
    assert "root" not in result.stdout


@pytest.mark.parametrize("what", ADMINISTRATION)
async def test_administration_is_refused(arena: Arena, what: str) -> None:
    assert (await arena.attack(administer(what))).stdout == "-1 1\n"


async def test_control_groups_and_core_pattern_are_out_of_reach(arena: Arena) -> None:
    code = """
    import os
    paths = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sysrq-trigger",
             "/proc/sys/fs/binfmt_misc/register", "/proc/sys/vm/panic_on_oom", "/proc/1/oom_score_adj", "/proc/1/uid_map"]
    for top, _, names in os.walk("/sys/fs/cgroup"):
        paths += [os.path.join(top, name) for name in names if name in ("cgroup.procs", "release_agent", "tasks")]
    for path in paths:
        try:
            file = os.open(path, os.O_WRONLY)
            print("opened", path)
            os.close(file)
        except OSError:
            pass
    """
    with open("/proc/sys/kernel/core_pattern") as file:
        before = file.read()
    assert (await arena.attack(code)).stdout == ""
    with open("/proc/sys/kernel/core_pattern") as file:
        assert file.read() == before


async def test_way_out_through_a_directory_descriptor_is_closed(arena: Arena) -> None:
    code = f"""
    import os
    root = os.open("/", os.O_RDONLY)
    for _ in range(40):
        os.chdir("..")
    print(os.path.samestat(os.stat("."), os.stat("/")), os.path.samestat(os.stat("..", dir_fd=root), os.stat("/")))
    print(os.path.exists("." + {str(arena.canaries.file)!r}))
    """
    assert (await arena.attack(code)).stdout == "True True\nFalse\n"


async def test_filter_holds_in_every_descendant(arena: Arena) -> None:
    code = """
    import subprocess
    for command in ("unshare -U true", "mount -t tmpfs x /tmp", "chroot / true", "setsid -w unshare -m true"):
        print(subprocess.run(["sh", "-c", command], capture_output=True).returncode != 0)
    """
    assert (await arena.attack(code)).stdout == "True\n" * 4
