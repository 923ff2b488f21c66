"""What is tried: for each limit and each other aspect a program that breaks it if it can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sandboxes.doctor import judgements
from sandboxes.doctor.judgements import Judge
from sandboxes.types import Limits, Result

LIMITS = Limits(
    wall_time=20,
    memory="192M",
    processes=24,
    disk="32M",
    file_size="4M",
    open_files=256,
    output=4096,
)
"""Small numbers, of which a kernel and its threads can live."""
TIMES: Mapping[str, Limits] = {
    "wall_time": LIMITS.model_copy(update={"wall_time": 0.5}),
    "cpu_time": LIMITS.model_copy(update={"cpu_time": 0.2}),
}
"""For the probes of time alone, since everything else takes some."""


@dataclass(frozen=True)
class Probe:
    """One attempt.

    Attributes:
        aspect: What it is about.
        program: Python. `HOST` is what `Canaries.description` says, `LIMIT` the limit of the aspect's name.
        judge: What its result means.
        heavy: Whether it uses so much memory that one such probe at a time has to do.
        advisory: See `Finding`.
    """

    aspect: str
    program: str
    judge: Judge
    heavy: bool = False
    advisory: bool = False

    def disturbed(self, result: Result) -> bool:
        """Whether something else has ended the program, so that it proves nothing.

        While a workspace is being measured, what others write to the same disk can be taken for the block's; and
        where many processes share memory, a watcher that a busy machine keeps from looking closer believes the worst.
        """
        own = {"disk": ("disk", "file_size"), "memory": ("memory", "kernel memory")}
        return result.verdict in own and self.aspect not in own[result.verdict]


_QUIET = """
def attempt(call):
    try:
        return call()
    except OSError:
        return None
"""

TIME_PROBES = (
    Probe("wall_time", "import time\ntime.sleep(60)", judgements.verdict_is("timeout")),
    Probe(
        "cpu_time",
        "import os\nfor _ in range(2):\n    if os.fork() == 0:\n        while True: pass\nwhile True: pass",
        judgements.verdict_is("cpu_time"),
    ),
)
"""Each under the limits of its name in `TIMES`."""

KILL = Probe(
    "kill",
    """
import os, signal, sys
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (1, 2, 15):
            signal.signal(number, signal.SIG_IGN)
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)", HOST["tag"]])
    os._exit(0)
os.close(write)
os.read(read, 1)
print("tried")
""",
    judgements.left_behind,
)
"""Leaves a daemon in a session of its own; who comes after looks for its tag."""

STILL_THERE = """
import os
for name in os.listdir("/proc"):
    try:
        if name.isdigit() and int(name) != os.getpid():
            if HOST["tag"].encode() in open("/proc/%s/cmdline" % name, "rb").read():
                print("there")
    except OSError:
        pass
print("tried")
"""

PROBES = (
    Probe(
        "filesystem",
        _QUIET
        + """
import os
print(attempt(lambda: open(HOST["file"]).read()))
attempt(lambda: os.symlink(HOST["file"], "link"))
print(attempt(lambda: open("link").read()))
print(attempt(lambda: os.listdir(HOST["directory"])))
attempt(lambda: open(HOST["directory"] + "/new", "w").close())
attempt(lambda: open(HOST["file"], "a").write("changed"))
attempt(lambda: os.chmod(HOST["file"], 0o777))
attempt(lambda: os.unlink(HOST["file"]))
attempt(lambda: os.unlink("link"))
print("tried")
""",
        judgements.filesystem,
    ),
    Probe(
        "secrets",
        _QUIET
        + """
import os
found = [os.fsencode(value) for value in os.environ.values()]
for name in os.listdir("/proc"):
    if name.isdigit():
        for file in ("environ", "cmdline"):
            found.append(attempt(lambda: open("/proc/%s/%s" % (name, file), "rb").read()) or b"")
for text in found:
    at = text.find(HOST["marker"].encode())
    if at >= 0:
        print(text[at : at + 64].decode("ascii", "replace"))
print("tried")
""",
        judgements.secrets,
    ),
    Probe(
        "network",
        """
import socket
def knock(family, kind, address):
    try:
        with socket.socket(family, kind) as one:
            one.settimeout(0.5)
            one.connect(address)
            one.send(b"x")
    except OSError:
        pass
