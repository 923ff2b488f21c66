"""The command line as users start it: a process of its own, in a directory of its own."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.openai_server import OpenAIServer

COMMAND = [sys.executable, "-W", "error", "-m", "agentexec"]


@dataclass
class Cli:
    """Starts `agentexec` with a clean environment.

    Attributes:
        directory: The current directory of the command.
        env: Its environment.
    """

    directory: Path
    env: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, *args: str, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; output is decoded, with bytes that are not UTF-8 kept as surrogates."""
        done = subprocess.run(
            [*COMMAND, *args],
            input=stdin.encode(),
            capture_output=True,
            cwd=self.directory,
            env={**self.env, **(env or {})},
            timeout=40,
        )
        return subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode(errors="surrogateescape"),
            done.stderr.decode(errors="surrogateescape"),
        )

    def start(self, *args: str, **options: object) -> subprocess.Popen[bytes]:
        """Start it, with its output in pipes."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [*COMMAND, *args], cwd=self.directory, env=self.env, **{**pipes, **options}
        )

    def write(self, name: str, content: str | bytes) -> str:
        """Write a file into the directory and return its name."""
        (self.directory / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name


def processes_with(mark: str) -> list[str]:
    """Return command lines of processes on this machine that hold `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mark in line:
                found.append(line)
    return found


def assert_gone(mark: str) -> None:
    """Wait until no process holds `mark`, at most two seconds."""
    end = time.monotonic() + 2
    while (left := processes_with(mark)) and time.monotonic() < end:
        time.sleep(0.02)
    assert left == []


def on_terminal(cli: Cli, *args: str, typed: bytes = b"") -> tuple[int, bytes]:
    """Run with a terminal for stdin, stdout and stderr; return exit status and all that was shown."""
    primary, secondary = pty.openpty()
    process = cli.start(*args, stdin=secondary, stdout=secondary, stderr=secondary)
    os.close(secondary)
    shown = b""
    try:
        os.write(primary, typed)
        while select.select([primary], [], [], 40)[0]:
            try:
                piece = os.read(primary, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
    finally:
        os.close(primary)
        process.wait(10)
    return process.returncode, shown


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    home = tmp_path / "home"
    work = tmp_path / "work dir"
    temporary = tmp_path / "tmp"
    for directory in (home, work, temporary):
        directory.mkdir()
    keep = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    env = {**keep, "HOME": str(home), "TMPDIR": str(temporary), "NO_PROXY": "*"}
    return Cli(work, env)


@pytest.fixture
def local() -> None:
    """Needs the local sandbox."""
    if shutil.which("bwrap") is None and not os.environ.get("AGENTEXEC_REQUIRE_ENGINES"):
        pytest.skip("bubblewrap is not installed")


PLUGIN = """
import asyncio
import sys
from sandboxes.errors import SandboxLostError, SandboxUnavailable
from sandboxes.fake import FakeExecutor

class Broken(FakeExecutor):
    async def start(self):
        raise SandboxUnavailable("no engine here; type: apt install engine")

class Lost(FakeExecutor):
    async def run(self, block, *, on_output=None):
        raise SandboxLostError("the engine went away")

class Slow(FakeExecutor):
    async def start(self):
        print("starting", file=sys.stderr, flush=True)
        await asyncio.sleep(60)

def slow(arg, *, limits, workspace, **options):
    return Slow(limits=limits, **options)

def broken(arg, *, limits, workspace, **options):
    return Broken(limits=limits, **options)

def lost(arg, *, limits, workspace, **options):
    return Lost(limits=limits, **options)
"""


@pytest.fixture
def plugin(cli: Cli, tmp_path: Path) -> None:
    """Installs a distribution with three executors: `broken` and `lost` fail, `slow` does not come up."""
    site = tmp_path / "site"
    info = site / "failing_engines-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "failing_engines.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: failing-engines\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[sandboxes.executors]\nbroken = failing_engines:broken\nlost = failing_engines:lost\n"
        "slow = failing_engines:slow\n"
    )
    cli.env["PYTHONPATH"] = str(site)


@pytest.fixture
def server(cli: Cli) -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        cli.env["OPENAI_BASE_URL"] = running.url
        cli.env["OPENAI_API_KEY"] = "sk-test-0123456789"
        cli.env["AGENTEXEC_MODEL"] = "gpt-4o-mini"
        yield running
