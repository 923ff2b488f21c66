"""Section E: secrets and the host."""
# ruff: noqa: E501 - programs are shown as they run

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxes import CodeBlock
from tests.sandboxes.backends import DOCKER, image_environment
from tests.sandboxes.hostile.arena import Arena


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch, arena: Arena) -> None:
    for name in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "LD_PRELOADED", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, arena.canaries.secret)


async def test_environment_holds_nothing_of_the_host(arena: Arena) -> None:
    code = """
    import os
    print(sorted(os.environ))
    for pid in ("self", "1", str(os.getppid()), "thread-self"):
        for name in ("environ", "cmdline", "auxv", "maps", "stack", "mountinfo", "comm"):
            try:
                print(pid, name, open("/proc/%s/%s" % (pid, name), "rb").read())
            except OSError:
                pass
    """
    result = await arena.attack(code)
    assert arena.canaries.secret not in result.stdout
    names = set(eval(result.stdout.split("\n")[0]))
    allowed = {
        "PATH",
        "HOME",
        "LANG",
        "USER",
        "PYTHONDONTWRITEBYTECODE",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "LC_CTYPE",
    }
    allowed |= set() if arena.row.namespaces else {"TMPDIR"}
    assert names <= allowed | (image_environment() if arena.row.container else set())
    assert "1 environ" not in result.stdout.replace("1 environ b''", "")


async def test_command_lines_do_not_show_the_configuration(arena: Arena) -> None:
    # Where the machine's processes are shown, theirs are their own affair; ours are the runner and the block.
    which = "os.listdir('/proc')" if arena.row.namespaces else "(str(os.getppid()), str(os.getpid()))"
    code = f"import os\nfor p in {which}:\n  if p.isdigit(): print(open('/proc/%s/cmdline' % p, 'rb').read())"
    result = await arena.attack(code)
    for word in ("--ro-bind", "--bind", str(arena.workspace), "token", "limits"):
        assert word not in result.stdout


async def test_memory_of_the_block_holds_no_secret_of_the_host(arena: Arena) -> None:
    # The worker is a fork of the runner, so what the runner was told is in reach of a block.
    code = """
    found = 0
    half = b"sec" + b"ret-"
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            if " rw" in line and "[v" not in line:
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                memory.seek(start)
                content = memory.read(end - start)
                at = content.find(half)
                while at >= 0:
                    tail = content[at + len(half) : at + len(half) + 16]
                    found += all(byte in b"0123456789abcdef" for byte in tail) and len(tail) == 16
                    at = content.find(half, at + 1)
    print(found)
    """
    async with arena.open() as executor:
        # Not through `arena.run`, whose prelude is harmless but long.
        import textwrap

        result = await executor.run(CodeBlock(textwrap.dedent(code)))
        assert result.stdout == "0\n", result.stderr


async def test_other_processes_are_closed(arena: Arena) -> None:
    code = """
    import os
    for pid in {1, os.getppid(), HOST["pid"]}:
        for name in ("mem", "environ", "maps", "fd", "fdinfo", "root", "cwd", "exe", "ns/pid", "io", "stack", "syscall"):
            path = "/proc/%d/%s" % (pid, name)
            for access in (os.readlink, lambda path: open(path, "rb").read(100)):
                try:
                    if access(path):
                        print(path)
                except (OSError, ValueError):
                    pass
        for descriptor in range(64):
            for access in (os.readlink, os.open):
                try:
                    print(access("/proc/%d/fd/%d" % (pid, descriptor), *([os.O_RDWR] if access is os.open else [])))
                except OSError:
                    pass
    """
    assert (await arena.attack(code)).stdout == ""


