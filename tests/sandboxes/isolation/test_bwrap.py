"""What a start of bwrap takes, and what is left of one that cannot be."""

from __future__ import annotations

import asyncio
import ctypes
import os
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandboxes import CodeBlock, open_executor
from sandboxes.errors import SandboxError, SandboxStartError, SandboxUnavailable
from sandboxes.isolation import bwrap, devices
from sandboxes.isolation.bwrap import BwrapCommand
from sandboxes.isolation.interpreter import Interpreter, find_interpreter
from sandboxes.isolation.seccomp import compile_filter
from sandboxes.runner import linux
from sandboxes.types import Limits
from tests.sandboxes.backends import BACKENDS, require_engine

CHANGE = """
import os
for path in {paths!r}:
    for change in (
        lambda: open(path, "a").close(),
        lambda: os.truncate(path, 0),
        lambda: os.chmod(path, 0o777),
        lambda: os.unlink(path),
        lambda: os.rename(path, path + ".old"),
    ):
        try:
            change()
        except OSError:
            continue
        print("changed", path)
    print(path, os.path.getsize(path))
"""


def other_processor() -> bytes:
    return compile_filter("riscv64")


def too_long() -> bytes:
    return bytes(1 << 20)


@pytest.mark.parametrize(
    ("filters", "kind", "said"),
    [
        (other_processor, SandboxUnavailable, "no table of system calls for riscv64; use the docker sandbox"),
        (too_long, SandboxStartError, "too long"),
    ],
)
def test_a_start_that_cannot_be_is_told_and_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filters: object, kind: type[SandboxError], said: str
) -> None:
    monkeypatch.setattr(bwrap, "find_bwrap", lambda: "/usr/bin/bwrap")
    monkeypatch.setattr(bwrap, "compile_filter", filters)
    interpreter = find_interpreter()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(kind, match=said):
        BwrapCommand(interpreter, tmp_path, ["true"], Limits())
    assert os.listdir("/proc/self/fd") == before


async def test_files_of_the_system_are_the_same_inside_and_cannot_be_changed() -> None:
    require_engine(BACKENDS[0].installed(), BACKENDS[0].engine)
    files = [path for path in bwrap.ETC if os.path.isfile(path)]
    assert files
    async with open_executor("local", isolation="bwrap") as executor:
        result = await executor.run(CodeBlock(CHANGE.format(paths=[*files, "/etc/passwd", "/etc/group"])))
        sizes = [os.path.getsize(path) for path in files]
        expected = [
            *zip(files, sizes, strict=True),
            ("/etc/passwd", len(bwrap.PASSWD)),
            ("/etc/group", len(bwrap.GROUP)),
        ]
        assert result.stdout == "".join(f"{path} {size}\n" for path, size in expected), result.stderr


async def test_a_virtual_environment_in_tmp_cannot_be_changed(tmp_path: Path) -> None:
    require_engine(BACKENDS[0].installed(), BACKENDS[0].engine)
    venv = tmp_path / "venv"
    command = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=50)
    paths = [str(path) for path in (venv / "pyvenv.cfg", venv / "lib64", venv / "bin", venv / "lib") if path.exists()]
    async with open_executor("local", isolation="bwrap", python=str(venv / "bin/python")) as executor:
        result = await executor.run(CodeBlock(CHANGE.format(paths=paths)))
        assert "changed" not in result.stdout
        assert [line.split()[0] for line in result.stdout.splitlines()] == paths, result.stderr


def test_what_lies_within_something_that_is_shown_is_not_shown_again(tmp_path: Path) -> None:
    inner = tmp_path / "share/environments/one"
    for directory in (tmp_path / "lib", inner / "lib", tmp_path / "lib64x"):
        directory.mkdir(parents=True)
    (inner / "pyvenv.cfg").touch()
    interpreter = Interpreter(str(inner / "bin/python"), (str(tmp_path), str(inner)), ("/bin/link",))
    assert interpreter.paths() == [str(tmp_path / "lib"), str(tmp_path / "share"), "/bin/link"]


def test_a_prefix_is_shown_whole_only_if_nothing_else_is_in_it(tmp_path: Path) -> None:
    for directory in ("bin", "lib"):
        (tmp_path / directory).mkdir()
    (tmp_path / ".gitignore").touch()
    interpreter = Interpreter(str(tmp_path / "bin/python"), (str(tmp_path),))
    assert interpreter.paths() == [str(tmp_path)]
    (tmp_path / "secrets").touch()
    assert interpreter.paths() == interpreter.parts() == [str(tmp_path / "bin"), str(tmp_path / "lib")]


async def test_an_interpreter_is_found_by_way_of_links() -> None:
    """A link to a program, one to a whole prefix, and one in that, where nothing inside could replace them."""
    require_engine(BACKENDS[0].installed(), BACKENDS[0].engine)
    with tempfile.TemporaryDirectory(dir=Path.home()) as home:
        venv, other, link = Path(home, "venv"), Path(home, "other"), Path(home, "python")
        command = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=50)
        real = os.path.realpath(venv / "bin/python")
        (venv / "bin/python").unlink()
        link.symlink_to(real)
        (venv / "bin/python").symlink_to(link)
        other.symlink_to(venv)
        code = "import sys; print(sys.prefix, sys.executable)"
        async with open_executor("local", isolation="bwrap", python=str(other / "bin/python")) as executor:
            result = await executor.run(CodeBlock(code))
            assert result.stdout == f"{other} {other}/bin/python\n", result.stderr
            result = await executor.run(CodeBlock(CHANGE.format(paths=[str(other / "pyvenv.cfg"), str(link)])))
            assert "changed" not in result.stdout


