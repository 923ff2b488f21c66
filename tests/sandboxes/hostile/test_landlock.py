"""What only the Landlock tier has to hold by itself, since its blocks share ids, files and IPC with the machine."""
# ruff: noqa: E501 - programs are shown as they run

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes import (
    CodeBlock,
    Limits,
    LocalSandbox,
    SandboxStartError,
    SandboxUnavailable,
    ScriptExecutor,
    open_executor,
)
from sandboxes.isolation import landlock
from sandboxes.isolation.cgroups import usable_place
from sandboxes.isolation.hierarchy import PIDS
from sandboxes.isolation.interpreter import find_interpreter
from tests.sandboxes.backends import LANDLOCK, Backend, require_engine
from tests.sandboxes.hostile.arena import Arena


@pytest.fixture
def backend() -> Backend:
    require_engine(LANDLOCK.installed(), LANDLOCK.engine)
    return LANDLOCK


@pytest.fixture
def neighbour(arena: Arena) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user that is none of the sandbox's business, with a secret in its environment."""
    process = subprocess.Popen(["sleep", "300"], env={"TOKEN": arena.canaries.secret})
    yield process
    assert process.poll() is None, "a block has ended a process outside"
    process.kill()
    process.wait()


METADATA = {
    "chmod": "os.chmod(path, 0o666)",
    "chmod of what a link leads to": "os.symlink(path, 'l'); os.chmod('l', 0o666)",
    "chmod by a directory": "os.chmod(os.path.basename(path), 0o666, dir_fd=os.open(os.path.dirname(path), os.O_PATH))",
    "chmod after chdir": "os.chdir(os.path.dirname(path)); os.chmod(os.path.basename(path), 0o666)",
    "chmod by /proc": "os.chmod('/proc/self/fd/%d' % os.open(path, os.O_PATH), 0o666)",
    "fchmodat2": "file = os.open(path, os.O_PATH); check(libc.syscall(452, file, b'', 0o666, 0x1000))",
    "fchmod": "os.fchmod(os.open(path, os.O_RDONLY), 0o666)",
    "chmod of a visible file": "os.fchmod(os.open(sys.executable, os.O_RDONLY), 0o777)",
    "chmod of a visible directory": "os.chmod(os.path.dirname(os.__file__), 0o777)",
    "times of a visible file": "os.utime(os.open(os.__file__, os.O_RDONLY), (0, 0))",
    "chown": "os.chown(path, os.getuid(), os.getgid())",
    "lchown": "os.lchown(path, os.getuid(), os.getgid())",
    "times": "os.utime(path, (0, 0))",
    "times now": "os.utime(path)",
    "times of a link": "os.utime(path, (0, 0), follow_symlinks=False)",
    "utime": "check(libc.syscall(132, path.encode(), 0))",
    "attributes": "os.setxattr(path, 'user.x', b'x')",
    "attributes of a visible file": "os.setxattr(os.open(os.__file__, os.O_RDONLY), 'user.x', b'x')",
    "reading attributes": "os.listxattr(path)",
    "flags of a visible file": "fcntl.ioctl(os.open(os.__file__, os.O_RDONLY), 0x40086602, b'\\x40\\0\\0\\0\\0\\0\\0\\0')",
    "truncate": "os.truncate(path, 0)",
    "write": "open(path, 'a').write('x')",
    "read": "open(path).read()",
    "list": "os.listdir(os.path.dirname(path))",
    "link": "os.link(path, 'mine')",
    "link of a visible file": "os.link(os.__file__, 'mine')",
    "rename": "os.rename(path, 'mine')",
    "rename over": "open('mine', 'w').close(); os.rename('mine', path)",
    "exchange": "open('mine', 'w').close(); check(libc.syscall(316, -100, b'mine', -100, path.encode(), 2))",
    "unlink": "os.unlink(path)",
    "make beside": "os.mkdir(os.path.dirname(path) + '/new')",
    "link beside": "os.symlink('x', os.path.dirname(path) + '/new')",
    "execute": "os.execv('/proc/self/fd/%d' % os.open(path, os.O_PATH), ['x'])",
    "watch": "file = libc.inotify_init(); check(file); print('watching', libc.inotify_add_watch(file, os.path.dirname(path).encode(), 0xfff))",
    "mark": "check(libc.fanotify_init(0, 0))",
    "lease": "fcntl.fcntl(os.open(os.__file__, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)",
    "notify": "fcntl.fcntl(os.open(os.path.dirname(os.__file__), os.O_RDONLY), fcntl.F_NOTIFY, 1)",
}