HIDDEN = [
    "~", "/root", "/home", "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh", "/etc/hostname", "/etc/machine-id",
    "/var/run/docker.sock", "/run/docker.sock", "/run/containerd", "/run/dbus", "/var/lib", "/var/log", "/mnt", "/media",
    "/opt", "/srv", "/boot", "/lost+found", "/work", "/tmp/.X11-unix", "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda",
    "/dev/fuse", "/dev/kvm", "/dev/vsock", "/dev/net/tun", "/dev/mapper", "/dev/loop-control", "/sys/kernel",
]  # fmt: skip


IMAGES_OWN = {
    "~", "/root", "/home", "/etc/shadow", "/etc/gshadow", "/etc/hostname", "/etc/machine-id", "/var/lib", "/var/log", "/mnt",
    "/media", "/opt", "/srv", "/boot", "/sys/kernel",
}  # fmt: skip
"""What a container has of itself; that none of it is this machine's is shown by its empty mount table."""


async def test_containers_mount_nothing_of_the_host_but_the_workspace(arena: Arena) -> None:
    if arena.row is not DOCKER:
        pytest.skip("not a container")
    lines = (await arena.attack("print(open('/proc/self/mountinfo').read(), end='')")).stdout.splitlines()
    places = {line.split()[4] for line in lines if line.split(" - ")[1].split()[1].startswith("/dev/")}
    # The last three are made by the engine for the container, and read-only.
    assert places <= {"/workspace", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}, lines


async def test_files_of_the_host_are_not_there(arena: Arena) -> None:
    home = Path.home()
    image = IMAGES_OWN if arena.row.container else set()
    paths = [str(home) if path == "~" else path for path in HIDDEN if path not in image]
    paths += [str(home / name) for name in (".ssh", ".aws", ".netrc", ".docker", ".config", ".bash_history")]
    paths += [str(arena.canaries.file), str(arena.canaries.file.parent), str(Path(__file__)), os.getcwd()]
    code = f"""
    import os, sys
    shown = {{sys.prefix, sys.base_prefix}}
    for path in {paths!r}:
        if not os.path.lexists(path):
            continue
        # Directories on the way to the interpreter's prefix are there, and hold nothing else.
        rest = [path]
        while rest:
            at = rest.pop()
            if any(prefix == at or at.startswith(prefix + "/") for prefix in shown):
                continue
            if os.path.isdir(at) and not os.path.islink(at) and any(prefix.startswith(at + "/") for prefix in shown):
                rest += [os.path.join(at, name) for name in os.listdir(at)]
            elif os.path.islink(at) and os.path.realpath(at).startswith(tuple(shown)):
                continue
            else:
                print(at)
    """
    assert (await arena.attack(code)).stdout == ""


async def test_other_runs_are_not_visible(arena: Arena, tmp_path: Path) -> None:
    other = tmp_path / "other run"
    other.mkdir()
    (other / "result.txt").write_text(arena.canaries.secret)
    async with arena.open() as executor, arena.row.open(workspace=other) as neighbour:
        await neighbour.run(CodeBlock("open('/tmp/mine', 'w').write('x'); open('/dev/shm/mine', 'w').write('x')"))
        code = f"""
        import os
        print(os.listdir("/tmp"), os.listdir("/dev/shm"), os.path.lexists({str(other)!r}), os.listdir(".."))
        """
        result = await arena.run(executor, code)
        words = result.stdout.split("] ")
        assert (words[0], words[1]) == ("[", "[") or words[0].count("/") == 0
        assert "mine" not in result.stdout
        assert "False" in result.stdout
    (other / "result.txt").unlink()
    other.rmdir()