async def test_a_link_of_the_system_shows_what_it_leads_to(monkeypatch: pytest.MonkeyPatch) -> None:
    require_engine(BACKENDS[0].installed(), BACKENDS[0].engine)
    with tempfile.TemporaryDirectory(dir=Path.home()) as home:
        hidden, beside, zone = Path(home, "hidden"), Path(home, "beside"), Path(home, "zone")
        hidden.write_text("said")
        beside.symlink_to(hidden.name)
        zone.symlink_to(os.path.realpath("/usr/bin/env"))
        monkeypatch.setattr(bwrap, "ETC", (str(beside), str(zone)))
        async with open_executor("local", isolation="bwrap") as executor:
            code = f"""
import os
print(open({str(beside)!r}).read(), os.path.exists({str(hidden)!r}), os.path.realpath({str(zone)!r}))
"""
            result = await executor.run(CodeBlock(code))
            assert result.stdout == f"said False {zone.resolve()}\n", result.stderr


async def test_the_machine_s_devices_cannot_be_changed() -> None:
    require_engine(BACKENDS[0].installed(), BACKENDS[0].engine)
    # As it is already, so that nothing happens to the machine where a block does have the right.
    code = """
import os, stat
for name in ("null", "zero", "full", "random", "urandom", "tty"):
    path = "/dev/" + name
    mode = stat.S_IMODE(os.stat(path).st_mode)
    for change in (lambda: os.chmod(path, mode), lambda: os.chown(path, -1, os.getgid()), lambda: os.utime(path)):
        try:
            change()
            print("changed", path)
        except OSError:
            pass
print(open("/dev/zero", "rb").read(1), open("/dev/null", "w").write("x"))
"""
    async with open_executor("local", isolation="bwrap") as executor:
        result = await executor.run(CodeBlock(code))
        assert result.stdout == "b'\\x00' 1\n", result.stderr


def test_root_without_the_programs_that_hold_devices_is_told_what_to_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bwrap, "find_bwrap", lambda: "/usr/bin/bwrap")
    monkeypatch.setattr(devices, "PROGRAMS", str(tmp_path))
    monkeypatch.setattr(devices, "_may_mount", lambda: False)  # a container's
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SandboxUnavailable, match="type 'apt-get install util-linux mount'"):
        BwrapCommand(find_interpreter(), tmp_path, ["true"], Limits())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's devices are held")
async def test_holding_devices_changes_nothing_outside() -> None:
    require_engine(BACKENDS[0].installed(), BACKENDS[0].engine)

    def mounts() -> tuple[str, list[str]]:
        # Of the places that are touched: containers of other tests come and go below others.
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return os.readlink("/proc/thread-self/ns/mnt"), [
            line for line in lines if line.split()[4].startswith(("/dev", "/sys"))
        ]

    before = mounts()
    assert before[1]
    async with open_executor("local", isolation="bwrap"):
        assert mounts() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's devices are held")
@pytest.mark.parametrize(("call", "said"), [("unshare", "unshare failed"), ("mount", "mount: /")])
async def test_devices_that_cannot_be_held_are_told(monkeypatch: pytest.MonkeyPatch, call: str, said: str) -> None:
    require_engine(BACKENDS[0].installed(), BACKENDS[0].engine)
    monkeypatch.setattr(linux.LIBC, call, lambda *arguments: -1)
    with pytest.raises(bwrap.Forbidden, match=said):
        await open_executor("local", isolation="bwrap").start()


@pytest.mark.skipif(not devices._may_mount(), reason="only who may mount can hold devices")
def test_devices_that_are_mounts_of_their_own_are_held_too() -> None:
    def refused() -> list[str | None]:
        assert linux.LIBC.unshare(devices.CLONE_NEWNS) == 0
        assert linux.LIBC.mount(None, b"/", None, ctypes.c_ulong(devices.MS_REC | devices.MS_SLAVE), None) == 0
        assert linux.LIBC.mount(b"/dev/full", b"/dev/full", None, ctypes.c_ulong(devices.MS_BIND), None) == 0
        devices._hold()
        found: list[str | None] = []
        for path in ("/dev/full", "/dev/null"):
            try:
                os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))
            except OSError as error:
                found.append(error.strerror)
        return found

    with ThreadPoolExecutor(1) as thread:  # whose mounts end with it
        assert thread.submit(refused).result() == ["Read-only file system"] * 2


async def test_what_keys_are_for_is_not_told() -> None:
    require_engine(BACKENDS[0].installed(), BACKENDS[0].engine)
    code = """
for path in ("/proc/keys", "/proc/key-users"):
    try: print(open(path).read())
    except OSError: pass
"""
    async with open_executor("local", isolation="bwrap") as executor:
        assert (await executor.run(CodeBlock(code))).stdout.strip() == ""