@pytest.mark.parametrize("how", METADATA)
async def test_files_outside_stay_what_they_are(arena: Arena, how: str) -> None:
    shown = [Path(sys.executable).resolve(), Path(os.__file__), Path(os.__file__).parent]
    before = [path.stat()[:9] for path in shown], [path.stat().st_mtime_ns for path in shown]
    code = f"""
    import ctypes, errno, fcntl, os, sys
    libc = ctypes.CDLL(None, use_errno=True)
    def check(result):
        if result < 0: raise OSError(ctypes.get_errno(), "refused")
    path = HOST["secret_file"]
    try:
        {METADATA[how]}
        print("done")
    except OSError as error:
        print(errno.errorcode[error.errno])
    """
    result = await arena.attack(code)
    assert result.stdout.strip() in {"EPERM", "EACCES", "ENOTSUP", "EOPNOTSUPP", "EXDEV", "ENOSYS", "EBADF"}, (
        result.stdout
    )
    after = [path.stat()[:9] for path in shown], [path.stat().st_mtime_ns for path in shown]
    # Access times are the kernel's to change.
    assert [each[:7] + each[8:] for each in after[0]] == [each[:7] + each[8:] for each in before[0]]
    assert after[1] == before[1]


@pytest.mark.skipif(not os.path.exists("/etc/debian_version"), reason="Debian and its children have it")
async def test_what_pip_looks_for_can_be_read(arena: Arena) -> None:
    async with arena.open() as executor:
        result = await executor.run(CodeBlock("print(open('/etc/debian_version').read(), end='')"))
    assert result.stdout == Path("/etc/debian_version").read_text(), result


async def test_modes_and_times_of_its_own_files_can_be_set(arena: Arena) -> None:
    code = """
    import os, shutil, subprocess, tempfile
    for at in (".", tempfile.gettempdir()):
        os.chdir(at)
        open("a", "w").write("x")
        os.chmod("a", 0o640); os.utime("a", ns=(1_000_000_001, 2_000_000_002))
        shutil.copy2("a", "b")
        os.symlink("a", "l"); os.utime("l", (5, 6), follow_symlinks=False)
        file = os.open("a", os.O_RDONLY)
        os.fchmod(file, 0o600); os.utime(file, (3, 4))
        os.mkdir("d"); os.chmod("d", 0o700); os.chmod("a", 0o644, dir_fd=os.open(".", os.O_RDONLY))
        print(oct(os.stat("a").st_mode), os.stat("a").st_mtime, oct(os.stat("b").st_mode), os.stat("b").st_mtime_ns, os.lstat("l").st_mtime)
        os.utime("a"); print(abs(os.stat("a").st_mtime - __import__("time").time()) < 5)
        commands = "tar cf x.tar a b l && mkdir y && tar xpf x.tar -C y && cp -a y z && touch -h -d @7 z/l && touch -d @8 z/a && chmod +x a && echo '#!/bin/sh' >a && ./a"
        print(subprocess.run(commands, shell=True, capture_output=True, text=True).stderr, oct(os.stat("z/b").st_mode), os.stat("z/b").st_mtime, os.lstat("z/l").st_mtime, os.stat("z/a").st_mtime)
        os.chown("a", os.getuid(), os.getgid())
        shutil.rmtree("y")
    for call in (lambda: os.chmod("missing", 0o600), lambda: os.chmod("", 0o600), lambda: os.chmod("a" * 5000, 0o600), lambda: os.fchmod(77, 0o600)):
        try: call()
        except OSError as error: print(error.strerror)
    """
    line = "0o100644 4.0 0o100640 2000000002 6.0\nTrue\n 0o100640 2.0 7.0 8.0\n"
    errors = "No such file or directory\nNo such file or directory\nFile name too long\nBad file descriptor\n"
    assert (await arena.attack(code)).stdout == line * 2 + errors


