"""A backend of one's own in a few lines: give a byte stream; limits, streaming and files come for free."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sandboxes import (
    ByteStream,
    CodeBlock,
    Isolation,
    LimitNotEnforceable,
    Limits,
    ProcessStream,
    Sandbox,
    SandboxLostError,
    SandboxUnavailable,
    ScriptExecutor,
    UnsafePath,
)


class PlainSandbox(Sandbox):
    """A directory and a process: no isolation at all, and it says so."""

    def __init__(self, directory: Path, command: Sequence[str] = (sys.executable,)) -> None:
        self.directory = directory
        self.command = command

    async def launch(self, argv: Sequence[str], limits: Limits) -> ByteStream:
        return await ProcessStream.spawn([*self.command, *argv[1:]], env={}, cwd=self.directory)

    def runner_options(self) -> Mapping[str, Any]:
        return {"workspace": str(self.directory), "env": {"PATH": "/usr/bin:/bin", "GREETING": "hello"}}

    def isolation(self, limits: Limits) -> Isolation:
        return Isolation(tier="plain", mechanisms={"wall_time": "runner"}, unenforced=("network",))


@pytest.fixture
async def executor(tmp_path: Path) -> AsyncIterator[ScriptExecutor]:
    limits = Limits(wall_time=2, file_size="1M", output="4k", processes=30)
    async with ScriptExecutor(PlainSandbox(tmp_path), limits) as executor:
        yield executor


async def test_it_runs_blocks_of_every_language(executor: ScriptExecutor) -> None:
    result = await executor.run(CodeBlock("import os; print(os.environ['GREETING']); open('out.txt', 'w').write('x')"))
    assert (result.verdict, result.stdout, result.isolation.tier) == ("ok", "hello\n", "plain")
    assert [file.path for file in result.files] == ["out.txt"]
    assert (await executor.run(CodeBlock("echo $GREETING; exit 3", language="sh"))).exit_code == 3


async def test_it_streams_output(executor: ScriptExecutor) -> None:
    pieces: list[tuple[str, bytes]] = []
    code = "import sys, time\nprint('a'); time.sleep(0.05); print('b', file=sys.stderr)"
    await executor.run(CodeBlock(code), on_output=lambda *piece: pieces.append(piece))
    assert pieces == [("stdout", b"a\n"), ("stderr", b"b\n")]


async def test_it_takes_and_gives_files(executor: ScriptExecutor, tmp_path: Path) -> None:
    await executor.put("in/data.bin", bytes(range(256)))
    assert (tmp_path / "in/data.bin").read_bytes() == bytes(range(256))
    assert await executor.get("in/data.bin") == bytes(range(256))
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(UnsafePath):
        await executor.get("link")


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("while True: pass", "timeout"),
        ("open('big', 'wb').write(b'x' * (2 << 20))", "disk"),
        ("import os, time\nfor _ in range(60): os.fork() or time.sleep(60)\ntime.sleep(60)", "failed"),
        ("print('x' * 10000)", "ok"),
    ],
)
async def test_it_holds_the_limits(executor: ScriptExecutor, code: str, verdict: str) -> None:
    result = await executor.run(CodeBlock(code))
    assert result.verdict == verdict
    assert len(result.stdout) < 4500
    assert (await executor.run(CodeBlock("print(1)"))).stdout == "1\n"


async def test_an_explicit_limit_that_it_does_not_enforce_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LimitNotEnforceable, match="network"):
        await ScriptExecutor(PlainSandbox(tmp_path), Limits(network=False)).start()


async def test_a_launcher_that_is_missing_or_fails_says_so(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="no-such-launcher"):
        await ScriptExecutor(PlainSandbox(tmp_path, ["no-such-launcher"])).start()
    failing = ScriptExecutor(PlainSandbox(tmp_path, ["sh", "-c", "echo out of order >&2; exit 1", "sh"]))
    with pytest.raises(Exception, match="did not come up: out of order"):
        await failing.start()


async def test_a_banner_before_the_runner_is_skipped(tmp_path: Path) -> None:
    shell = ["sh", "-c", 'echo "Welcome! Last login: today"; exec "$0" "$@"', sys.executable]
    async with ScriptExecutor(PlainSandbox(tmp_path, shell)) as executor:
        assert (await executor.run(CodeBlock("print(1)"))).stdout == "1\n"


async def test_it_can_be_lost_and_restarted(executor: ScriptExecutor) -> None:
    result = await executor.run(CodeBlock("import os, signal; os.kill(os.getppid(), signal.SIGKILL)\nwhile True: pass"))
    assert result.verdict == "lost"
    with pytest.raises(SandboxLostError):
        await executor.run(CodeBlock("print(1)"))
    await executor.restart()
    assert (await executor.run(CodeBlock("print(1)"))).stdout == "1\n"
