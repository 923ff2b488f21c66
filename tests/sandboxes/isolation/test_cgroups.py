"""Control groups: where they can be made, what they hold and count, and that they go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandboxes import CodeBlock, Executor, Limits, open_executor
from sandboxes.isolation import cgroups
from sandboxes.isolation.cgroups import HEADROOM, ControlGroup, remove_abandoned, remove_stale, usable_place
from sandboxes.isolation.hierarchy import CPU, MEMORY, OWNERS, PIDS, PREFIX, Place, find_place
from tests.sandboxes.backends import LOCAL, local_runner, require_engine

PLACE = usable_place()
needs_groups = pytest.mark.skipif(PLACE is None, reason="this user may make no control groups here")


class Hierarchy:
    """The files of a made-up version 2 hierarchy, and /proc files that say where we are in it.

    Only what is decided from files can be tested on it; the kernel's part is tested on the real thing below, in the
    version that this machine has.
    """

    def __init__(self, directory: Path, own: str, root: str = "/") -> None:
        self.mount = directory / "a mount"
        self.proc = directory / "proc"
        self.proc.mkdir()
        mount = str(self.mount).replace(" ", "\\040")
        (self.proc / "mountinfo").write_text(f"30 23 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n")
        (self.proc / "cgroup").write_text(f"0::{own}\n")

    def group(self, path: str, *, on: str = "", offered: str = "memory pids", procs: tuple[int, ...] = ()) -> Path:
        directory = self.mount / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in procs))
        (directory / "cgroup.controllers").write_text(offered + "\n")
        (directory / "cgroup.subtree_control").write_text(on + "\n")
        if path:
            (directory / "cgroup.type").write_text("domain\n")
        return directory


def test_nearest_group_that_passes_controllers_on_is_taken(tmp_path: Path) -> None:
    tree = Hierarchy(tmp_path, "/user.slice/app.slice/terminal.scope")
    tree.group("", on="memory pids")
    tree.group("user.slice", on="memory pids cpu")
    apps = tree.group("user.slice/app.slice", on="cpu memory pids")
    tree.group("user.slice/app.slice/terminal.scope", procs=(os.getpid(), 1))
    assert find_place(tree.proc) == Place(2, dict.fromkeys((MEMORY, PIDS, CPU), apps))


def test_group_without_the_right_to_move_into_it_is_not_taken(tmp_path: Path) -> None:
    tree = Hierarchy(tmp_path, "/session.scope")
    (tree.group("", on="memory pids") / "cgroup.procs").unlink()
    tree.group("session.scope", procs=(1,))
    assert find_place(tree.proc) is None


def test_own_group_is_divided_if_nobody_else_is_in_it(tmp_path: Path) -> None:
    tree = Hierarchy(tmp_path, "/delegated.scope")
    (tree.group("") / "cgroup.procs").unlink()
    child = subprocess.Popen(["sleep", "60"])
    try:
        scope = tree.group("delegated.scope", procs=(os.getpid(), child.pid))
        place = find_place(tree.proc)
        assert place == Place(2, dict.fromkeys((MEMORY, PIDS, CPU), scope), divide=True)
        group = ControlGroup.create(place, Limits(memory="100M", processes=7))
        (made,) = (path for path in scope.glob(f"{PREFIX}*") if not path.name.endswith("-owner"))
        (leaf,) = scope.glob(f"{PREFIX}*-owner")
    finally:
        child.kill()
        child.wait()
    # On plain files, each process that is moved overwrites the one before.
    assert (leaf / "cgroup.procs").read_text() == str(child.pid)
    assert (scope / "cgroup.subtree_control").read_text() == "+memory +pids"
    (made / "memory.current").write_text("5000\n")
    group.settle()
    assert (made / "memory.max").read_text() == str((100 << 20) + HEADROOM + 5000)
    (made / "memory.current").unlink()
    assert (made / "pids.max").read_text() == "8"
    first = group.open_files()
    assert set(first) == {"most"}  # a kernel would have made the others
    for name, content in (("memory.events", "oom_kill 3\n"), ("memory.current", "1\n"), ("cpu.stat", "usage_usec 5\n")):
        (made / name).write_text(content)
    opened = group.open_files()
    assert {name: os.read(file, 99) for name, file in opened.items()} == {
        "events": b"oom_kill 3\n",
        "usage": b"1\n",
        "cpu": b"usage_usec 5\n",
        "most": b"8",
    }
    for file in (*first.values(), *opened.values()):
        os.close(file)


def test_divided_group_is_not_divided_again(tmp_path: Path) -> None:
    tree = Hierarchy(tmp_path, f"/delegated.scope/{PREFIX}1-2-3{OWNERS}")
    tree.group("").joinpath("cgroup.procs").unlink()
    scope = tree.group("delegated.scope", on="memory pids")
    tree.group(f"delegated.scope/{PREFIX}1-2-3{OWNERS}", procs=(os.getpid(),))
    assert find_place(tree.proc) == Place(2, dict.fromkeys((MEMORY, PIDS, CPU), scope))


def test_what_a_killed_owner_has_started_for_itself_lives_on(tmp_path: Path) -> None:
    namespace = os.stat("/proc/self/ns/pid").st_ino
    child = subprocess.Popen(["sleep", "60"])
    try:
        for end, lives in ((OWNERS, True), ("-0123abcd", False)):
            group = tmp_path / f"{PREFIX}{namespace}-{2**22 + 1}-1{end}"  # no process has such an id
            group.mkdir()
            (group / "cgroup.kill").mkdir()  # as where the kernel has no such file yet
            (group / "cgroup.procs").write_text(f"{child.pid}\n")
            remove_stale(tmp_path)
            if not lives:
                child.wait(5)
            assert (child.poll() is None) == lives
    finally:
        child.kill()
        child.wait()


def test_own_group_is_left_alone_if_others_are_in_it(tmp_path: Path) -> None:
    tree = Hierarchy(tmp_path, "/session.scope")
    (tree.group("") / "cgroup.procs").unlink()
    tree.group("session.scope", procs=(os.getpid(), os.getppid()))
    assert find_place(tree.proc) is None


def test_group_that_lacks_a_controller_is_not_taken(tmp_path: Path) -> None:
    tree = Hierarchy(tmp_path, "/delegated.scope")
    tree.group("", offered="cpu io")
    tree.group("delegated.scope", offered="pids", procs=(os.getpid(),))
    assert find_place(tree.proc) is None


def test_container_sees_its_part_under_the_whole_ones_name(tmp_path: Path) -> None:
    tree = Hierarchy(tmp_path, "/docker/abc", root="/docker/abc")
    own = tree.group("", procs=(os.getpid(),), on="memory pids")
    (own / "cgroup.type").write_text("domain\n")
    assert find_place(tree.proc) == Place(2, dict.fromkeys((MEMORY, PIDS, CPU), own))


def test_version_1_is_taken_where_version_2_has_no_controllers(tmp_path: Path) -> None:
    tree = Hierarchy(tmp_path, "/")
    tree.group("", offered="")
    lines = (tree.proc / "mountinfo").read_text()
    for number, name in enumerate(("memory", "pids", "cpu,cpuacct", "name=systemd")):
        mount = tmp_path / f"v1-{number}"
        mount.mkdir()
        (mount / "cgroup.procs").touch()
        lines += f"4{number} 23 0:3{number} / {mount} rw - cgroup cgroup rw,{name}\n"
    (tree.proc / "mountinfo").write_text(lines)
    (tree.proc / "cgroup").write_text("4:memory:/a\n3:pids:/\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n")
    mounts = {MEMORY: tmp_path / "v1-0", PIDS: tmp_path / "v1-1", CPU: tmp_path / "v1-2"}
    assert find_place(tree.proc) == Place(1, mounts)


def test_what_a_group_cannot_be_entered_by_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tasks").touch()
    (tmp_path / "pids").mkdir()
    group = ControlGroup(1, {MEMORY: tmp_path, PIDS: tmp_path / "pids"})
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        group.open_files()
    assert os.listdir("/proc/self/fd") == before


def groups() -> list[Path]:
    """Return the groups of this process, and of those it knows to be gone."""
    assert PLACE is not None
    return [path for parent in set(PLACE.parents.values()) for path in parent.glob(f"{PREFIX}*")]


def own_groups() -> list[Path]:
    return [path for path in groups() if path.name.split("-")[1] == str(os.getpid())]


@needs_groups
@pytest.mark.parametrize("isolation", ["bwrap", "none"])
class TestRealGroup:
    """Of the version that this machine has."""

    def open(self, isolation: str, **limits: Any) -> Executor:
        require_engine(LOCAL.installed(), LOCAL.engine)
        return open_executor("local", limits=Limits(**{"wall_time": 20.0, **limits}), isolation=isolation)

    async def test_holds_the_runner_and_goes_with_it(self, isolation: str) -> None:
        before = set(own_groups())
        async with self.open(isolation) as executor:
            made = set(own_groups()) - before
            assert made
            for path in made:
                assert str(local_runner(executor)) in (path / "cgroup.procs").read_text().split()
                for name in ("memory.limit_in_bytes", "memory.max"):
                    if (path / name).exists():
                        most = int((path / name).read_text())
                        assert HEADROOM < most - executor.limits.memory < HEADROOM + (32 << 20)
        assert set(own_groups()) == before

    async def test_says_so(self, isolation: str) -> None:
        async with self.open(isolation) as executor:
            mechanisms = executor.isolation.mechanisms
        assert mechanisms["memory"] == mechanisms["peak_memory"] == "memory control group and runner's watcher"
        assert mechanisms["processes"] == "pids control group"
        assert mechanisms["cpu_time"] == "control group's CPU time, runner's watcher and RLIMIT_CPU"

    @pytest.mark.parametrize("domain", ["AF_UNIX", "AF_INET"])
    async def test_buffers_of_sockets_are_memory(self, isolation: str, domain: str) -> None:
        code = f"""
