"""The process that owns a sandbox is killed with SIGKILL: nothing of it may survive."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandboxes.conformance.canaries import tagged
from tests.sandboxes.backends import Backend

OWNER = """
import asyncio, json, sys
from sandboxes import CodeBlock, Limits, open_executor
spec, workspace, tag = sys.argv[1:4]
CODE = '''
import os, signal, subprocess, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; while :; do sleep 1; done; : %s"])
        time.sleep(600)
print("running", flush=True)
while True: os.write(1, b"x" * 4096)
''' % tag
async def main():
    options = {"limits": Limits(wall_time=300), **json.loads(sys.argv[4])}
    async with open_executor(spec, workspace=workspace, **options) as executor:
        def said(stream, data):
            if b"running" in data:
                print("running", flush=True)
        print("open", flush=True)
        await executor.run(CodeBlock(CODE), on_output=said)
asyncio.run(main())
"""


@pytest.fixture
def tag() -> Iterator[str]:
    made = f"tag-{secrets.token_hex(8)}"
    yield made
    for pid in tagged(made):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def start(backend: Backend, workspace: Path, tag: str) -> subprocess.Popen[bytes]:
    options = json.dumps(dict(backend.options))
    command = [sys.executable, "-c", OWNER, backend.spec, str(workspace), tag, options]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def kill(backend: Backend, owner: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Kill the owner; return what ran in its sandboxes."""
    psutil.Process(owner.pid).suspend()  # so that nothing is started while we look
    below = []
    for pid in backend.processes(owner.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            below.append(psutil.Process(pid))
    owner.kill()
    owner.wait()
    assert owner.stdout is not None
    owner.stdout.close()
    return below


def survivors(below: list[psutil.Process], tag: str) -> list[str]:
    """Return what is left after at most two seconds."""
    end = time.monotonic() + 2
    while True:
        left = [str(process) for process in below if _runs(process)] + [str(pid) for pid in tagged(tag)]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    try:
        # A zombie is dead; when it is reaped is up to this machine's init.
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def test_everything_dies_with_the_owner_of_a_running_block(backend: Backend, tmp_path: Path, tag: str) -> None:
    owner = start(backend, tmp_path, tag)
    assert owner.stdout is not None
    assert [owner.stdout.readline(), owner.stdout.readline()] == [b"open\n", b"running\n"]
    below = kill(backend, owner)
    assert len(below) >= 3
    assert survivors(below, tag) == []


def test_everything_dies_with_the_owner_of_an_idle_sandbox(backend: Backend, tmp_path: Path, tag: str) -> None:
    owner = start(backend, tmp_path, tag)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"open\n"
    assert survivors(kill(backend, owner), tag) == []


@pytest.mark.parametrize("attempt", range(6))
def test_everything_dies_with_the_owner_at_any_moment(backend: Backend, tmp_path: Path, tag: str, attempt: int) -> None:
    owner = start(backend, tmp_path, tag)
    # Wait for the first sign of a sandbox, since importing takes longer than starting one.
    end = time.monotonic() + 10
    while time.monotonic() < end and not backend.processes(owner.pid):
        time.sleep(0.001)
    time.sleep(random.Random(attempt).uniform(0, 0.12))
    assert survivors(kill(backend, owner), tag) == []


def test_control_groups_of_a_killed_owner_are_removed_by_the_next(backend: Backend, tmp_path: Path, tag: str) -> None:
    groups = Path("/sys/fs/cgroup")

    def ours(pid: int) -> list[Path]:
        return [*groups.glob(f"agentexec-{pid}-*"), *groups.glob(f"*/agentexec-{pid}-*")]

    owner = start(backend, tmp_path, tag)
    assert owner.stdout is not None
    owner.stdout.readline()
    if not ours(owner.pid):
        kill(backend, owner)
        pytest.skip("no control group is used here")
    assert survivors(kill(backend, owner), tag) == []
    end = time.monotonic() + 10
    while ours(owner.pid) and time.monotonic() < end:
        second = start(backend, tmp_path, tag)
        assert second.stdout is not None
        second.stdout.readline()
        kill(backend, second)
    assert ours(owner.pid) == []