async def test_target_that_is_swapped_meanwhile_stays_what_it_is(arena: Arena) -> None:
    code = """
    import os, threading, time
    end = time.monotonic() + 1.5
    def swap():
        while time.monotonic() < end:
            os.symlink(HOST["secret_file"], "new"); os.rename("new", "x")
            open("new", "w").close(); os.rename("new", "x")
    threading.Thread(target=swap).start()
    count = 0
    while time.monotonic() < end:
        for call in (lambda: os.chmod("x", 0o666), lambda: os.utime("x", (0, 0))):
            try:
                call(); count += 1
            except OSError:
                pass
    print(count > 10)
    """
    assert (await arena.attack(code)).stdout == "True\n"


async def test_locked_directory_that_is_swapped_is_no_way_to_change_a_mode(arena: Arena) -> None:
    # The runner opens locked directories to measure the workspace, which it does while the block runs.
    code = """
    import os, time
    end = time.monotonic() + 2
    while time.monotonic() < end:
        os.mkdir("d"); os.chmod("d", 0)
        os.rename("d", "e"); os.symlink(HOST["secret_file"], "d")
        os.unlink("d"); os.chmod("e", 0o700); os.rmdir("e")
    """
    await arena.attack(code)


SIGNALS = {
    "kill": "os.kill(pid, number)",
    "group": "os.killpg(os.getpgid(pid), number)",
    "everybody": "os.kill(-1, number)",
    "thread": "check(libc.syscall(200, pid, number))",
    "tgkill": "check(libc.syscall(234, pid, pid, number))",
    "queue": "info = (ctypes.c_int * 32)(number, 0, -1); check(libc.syscall(129, pid, number, info))",
    "descriptor": "signal.pidfd_send_signal(os.pidfd_open(pid), number)",
    "owner of a pipe": "import fcntl; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, pid); fcntl.fcntl(r, fcntl.F_SETSIG, number); fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC); os.write(w, b'x')",
}


@pytest.mark.parametrize("abi", [5, 7], ids=["asked", "scoped"])
@pytest.mark.parametrize("how", SIGNALS)
async def test_no_signal_gets_out(
    arena: Arena, neighbour: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, how: str, abi: int
) -> None:
    if abi > landlock.abi():
        pytest.skip("this kernel's Landlock does not scope signals")
    monkeypatch.setattr(landlock, "abi", lambda: abi)
    code = f"""
    import ctypes, os, signal
    libc = ctypes.CDLL(None, use_errno=True)
    def check(result):
        if result < 0: raise OSError(ctypes.get_errno(), "refused")
    for pid in ({neighbour.pid}, os.getppid(), HOST["pid"]):
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
            try:
                {SIGNALS[how]}
            except OSError:
                pass
    print("alive")
    """
    if how == "everybody":
        code = f"import os\nif os.fork() == 0:\n  import time; time.sleep(60)\nos.kill(-1, 9)\nprint(os.wait()[1] & 127)\nos.kill({neighbour.pid}, 0)"
        result = await arena.attack(code, verdict="failed")
        assert (result.stdout, "PermissionError" in result.stderr) == ("9\n", True)
        return
    assert (await arena.attack(code)).stdout == "alive\n"
    status = Path(f"/proc/{neighbour.pid}/stat").read_text().split()[2]
    assert status == "S", "it was stopped"