import os, socket
kept = []
listener = socket.create_server(("127.0.0.1", 0))
for _ in range(10):
    if os.fork() == 0: break
for _ in range(400):
    if {domain == "AF_UNIX"}:
        one, other = socket.socketpair()
    else:
        one = socket.create_connection(listener.getsockname())
        other = listener.accept()[0]
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    kept += [one, other]
    one.setblocking(False)
    try:
        while True: one.send(b"x" * 65536)
    except BlockingIOError:
        pass
import time; time.sleep(30)
"""
        async with self.open(isolation, memory="64M", open_files=4096) as executor:
            for _ in range(2):
                result = await executor.run(CodeBlock(code))
                assert (result.verdict, "limit is 64 MiB" in result.message) == ("memory", True), result
            assert (await executor.run(CodeBlock("print(1)"))).stdout == "1\n"

    @pytest.mark.timeout(180)  # of a disk that others keep busy: six seconds if nobody does
    async def test_names_and_inodes_of_many_files_are_not(self, isolation: str) -> None:
        code = "import os\nfor i in range(60000): os.close(os.open(str(i), os.O_CREAT))\nimport time; time.sleep(0.2)"
        async with self.open(isolation, memory="32M", wall_time=150) as executor:
            assert (await executor.run(CodeBlock(code))).verdict == "ok"
            assert (await executor.run(CodeBlock("print(1)"))).stdout == "1\n"

    async def test_kernel_takes_the_block_and_never_the_runner(self, isolation: str) -> None:
        code = "print(open('/proc/self/oom_score_adj').read())"
        async with self.open(isolation) as executor:
            assert (await executor.run(CodeBlock(code))).stdout.strip() == "1000"
            await executor.ping()  # while the runner forks a worker ahead, it takes that rank for the moment
            (own,) = {Path(f"/proc/{pid}/oom_score_adj").read_text() for pid in (local_runner(executor), os.getpid())}
            assert int(own) < 1000

    async def test_cpu_time_counts_children_that_nobody_waits_for(self, isolation: str) -> None:
        code = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(200):
    if os.fork() == 0:
        end = time.process_time() + 0.03
        while time.process_time() < end: pass
        os._exit(0)
    time.sleep(0.06)
"""
        async with self.open(isolation, cpu_time=0.5) as executor:
            result = await executor.run(CodeBlock(code))
            assert result.verdict == "cpu_time"
            assert result.cpu_time is not None
            assert 0.5 <= result.cpu_time < 1.5

    async def test_peak_is_that_of_the_tree_and_of_this_block(self, isolation: str) -> None:
        hold = "import sys; held = b'x' * (60 << 20); print(1, flush=True); sys.stdin.read()"
        code = f"""
import subprocess, sys, time
pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
both = [subprocess.Popen([sys.executable, "-c", {hold!r}], **pipes) for _ in range(2)]
for each in both: each.stdout.readline()
time.sleep(0.3)  # cached files hide the kernel's own peak, and then only a sample sees this
for each in both: each.communicate()
with open("file", "wb") as file:
    for _ in range(150): file.write(b"x" * (1 << 20))
"""
        async with self.open(isolation) as executor:
            peak = (await executor.run(CodeBlock(code))).peak_memory
            assert peak is not None
            assert 100 << 20 < peak < 165 << 20
            after = (await executor.run(CodeBlock("pass"))).peak_memory
            assert after is not None
            assert after < 40 << 20


