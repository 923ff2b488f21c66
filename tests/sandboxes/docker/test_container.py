"""What a container is allowed, seen from inside; and what it refuses to be."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sandboxes import (
    CodeBlock,
    Executor,
    Limits,
    SandboxClosedError,
    SandboxStartError,
    SandboxUnavailable,
    open_executor,
)
from sandboxes.docker import DockerSandbox
from sandboxes.docker.hardening import HEADROOM, UnsafeOption
from sandboxes.docker.workspace import NOBODY
from tests.sandboxes.backends import containers, engine


async def out(executor: Executor, code: str, language: str = "python") -> str:
    """Run a block that must end well, and return what it printed."""
    result = await executor.run(CodeBlock(code, language=language))
    assert (result.verdict, result.stderr) == ("ok", ""), result
    return result.stdout


async def inside(code: str, **options: Any) -> str:
    async with open_executor("docker", **options) as executor:
        return await out(executor, code)


# Hardening


async def test_no_capabilities_no_new_privileges_and_seccomp() -> None:
    status = await inside("print(open('/proc/self/status').read())")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert int(fields["Seccomp_filters"]) == 2, "Docker's own filter and ours"


async def test_blocks_write_wherever_they_should_and_not_to_their_settings_in_proc() -> None:
    code = """
import os
places = ["/workspace", "/tmp", "/var/tmp", "/dev/shm", "/extra"]
for place in places:
    os.makedirs(place + "/one"), os.makedirs(place + "/two")
    with open(place + "/one/a", "w") as file: file.write("a")
    os.link(place + "/one/a", place + "/b")
    os.rename(place + "/one/a", place + "/two/c")
    os.truncate(place + "/two/c", 0)
for path in ("/dev/null", "/dev/stdout", "/proc/self/fd/%d" % os.memfd_create("m"), "/proc/self/fd/%d" % os.pipe()[1]):
    with open(path, "w") as file: print("written", file=file)
for name in ("oom_score_adj", "autogroup", "timerslack_ns", "coredump_filter", "comm"):
    try:
        open("/proc/self/" + name, "w")
        print("opened", name)
    except OSError:
        pass
"""
    assert await inside(code, tmpfs={"/extra": "1M"}) == "written\n"


async def test_root_directory_is_read_only() -> None:
    code = """
import errno, os
for path in ("/", "/etc", "/usr/lib", "/var", "/root", "/home"):
    try:
        open(path + "/made", "w")
    except OSError as error:
        assert error.errno in (errno.EROFS, errno.EACCES), error
    else:
        print(path)
print(os.statvfs("/").f_flag & os.ST_RDONLY)
"""
    assert await inside(code) == "1\n"


async def test_only_interface_is_lo() -> None:
    assert await inside("import socket; print([name for _, name in socket.if_nameindex()])") == "['lo']\n"


async def test_uid_is_the_callers_and_nobodys_for_root(tmp_path: Path) -> None:
    mine = f"{os.getuid()} {os.getgid()}\n"
    code = "import os; print(os.getuid(), os.getgid())"
    assert await inside(code) == (mine if os.getuid() else f"{NOBODY} {NOBODY}\n")
    assert await inside(code, workspace=tmp_path) == mine  # it owns the directory
    assert await inside(code, user="1234:1235") == "1234 1235\n"


async def test_no_file_of_somebody_else_is_left_in_the_workspace(tmp_path: Path) -> None:
    if os.getuid() == 0:
        os.chown(tmp_path, NOBODY, NOBODY)
    owner = tmp_path.stat().st_uid
    async with open_executor("docker", workspace=tmp_path) as executor:
        await executor.put("put/a", b"x")
        await out(executor, "import os; os.makedirs('made/deep'); open('made/deep/b', 'w'); open('c', 'w')")
        await out(executor, "mkdir shell; touch shell/d", "bash")
    for parent, directories, files in os.walk(tmp_path):
        for name in (*directories, *files):
            assert os.lstat(os.path.join(parent, name)).st_uid == owner, name


async def test_roots_own_workspace_gives_roots_id_and_no_power(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only for root")
    code = """