@pytest.mark.parametrize("abi", [1, 2, 3, 4, 5, 6])
async def test_older_landlock_holds_too(arena: Arena, monkeypatch: pytest.MonkeyPatch, abi: int) -> None:
    if abi > landlock.abi():
        pytest.skip("this kernel's Landlock is older")
    monkeypatch.setattr(landlock, "abi", lambda: abi)
    code = f"""
    import os, signal, subprocess
    outcomes = []
    for call in (
        lambda: open(HOST["secret_file"]), lambda: os.truncate(HOST["secret_file"], 0), lambda: os.link(HOST["secret_file"], "x"),
        lambda: os.rename(HOST["secret_file"], "x"), lambda: os.chmod(HOST["secret_file"], 0), lambda: os.kill(os.getppid(), 9),
        lambda: os.kill({os.getpid()}, 0), lambda: open("/proc/%d/environ" % HOST["pid"], "rb").read(),
    ):
        try: call(); outcomes.append("done")
        except OSError: outcomes.append("refused")
    print(outcomes.count("refused"), len(outcomes))
    child = subprocess.Popen(["sleep", "60"]); child.terminate(); print(child.wait())
    try: os.abort() if os.fork() == 0 else print(os.wait()[1] & 127)
    finally: pass
    open("a", "w").write("xx"); print(os.path.getsize("a"))
    """
    assert (await arena.attack(code)).stdout == "8 8\n-15\n6\n2\n"


async def test_processes_outside_are_closed(arena: Arena, neighbour: subprocess.Popen[bytes]) -> None:
    code = f"""
    import os
    for pid in ({neighbour.pid}, os.getppid(), HOST["pid"]):
        for name in ("mem", "environ", "maps", "smaps", "auxv", "fd", "fdinfo", "root", "cwd", "exe", "io", "stack", "syscall", "pagemap", "ns/mnt", "map_files"):
            for access in (os.readlink, os.listdir, lambda path: open(path, "rb").read(100), lambda path: open(path, "wb")):
                if (access, name) == (os.listdir, "fd"):
                    continue  # their numbers may be seen, not what they are
                try:
                    print(access("/proc/%d/%s" % (pid, name)), name)
                except OSError:
                    pass
    for name in ("oom_score_adj", "coredump_filter", "comm", "attr/current", "timerslack_ns", "clear_refs", "mem", "loginuid", "uid_map"):
        try:
            open("/proc/self/" + name, "wb")
            print("writable", name)
        except OSError:
            pass
    """
    assert (await arena.attack(code)).stdout == ""


IPC = {
    "System V memory": "check(libc.shmget(4242, 4096, 0o1666))",
    "removing System V memory": "check(libc.shmctl({segment}, 0, None))",
    "reading System V memory": "libc.shmat.restype = ctypes.c_long; check(libc.shmat({segment}, None, 0))",
    "semaphores": "check(libc.semget(4242, 1, 0o1666))",
    "messages": "check(libc.msgget(4242, 0o1666))",
    "message queue": "check(libc.syscall(240, b'x', 0o102, 0o600, 0))",
    "removing a message queue": "check(libc.syscall(241, b'x'))",
    "keys": "check(libc.syscall(250, 0, -3, 1))",
    "memory in /dev/shm": "open('/dev/shm/' + HOST['tag'], 'w')",
    "listing /dev/shm": "os.listdir('/dev/shm')",
    "terminals": "os.open('/dev/ptmx', os.O_RDWR)",
    "listing terminals": "os.listdir('/dev/pts')",
    "datagrams": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "raw datagrams": "socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)",
    "another address for a pair": "a, b = socket.socketpair(); a.connect(HOST['path'])",
    "sending elsewhere from a pair": "a, b = socket.socketpair(); a.sendmsg([b'x'], [], 0, HOST['path'])",
    "control groups": "os.listdir('/sys/fs/cgroup')",
    "the kernel's objects": "os.listdir('/sys')",
    "the kernel's debugging": "os.listdir('/sys/kernel/debug')",
    "priority of another": "os.setpriority(os.PRIO_PROCESS, HOST['pid'], 19)",
    "priority of a group": "os.setpriority(os.PRIO_PGRP, 0, 19)",
    "limits of another": "__import__('resource').prlimit(HOST['pid'], 7, (10, 10))",
    "cores of another": "os.sched_setaffinity(HOST['pid'], {{0}})",
}