@needs_groups
async def test_close_ends_what_hid_from_a_runner_that_is_gone() -> None:
    code = """
import os, signal, time
runner = os.getppid()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(0.2)
        os.kill(runner, signal.SIGKILL)
    time.sleep(600)
time.sleep(600)
"""
    below: set[psutil.Process] = set()
    async with open_executor("local", isolation="none", limits=Limits(wall_time=20)) as executor:
        runner = psutil.Process(local_runner(executor))
        result = await executor.run(
            CodeBlock(code), on_output=lambda stream, data: below.update(runner.children(recursive=True))
        )
        assert result.verdict == "lost"
    assert len(below) >= 3
    assert not [each for each in below if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


OWNER = """
import asyncio, signal, sys
from sandboxes import CodeBlock, Limits, open_executor
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
async def main():
    async with open_executor("local", isolation=sys.argv[1], limits=Limits(wall_time=300)) as executor:
        print("open", flush=True)
        await executor.run(CodeBlock("import time; time.sleep(300)"))
asyncio.run(main())
"""


@needs_groups
@pytest.mark.parametrize("isolation", ["bwrap", "none"])
@pytest.mark.parametrize("by", ["next start", "clean"])
async def test_groups_of_a_killed_owner_go(isolation: str, by: str) -> None:
    require_engine(LOCAL.installed(), LOCAL.engine)
    owners = [subprocess.Popen([sys.executable, "-c", OWNER, isolation], stdout=subprocess.PIPE) for _ in range(2)]
    for owner in owners:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"open\n"
    dead, alive = ([path for path in groups() if path.name.split("-")[1] == str(owner.pid)] for owner in owners)
    assert dead
    assert alive
    owners[0].kill()
    owners[0].wait()
    try:
        if by == "clean":
            assert {str(path) for path in dead} <= set(remove_abandoned())
        else:
            async with open_executor("local"):
                pass
        assert not [path for path in dead if path.exists()]
        assert all((path / "cgroup.procs").read_text().split() for path in alive), "somebody else's was touched"
    finally:
        owners[1].send_signal(signal.SIGINT)
        owners[1].wait()
        for owner in owners:
            assert owner.stdout is not None
            owner.stdout.close()
    end = time.monotonic() + 5
    while any(path.exists() for path in alive) and time.monotonic() < end:
        time.sleep(0.02)
    assert not [path for path in alive if path.exists()]


@needs_groups
@pytest.mark.parametrize(
    "name", [f"{PREFIX}1-999999-1-aa", f"{PREFIX}somebody", f"{PREFIX}a-b-c-d", f"other.{cgroups._namespace()}-9-9-aa"]
)
def test_groups_that_may_be_alive_elsewhere_stay(name: str) -> None:
    assert PLACE is not None
    path = PLACE.parents[MEMORY] / name
    path.mkdir()
    try:
        remove_abandoned()
        assert path.exists()
    finally:
        path.rmdir()


@needs_groups
async def test_place_that_turns_out_useless_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    require_engine(LOCAL.installed(), LOCAL.engine)
    executor = open_executor("local")
    assert "control group" in executor.isolation.mechanisms["memory"]
    sandbox = executor.sandbox  # type: ignore[attr-defined]
    monkeypatch.setattr(sandbox, "_place", Place(1, {MEMORY: Path("/proc")}))
    async with executor:
        assert executor.isolation.mechanisms["memory"] == "runner's watcher"
        result = await executor.run(CodeBlock("print(1)"))
        assert result.isolation.mechanisms["memory"] == "runner's watcher"