import os
paths = ("/proc/1/oom_score_adj", "/proc/1/mem", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/dev/made")
for path in paths:
    try:
        print(os.open(path, os.O_WRONLY | os.O_CREAT), path)
    except OSError:
        pass
for path in ("/proc/vmallocinfo", "/proc/kcore", "/proc/slabinfo", "/proc/1/mem", "/proc/1/environ"):
    try:
        print(path, open(path, "rb").read(1)) if open(path, "rb").read(1) else None
    except OSError:
        pass
print(os.getuid())
"""
    assert await inside(code, workspace=tmp_path) == "0\n"


async def test_limits_of_the_control_groups() -> None:
    limits = Limits(memory="200M", processes=7)
    async with open_executor("docker", limits=limits, cpus=0.5):
        with engine() as client:
            settings = client.inspect_container(containers()[0])["HostConfig"]
    # All of the limit in files, and what the runner needs besides.
    assert settings["Memory"] == settings["MemorySwap"] == limits.memory // 2 * 2 + limits.memory // 16 + HEADROOM
    assert settings["PidsLimit"] == 8
    assert settings["NanoCpus"] == 500_000_000
    assert settings["LogConfig"]["Type"] == "none"
    assert settings["AutoRemove"]


# Options


async def test_options_arrive_inside(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "data.csv").write_text("1,2\n")
    code = """
import os
print(open("/data/data.csv").read(), os.environ["MARK"], os.environ["PATH"] != "")
print(os.statvfs("/scratch").f_blocks * 4096)
try: open("/data/made", "w")
except OSError as error: print(error.strerror)
open("/scratch/made", "w")
"""
    options = {"mounts": {str(shared): "/data"}, "env": {"MARK": "here"}, "tmpfs": {"/scratch": "8M"}}
    assert await inside(code, **options) == "1,2\n here True\n8388608\nRead-only file system\n"
    assert os.listdir(shared) == ["data.csv"]


async def test_cpus_are_shared_out() -> None:
    code = "import time; end = time.time() + 1\nwhile time.time() < end: pass\nprint(time.process_time() < 0.7)"
    assert await inside(code, cpus=0.5) == "True\n"


async def test_preloaded_modules_are_there_and_count_as_the_runners() -> None:
    code = "import sys; print('yaml' in sys.modules, 'requests' in sys.modules)"
    assert await inside(code, preload=["requests"]) == "False True\n"


async def test_network_is_there_when_it_is_asked_for() -> None:
    code = "import socket; print(len(socket.if_nameindex()))"
    assert await inside(code, limits=Limits(network=True)) == "2\n"
    assert await inside(code, limits=Limits(network=True), network="none") == "1\n"


async def test_own_labels_are_on_the_container() -> None:
    async with open_executor("docker", labels={"run": "42", "agentexec.user": "forged"}):
        with engine() as client:
            labels = client.inspect_container(containers()[0])["Config"]["Labels"]
    assert (labels["run"], labels["agentexec.user"]) == ("42", str(os.getuid()))


async def test_what_the_engine_cannot_do_is_said() -> None:
    with pytest.raises(SandboxStartError, match=r"(?i)unknown runtime specified nowhere"):
        await open_executor("docker", runtime="nowhere").start()
    with pytest.raises(SandboxStartError, match=r"device driver|gpu"):
        await open_executor("docker", gpus="all").start()
    with pytest.raises(SandboxStartError, match="nowhere"):
        await open_executor("docker", limits=Limits(network=True), network="nowhere").start()


async def test_harmless_settings_are_passed_on() -> None:
    async with open_executor("docker", host_config={"cpuset_cpus": "0"}) as executor:
        assert await out(executor, "import os; print(os.sched_getaffinity(0))") == "{0}\n"


@pytest.mark.parametrize(
    "options",
    [
        {"host_config": {"privileged": True}},
        {"host_config": {"cap_add": ["SYS_ADMIN"]}},
        {"host_config": {"pid_mode": "host"}},
        {"host_config": {"ipc_mode": "host"}},
        {"host_config": {"userns_mode": "host"}},
        {"host_config": {"network_mode": "host"}},
        {"host_config": {"security_opt": ["seccomp=unconfined"]}},
        {"host_config": {"binds": ["/:/host"]}},
        {"host_config": {"devices": ["/dev/kvm"]}},
        {"host_config": {"read_only": False}},
        {"host_config": {"cgroup_parent": "/"}},
        {"host_config": {"sysctls": {"net.ipv4.ip_forward": "1"}}},
        {"network": "host"},
        {"network": "container:other"},
        {"mounts": {"/": "/host"}},
        {"mounts": {"/var/run/docker.sock": "/s"}},
        {"mounts": {"/var/run": "/run"}},
        {"mounts": {"/run/../proc": "/p"}},
        {"mounts": {"/dev/kvm": "/dev/kvm"}},
    ],
    ids=str,
)
def test_options_that_break_the_isolation_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UnsafeOption, match="unsafe=True"):
        DockerSandbox(**options)


async def test_insisting_is_possible_and_reported() -> None:
    async with open_executor("docker", host_config={"cap_add": ["CHOWN"]}, user="0:0", unsafe=True) as executor:
        result = await executor.run(
            CodeBlock("open('a', 'w'); import os; os.chown('a', 5, 5); print(os.stat('a').st_uid)")
        )
        assert (result.stdout, result.isolation.tier) == ("5\n", "docker (loosened)")


# Images


async def test_image_without_python_is_explained() -> None:
    with engine() as client:
        client.import_image_from_data(empty_tar(), repository="agentexec-test-empty")
    try:
        with pytest.raises(SandboxUnavailable, match=r"agentexec-test-empty has no python3: use one with Python 3\.8"):
            await open_executor("docker:agentexec-test-empty").start()
    finally:
        with engine() as client:
            client.remove_image("agentexec-test-empty")


def empty_tar() -> bytes:
    import io
    import tarfile

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        entry = tarfile.TarInfo("tmp")
        entry.type, entry.mode = tarfile.DIRTYPE, stat.S_ISVTX | 0o777
        archive.addfile(entry)
    return data.getvalue()


async def test_missing_image_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SandboxUnavailable, match="agentexec/nothing is not built yet: type 'agentexec images build nothing'"
    ):
        await open_executor("docker:agentexec/nothing").start()
    # Nobody listens on this port.
    with pytest.raises(SandboxUnavailable, match=r"image localhost:1/some:tag is not in the engine.*docker build -t"):
        await open_executor("docker:localhost:1/some:tag").start()
    monkeypatch.setenv("AGENTEXEC_IMAGE", "agentexec/other")
    with pytest.raises(SandboxUnavailable, match="agentexec/other is not built"):
        await open_executor("docker").start()


async def test_volumes_that_an_image_declares_are_bounded() -> None:
    with engine() as client:
        made = client.create_container("agentexec/python")["Id"]
        client.commit(made, repository="agentexec-test-volume", changes=["VOLUME /var/data"])
        client.remove_container(made)
    try:
        code = "import os; print(os.statvfs('/var/data').f_blocks * 4096, os.access('/var/data', os.W_OK))"
        answer = await inside(code, image="agentexec-test-volume", limits=Limits(memory="64M"))
        assert answer == f"{4 << 20} True\n"
    finally:
        with engine() as client:
            client.remove_image("agentexec-test-volume")


@pytest.mark.parametrize(
    "place", ["/", "/var", "/var/lib", "/run/dbus", "/etc/shadow", "/root/.ssh", "/home", "/proc/1"]
)
def test_parts_of_the_machine_are_refused_as_mount_and_as_workspace(place: str) -> None:
    with pytest.raises(UnsafeOption, match="a part of this machine's own system"):
        DockerSandbox(mounts={place: "/m"})
    if os.path.isdir(place):
        with pytest.raises(UnsafeOption, match="workspace: "):
            DockerSandbox(workspace=Path(place))


def test_directory_with_a_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "deep" / "er" / "engine.sock"))
        with pytest.raises(UnsafeOption, match="has a socket in it"):
            DockerSandbox(mounts={str(tmp_path): "/m"})
    with pytest.raises(SandboxUnavailable, match="/nowhere cannot be used"):
        DockerSandbox(mounts={"/nowhere": "/m"})
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="cannot be mounted a second time"):
        DockerSandbox(workspace=tmp_path, mounts={str(tmp_path / "deep" / ".." / "other"): "/m"})


async def test_directory_that_became_a_link_is_not_followed_at_a_restart(tmp_path: Path) -> None:
    outside, project = tmp_path / "outside", tmp_path / "project"
    outside.mkdir()
    (project / "sub").mkdir(parents=True)
    async with (
        open_executor("docker", workspace=project) as first,
        open_executor("docker", workspace=project / "sub") as second,
    ):
        await out(first, f"import os; os.rename('sub', 'old'); os.symlink({str(outside)!r}, 'sub')")
        with pytest.raises(SandboxUnavailable, match="is another directory than it was"):
            await second.restart()
    assert os.listdir(outside) == []


async def test_what_root_may_lock_is_open_again_for_the_next_block(tmp_path: Path) -> None:
    code = """
import os
for place in ("/tmp", "/dev/shm", "/var/tmp", "/dev/mqueue", "/sys/fs/cgroup", "/dev/pts", "."):
    try:
        os.chmod(place, 0)
    except OSError:
        pass
"""
    async with open_executor("docker", workspace=tmp_path) as executor:
        await out(executor, code)
        use = "import os\nfor place in ('/tmp', '/dev/shm', '/var/tmp', '.'): open(place + '/x', 'w')\nos.openpty()"
        await out(executor, use)
        await out(executor, code)
        await executor.reset()
        await out(executor, use)


async def test_closing_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    for delay in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2):
        executor = open_executor("docker")
        task = asyncio.create_task(executor.start())
        await asyncio.sleep(delay)
        await executor.close()
        assert containers() == []
        with contextlib.suppress(SandboxClosedError):  # or it was faster
            await task
        with pytest.raises(SandboxClosedError):
            await executor.run(CodeBlock("print(1)"))


# Packages


def wheel() -> bytes:
    """Return a package `tiny` as pip takes it."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("tiny.py", "NAME = 'tiny'\n")
        archive.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        archive.writestr(
            "tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny-1.dist-info/RECORD", "tiny.py,,\ntiny-1.dist-info/METADATA,,\n")
    return data.getvalue()


@pytest.mark.parametrize("spec", ["docker", "jupyter+docker"])
async def test_what_pip_installs_is_there_for_the_next_block(spec: str) -> None:
    async with open_executor(spec) as executor:
        await out(executor, "print('up')")
        await executor.put("tiny-1-py3-none-any.whl", wheel())
        await out(executor, "pip install -q --no-index ./tiny-1-py3-none-any.whl 2>&1", "bash")
        assert await out(executor, "import tiny; print(tiny.NAME)") == "tiny\n"