@pytest.fixture
def segment() -> Iterator[int]:
    """A System V segment of the host's."""
    libc = ctypes.CDLL(None)
    made = libc.shmget(0, 4096, 0o1600)
    yield made
    assert libc.shmctl(made, 0, None) == 0, "it was removed by a block"


@pytest.mark.parametrize("how", IPC)
async def test_what_the_machine_shares_is_refused(arena: Arena, segment: int, how: str) -> None:
    code = f"""
    import ctypes, os, socket
    libc = ctypes.CDLL(None, use_errno=True)
    def check(result):
        if result < 0: raise OSError(ctypes.get_errno(), "refused")
    try:
        {IPC[how].format(segment=segment)}
        print("done")
    except OSError:
        print("refused")
    """
    assert (await arena.attack(code)).stdout == "refused\n"
    assert not Path("/dev/shm", arena.tag).exists()


async def test_filling_the_temporary_directory_is_disk(arena: Arena) -> None:
    code = "import tempfile\nwith open(tempfile.gettempdir() + '/a', 'wb', 0) as file:\n  while True: file.write(b'x' * (1 << 20))"
    async with arena.open(disk="16M", file_size="500M") as executor:
        await executor.run(CodeBlock("pass"))
        result = await arena.run(executor, code, verdict="disk")
        assert "limit is 16 MiB" in result.message
        await executor.reset()
        assert (
            await executor.run(CodeBlock("import os, tempfile; print(os.listdir(tempfile.gettempdir()))"))
        ).stdout == "[]\n"


async def test_temporary_directories_are_separate_and_removed(arena: Arena) -> None:
    code = "import os, tempfile; print(tempfile.gettempdir() == os.environ['HOME'], tempfile.gettempdir()); open(tempfile.gettempdir() + '/x', 'w')"
    async with arena.open() as executor, arena.row.open(workspace=arena.workspace) as other:
        printed = [(await each.run(CodeBlock(code))).stdout.split() for each in (executor, other)]
        assert [words[0] for words in printed] == ["True", "True"]
        mine, theirs = (words[1] for words in printed)
        assert mine != theirs
        assert (
            await arena.run(executor, f"import os\ntry: os.listdir({theirs!r})\nexcept OSError: print('closed')")
        ).stdout == "closed\n"
        await executor.restart()
        assert (
            await executor.run(CodeBlock("import os, tempfile; print(os.listdir(tempfile.gettempdir()))"))
        ).stdout == "[]\n"
    assert not Path(mine).exists()


async def test_chain_of_forks_is_ended(arena: Arena) -> None:
    # Each process forks and ends, so whoever is seen is gone already when it is to be killed.
    code = """
    import os
    for _ in range(4):
        if os.fork() == 0:
            os.setsid()
            while True:
                if os.fork() != 0: os._exit(0)
    import time; time.sleep(60)
    """
    await arena.attack(code, verdict="timeout", wall_time=1)


@pytest.mark.skipif(PIDS not in getattr(usable_place(), "parents", ()), reason="no control group counts processes here")
async def test_signals_interrupt_no_fork_where_a_control_group_counts(arena: Arena) -> None:
    code = """
    import os, signal
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without SA_RESTART, as dash has it
    for _ in range(20):
        for _ in range(20):
            if os.fork() == 0: os._exit(0)
        for _ in range(20): os.wait()
    print("done")
    """
    assert (await arena.attack(code)).stdout == "done\n"