async def test_no_descriptor_is_inherited(arena: Arena) -> None:
    code = """
    import os
    own = {name: os.readlink("/proc/self/fd/" + name) for name in os.listdir("/proc/self/fd") if int(name) > 2
           and os.path.lexists("/proc/self/fd/" + name)}
    print(own, os.readlink("/proc/self/fd/0"))
    """
    # So many that what a start takes has numbers that no program closes without looking.
    opened = [os.open(arena.canaries.file, os.O_RDONLY) for _ in range(300)]
    try:
        os.set_inheritable(opened[-1], True)
        async with arena.open() as executor:
            assert (await arena.run(executor, code)).stdout == "{} /dev/null\n"
            shell = "for n in 3 4 5 6 7 8 9 11 12; do readlink /proc/$$/fd/$n; done; true"
            assert (await arena.run(executor, CodeBlock(shell, language="sh"))).stdout == ""
            # runc CVE-2024-21626: a working directory that is a descriptor of the host's.
            for number in range(3, 20):
                result = await executor.run(CodeBlock(f"import os\nos.chdir('/proc/self/fd/{number}')"))
                assert result.verdict == "failed"
    finally:
        for descriptor in opened:
            os.close(descriptor)


async def test_kernel_settings_are_read_only_or_hidden(arena: Arena) -> None:
    code = """
    import os
    for top in ("/proc/sys", "/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi", "/proc/driver"):
        for path, _, files in os.walk(top):
            for name in files:
                try:
                    os.close(os.open(os.path.join(path, name), os.O_WRONLY | os.O_NONBLOCK))
                    print("writable", path, name)
                except OSError:
                    pass
    for name in os.listdir("/proc"):
        if not name.isdigit() and name not in ("self", "thread-self") and os.path.isfile("/proc/" + name):
            try:
                os.close(os.open("/proc/" + name, os.O_WRONLY | os.O_NONBLOCK))
                print("writable", name)
            except OSError:
                pass
    """
    assert (await arena.attack(code)).stdout == ""


@pytest.mark.parametrize(
    "path",
    ["/proc/kallsyms", "/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/proc/kpageflags", "/proc/vmallocinfo"],
)
async def test_kernel_memory_layout_is_hidden(arena: Arena, path: str) -> None:
    code = f"""
    import os
    try:
        with open({path!r}, "rb") as file:
            os.set_blocking(file.fileno(), False)
            addresses = {{line.split()[0].strip(b"0") for line in file.read(100000).splitlines()}}
            print(len(addresses) > 1)
    except OSError:
        print(False)
    """
    result = await arena.attack(code)
    assert result.stdout == "False\n"


async def test_kernel_log_is_refused(arena: Arena) -> None:
    code = "import ctypes; b = ctypes.create_string_buffer(4096); print(ctypes.CDLL(None).klogctl(3, b, 4096))"
    assert (await arena.attack(code)).stdout == "-1\n"


async def test_block_is_nobody_special(arena: Arena) -> None:
    # Without namespaces, groups stay those of the caller.
    kept = [] if arena.row.namespaces or arena.row.container else [os.getgroups()]
    code = f"""
    import os
    print(os.getuid(), os.geteuid(), os.getgroups() in ([], [os.getgid()], [65534], *{kept!r}))
    for line in open("/proc/self/status"):
        if line.startswith(("Cap", "NoNewPrivs", "Seccomp:")) and not line.startswith("CapBnd"):
            print(line.split())
    """
    lines = (await arena.attack(code)).stdout.split("\n")
    uid = 1000 if arena.row.namespaces else os.geteuid()
    if arena.row.container:
        uid = arena.workspace.stat().st_uid
    assert lines[0] == f"{uid} {uid} True"
    for capability in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert f"['{capability}:', '0000000000000000']" in lines
    assert "['NoNewPrivs:', '1']" in lines
    assert "['Seccomp:', '2']" in lines


async def test_workspace_configuration_is_never_read(arena: Arena) -> None:
    # CVE-2026-25725: a configuration file that is made inside and trusted later.
    async with arena.open() as executor:
        for name in ("agentexec.toml", ".env", "pyvenv.cfg", "sitecustomize.py", ".pth", "setup.cfg"):
            await executor.put(name, b"network = true\nhome = /x\nimport os\n")
        await executor.restart()
        code = "import socket\ntry: socket.create_connection(('1.1.1.1', 53), 1)\nexcept OSError: print('no network')"
        assert (await arena.run(executor, code)).stdout == "no network\n"