knock(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", HOST["port"]))
knock(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", HOST["udp"]))
knock(socket.AF_UNIX, socket.SOCK_STREAM, HOST["path"])
knock(socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + HOST["abstract"])
print("tried")
""",
        judgements.network,
    ),
    Probe(
        "other processes",
        _QUIET
        + """
import os
def look():
    for line in open("/proc/%d/maps" % HOST["pid"]):
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        if "[stack]" in line:
            with open("/proc/%d/mem" % HOST["pid"], "rb") as file:
                file.seek(start)
                data = file.read(end - start)
            at = data.find(HOST["marker"].encode())
            return data[at : at + 64].decode("ascii", "replace") if at >= 0 else None
if HOST["pid"] not in (1, os.getpid(), os.getppid()):
    print(attempt(look))
    attempt(lambda: os.kill(HOST["pid"], 9))
    import time; time.sleep(0.05)
print("tried")
""",
        judgements.other_processes,
    ),
    Probe(
        "privileges",
        """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
machine = os.uname().machine
NUMBERS = {"x86_64": (321, 425, 250, 323), "aarch64": (280, 425, 219, 282)}.get(machine)
CALLS = {
    "user namespace": lambda: libc.unshare(0x10000000),
    "mount": lambda: libc.mount(b"none", b"/nowhere", b"tmpfs", 0, None),
    "ptrace": lambda: libc.ptrace(0, 0, 0, 0),
    "chroot": lambda: libc.chroot(b"/"),
}
if NUMBERS:
    CALLS["bpf"] = lambda: libc.syscall(NUMBERS[0], 5, None, 0)
    CALLS["io_uring"] = lambda: libc.syscall(NUMBERS[1], 1, None)
    CALLS["keyring"] = lambda: libc.syscall(NUMBERS[2], 0, -3, 1)
    CALLS["userfaultfd"] = lambda: libc.syscall(NUMBERS[3], 0x80000000)
for name, call in CALLS.items():
    pid = os.fork()
    if pid == 0:
        refused = call() < 0 and ctypes.get_errno() in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOSPC)
        os.kill(os.getpid(), 9 if refused else 3)
        os._exit(1)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9):
        print(name.replace(" ", "-"))
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
if int(fields["CapEff"], 16):
    print("capabilities")
if fields["NoNewPrivs"].strip() != "1":
    print("new-privileges")
print("tried")
""",
        judgements.privileges,
    ),
    Probe(
        "processes",
        """
import os, time
children = []
try:
    while len(children) < 3 * LIMIT:
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        children.append(pid)
except OSError:
    pass
time.sleep(0.2)
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
print(len(children))
""",
        judgements.at_most(LIMITS.processes, "processes"),
    ),
    Probe(
        "open_files",
        """
import os
opened = []
try:
    while len(opened) < 3 * LIMIT:
        opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for file in opened:
    os.close(file)
print(len(opened))
""",
        judgements.at_most(LIMITS.open_files, "open files"),
    ),
    Probe("output", f"print('x' * {judgements.FLOOD - 1})", judgements.output(LIMITS.output)),
    Probe(
        "file_size",
        "with open('big', 'wb', 0) as file:\n    for _ in range(6): file.write(b'x' * (1 << 20))",
        judgements.file_size(LIMITS.file_size),
    ),
    Probe(
        "memory",
        """
import os, time
for _ in range(3):
    if os.fork() == 0:
        held = b"x" * (LIMIT // 2)
        time.sleep(60)
time.sleep(60)
""",
        judgements.verdict_is("memory"),
        heavy=True,
    ),
    Probe(
        "kernel memory",
        """
import os, socket, time
read, write = os.pipe()
for _ in range(14):
    try:
        pid = os.fork()
    except OSError:
        break
    if pid == 0:
        kept = []
        try:
            while True:
                one, other = socket.socketpair()
                kept += [one, other]
                one.setblocking(False)
                try:
                    while True: one.send(b"x" * 65536)
                except BlockingIOError:
                    pass
        except OSError:
            pass
        os.close(write)
        time.sleep(60)
os.close(write)
os.read(read, 1)  # until all have filled theirs
time.sleep(0.3)
""",
        judgements.kernel_memory,
        heavy=True,
        advisory=True,
    ),
    Probe(
        "disk",
        """
import time
for number in range(60):
    with open("part%d" % number, "wb") as file:
        file.write(b"x" * (1 << 20))
time.sleep(60)
""",
        judgements.verdict_is("disk"),
    ),
)
"""In the order they run in: what ends a kernel, and so its state, comes last."""