async def test_descriptors_under_way_keep_no_other_sandbox_from_working(arena: Arena) -> None:
    # The kernel counts them for all processes of a user, and lets each send as long as they are fewer than it may open.
    code = """
    import array, os, socket, time
    kept = []
    try:
        while True:
            kept.append(socket.socketpair())
            kept[-1][0].sendmsg([b"x"], [(1, 1, array.array("i", [0] * 200))])
    except OSError as error:
        print(error.strerror, flush=True)
    time.sleep(60)
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # as it is where nobody has changed it
    try:
        async with arena.row.open() as running, arena.row.open() as executor:
            block = await arena.begin(running, arena.python(code))
            for _ in range(2):
                result = await executor.run(CodeBlock("print(1)"))
                assert (result.verdict, result.stdout) == ("ok", "1\n"), result
            await running.cancel()
            assert (await block).stdout == "Too many references: cannot splice\n"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_workspace_around_the_interpreter_is_refused() -> None:
    prefix = Path(find_interpreter().prefixes[0])
    with pytest.raises(SandboxUnavailable, match="cannot keep a part of it read-only"):
        async with ScriptExecutor(LocalSandbox(isolation="landlock", workspace=prefix)):
            pass


async def test_kernel_is_refused_with_what_to_use() -> None:
    with pytest.raises(SandboxUnavailable, match=r"install bubblewrap.*jupyter\+docker"):
        await open_executor("jupyter", isolation="landlock").start()


async def test_without_landlock_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    with pytest.raises(SandboxUnavailable, match="lsm=landlock"):
        async with ScriptExecutor(LocalSandbox(isolation="landlock")):
            pass


async def test_listener_of_somebody_else_is_refused(arena: Arena, tmp_path: Path) -> None:
    # As in a container whose runtime answers its calls: the kernel allows one listener above a process.
    program = f"""
import asyncio, ctypes, struct
from sandboxes import *
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
code = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7fff0000))
fprog = struct.pack("@HxxxxxxQ", 1, ctypes.addressof(code))
assert libc.syscall({317 if os.uname().machine == "x86_64" else 277}, 1, 8, fprog) > 0
async def main():
    async with open_executor("local", isolation="landlock"): pass
try: asyncio.run(main())
except SandboxStartError as error: print(error)
"""
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert "cannot be confined" in ran.stdout, ran.stderr
    assert issubclass(SandboxStartError, Exception)


async def test_all_of_roots_capabilities_are_gone(arena: Arena) -> None:
    code = """
    import os, subprocess
    root = os.getuid() == 0  # nobody else may empty the set that bounds what they have not
    print({line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap") and (root or "Bnd" not in line)})
    child = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    print({line.split()[1] for line in child.splitlines() if line.startswith("Cap") and (root or "Bnd" not in line)})
    for call in (lambda: os.mknod("d", 0o20666, os.makedev(1, 3)), lambda: os.setuid(12345), lambda: os.chown(".", 12345, 12345), lambda: os.nice(-19)):
        try:
            call()
            print("done")
        except OSError:
            pass
    """
    assert (await arena.attack(code)).stdout == "{'0000000000000000'}\n" * 2


async def test_executor_tells_what_is_shared(arena: Arena) -> None:
    async with arena.row.open(Limits(network=True)) as executor:
        assert executor.isolation.tier == "landlock"
        assert executor.isolation.mechanisms["network"] == "shared with this machine"
        assert "not hidden" in executor.isolation.mechanisms["filesystem"]
        code = "import socket\nserver = socket.create_server(('127.0.0.1', 0))\nsocket.create_connection(server.getsockname()).close()\nprint('up')\nsocket.socket(socket.AF_UNIX)"
        result = await executor.run(CodeBlock(code))
        assert (result.stdout, result.verdict) == ("up\n", "failed")
    with contextlib.suppress(FileNotFoundError):
        assert not stat.S_ISREG(os.stat("/dev/shm/" + arena.tag).st_mode)
