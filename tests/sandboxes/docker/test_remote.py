"""Engines that do not see this machine's files, over TCP and SSH: files go through the runner."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes import (
    CodeBlock,
    Executor,
    FileTooLarge,
    Limits,
    SandboxClosedError,
    SandboxUnavailable,
    ScriptExecutor,
    open_executor,
)
from sandboxes.docker import DockerSandbox, tunnel
from sandboxes.docker.owners import KIND, PROCESS
from sandboxes.mirror import MirroredExecutor
from tests.sandboxes.backends import descendants, engine, require_engine


class Proxy:
    """The engine's socket behind a port on the loopback interface.

    Attributes:
        url: Its address.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect("/var/run/docker.sock")
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                self._threads.append(threading.Thread(target=self._copy, args=pair))
                self._threads[-1].start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Break all connections, as a network does."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


@pytest.fixture
def tcp(proxy: Proxy) -> str:
    return proxy.url


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An SSH server on the loopback interface that lets us in with a key, and an `ssh` that knows both."""
    if os.geteuid() != 0:
        pytest.skip("only root can start an SSH server")
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    require_engine(sshd is not None, "an SSH server (openssh-server)")
    tmp_path.chmod(0o700)
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    (tmp_path / "key.pub").rename(tmp_path / "authorized")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    Path("/run/sshd").mkdir(exist_ok=True)
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "authorized",
        "StrictModes": "no",
        "PidFile": "none",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
    }
    (tmp_path / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    options = f"-F none -i {tmp_path}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {options} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    server = subprocess.Popen([str(sshd), "-D", "-f", str(tmp_path / "sshd_config"), "-E", str(tmp_path / "log")])
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.02)
    yield f"ssh://root@127.0.0.1:{port}"
    server.terminate()
    server.wait()


async def out(executor: Executor, code: str) -> str:
    result = await executor.run(CodeBlock(code))
    assert (result.verdict, result.stderr) == ("ok", ""), result
    return result.stdout


@pytest.mark.parametrize("how", ["tcp", "ssh"])
async def test_workspace_lies_in_the_engine(how: str, request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue(how)
    async with open_executor("docker", url=url) as executor:
        await executor.put("a/data.bin", os.urandom(1 << 20))
        assert await out(executor, "import os; print(os.getuid() != 0, len(open('a/data.bin', 'rb').read()))") == (
            f"{True} {1 << 20}\n"
        )
        await out(executor, "open('made', 'w').write('x' * 1000)")
        await executor.restart()
        assert await executor.get("made") == b"x" * 1000
        with engine() as client:
            (volume,) = client.volumes(filters={"label": "agentexec.kind=sandbox"})["Volumes"]
            assert volume["Name"].startswith("agentexec-")


async def test_certificates_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=f"certificates for tcp://127.0.0.1:1 are not in {tmp_path}"):
        await open_executor("docker", url="tcp://127.0.0.1:1").start()


async def test_engine_of_the_environment_is_used(tcp: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", tcp)
    async with open_executor("docker") as executor:
        assert await out(executor, "print(1)") == "1\n"
    with pytest.raises(SandboxUnavailable, match=r"does not see .*: give no workspace"):
        await ScriptExecutor(DockerSandbox(workspace=tmp_path)).start()


async def test_directory_is_kept_like_the_workspace(tcp: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data.csv").write_text("1,2\n")
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    async with open_executor("docker", url=tcp, workspace=tmp_path) as executor:
        assert isinstance(executor, MirroredExecutor)
        code = "import os; print(open('in/data.csv').read(), os.path.lexists('link'), os.path.lexists('pipe'))"
        assert await out(executor, code) == "1,2\n False False\n"
        await out(executor, "import os; os.makedirs('out/deep'); open('out/deep/x', 'w').write('made')")
        assert (tmp_path / "out/deep/x").read_text() == "made"
        await out(executor, "open('in/data.csv', 'a').write('3,4\\n')")
        assert (tmp_path / "in/data.csv").read_text() == "1,2\n3,4\n"
        await executor.put("put.txt", b"put")
        assert (tmp_path / "put.txt").read_bytes() == b"put" == await executor.get("put.txt")
        await executor.restart()
        assert await executor.get("out/deep/x") == b"made"


async def test_start_of_a_copied_directory_can_be_cancelled_and_repeated_and_copies_once(
    tcp: str, tmp_path: Path
) -> None:
    for number in range(50):
        (tmp_path / f"{number}").write_bytes(b"%d" % number * 10_000)
    executor = open_executor("docker", url=tcp, workspace=tmp_path)
    for delay in (0.0, 0.1, 0.4, 0.5):
        task = asyncio.create_task(executor.start())
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task], timeout=30)
        assert task.done()
    await asyncio.gather(executor.start(), executor.start())
    assert await executor.get("49") == b"49" * 10_000
    (tmp_path / "49").write_bytes(b"later")
    await executor.start()
    assert await executor.get("49") == b"49" * 10_000
    first = asyncio.create_task(executor.close())
    await asyncio.sleep(0)
    await executor.close()
    await first
    with pytest.raises(SandboxClosedError):
        await executor.start()
    with engine() as client:
        volumes = client.volumes(filters={"label": f"{KIND}=sandbox"})["Volumes"]
    assert [each for each in volumes if each["Labels"][PROCESS].startswith(f"{os.getpid()}.")] == []


async def test_nothing_is_written_through_a_link_in_the_directory(tcp: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inside = tmp_path / "inside"
    inside.mkdir()
    async with open_executor("docker", url=tcp, workspace=inside) as executor:
        (inside / "way").symlink_to(outside)
        result = await executor.run(CodeBlock("import os; os.mkdir('way'); open('way/x', 'w'); print('said')"))
        assert (result.verdict, result.stdout) == ("ok", "said\n")
        assert "1 files were not copied" in result.message
        assert "cannot write 'way/x'" in result.message
        assert os.listdir(outside) == []
        result = await executor.run(CodeBlock("import os; open('tool', 'w'); os.chmod('tool', 0o755)"))
        assert result.verdict == "ok"
        assert stat.S_IMODE((inside / "tool").stat().st_mode) & 0o6000 == 0


async def test_directory_that_is_too_large_is_refused_before_anything_runs(tcp: str, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(bytes(1 << 20))
    with pytest.raises(FileTooLarge, match="`disk` allows 2097152"):
        await open_executor("docker", url=tcp, workspace=tmp_path, limits=Limits(disk="2M")).start()


async def test_connection_that_breaks_is_lost(proxy: Proxy) -> None:
    async with open_executor("docker", url=proxy.url) as executor:
        printed = asyncio.Event()
        block = CodeBlock("import time; print('up', flush=True); time.sleep(60)")
        task = asyncio.create_task(executor.run(block, on_output=lambda *_: printed.set()))
        await asyncio.wait_for(printed.wait(), 20)
        proxy.cut()
        result = await asyncio.wait_for(task, 20)
        assert (result.verdict, result.stdout) == ("lost", "up\n")
        await executor.restart()
        assert await out(executor, "print(2)") == "2\n"


async def test_ssh_that_fails_carries_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxUnavailable, match=r"no connection to ssh://nobody@127\.0\.0\.1:1: .*refused"):
        await open_executor("docker", url="ssh://nobody@127.0.0.1:1").start()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="cannot start ssh"):
        await open_executor("docker", url="ssh://nobody@127.0.0.1:1").start()


STUBBORN = """
import signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[sys.argv.index("-L") + 1].partition(":")[0])
listener.listen()
time.sleep(60)
"""


async def test_nobody_waits_for_an_ssh_that_is_no_longer_wanted() -> None:
    others = descendants()  # a server of other tests, say
    with socket.create_server(("127.0.0.1", 0)) as silent:
        executor = open_executor("docker", url=f"ssh://127.0.0.1:{silent.getsockname()[1]}")
        task = asyncio.create_task(executor.start())
        async with asyncio.timeout(20):
            while descendants() <= others:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert descendants() <= others


def test_ssh_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ssh").write_text(f"#!{sys.executable}\n{STUBBORN}")
    (tmp_path / "ssh").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tunnel, "END_TIMEOUT", 0.1)
    before = descendants()  # the server of the tests beside this one, say
    opened = tunnel.Tunnel("ssh://somewhere")
    try:
        assert len(descendants() - before) == 1
    finally:
        opened.close()
    assert descendants() <= before
    assert not Path(opened.url.removeprefix("unix://")).parent.exists()
