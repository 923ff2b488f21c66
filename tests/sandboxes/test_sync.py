"""Executors without an event loop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandboxes import (
    CodeBlock,
    FakeExecutor,
    Limits,
    SandboxClosedError,
    SyncExecutor,
    WorkspaceFileNotFound,
    open_executor_sync,
)
from sandboxes.types import Stream
from tests.cli.conftest import processes_with
from tests.sandboxes.backends import require_engine


@pytest.fixture(autouse=True)
def bwrap() -> None:
    require_engine(shutil.which("bwrap") is not None, "bwrap")


def test_blocks_and_files_without_a_loop() -> None:
    pieces: list[bytes] = []
    with open_executor_sync("local", limits=Limits(wall_time=20)) as executor:
        assert (executor.limits.wall_time, executor.isolation.tier) == (20, "bwrap")
        executor.put("name.txt", b"world")
        block = CodeBlock("text = 'hello ' + open('name.txt').read(); print(text); open('out.txt', 'w').write(text)")
        result = executor.run(block, on_output=lambda stream, data: pieces.append(data))
        assert (result.verdict, result.stdout, b"".join(pieces)) == ("ok", "hello world\n", b"hello world\n")
        executor.restart()
        assert executor.get("out.txt") == b"hello world"
        workspace = executor.local_workspace
        executor.reset()
        with pytest.raises(WorkspaceFileNotFound):
            executor.get("out.txt")
    assert workspace is not None
    assert not workspace.exists()


def test_control_c_ends_the_block_and_keeps_the_executor() -> None:
    def interrupt(stream: Stream, data: bytes) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with open_executor_sync("local") as executor:
        with pytest.raises(KeyboardInterrupt):
            executor.run(CodeBlock("import time; print(1, flush=True); time.sleep(50)"), on_output=interrupt)
        assert executor.run(CodeBlock("print(2)")).stdout == "2\n"


TWICE = """
import os, signal, sys, threading, time
from sandboxes import CodeBlock, open_executor_sync
def press():
    for wait in (float(sys.argv[2]), 0.002):
        time.sleep(wait)
        os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
pressing = threading.Thread(target=press)
if sys.argv[1] == "start": pressing.start()
with open_executor_sync("local") as executor:
    if sys.argv[1] == "close":
        assert executor.run(CodeBlock("print(2)")).stdout == "2\\n"
        pressing.start()
"""
"""Two interrupts, the first after so many seconds, while an executor starts or closes. In a process of its own, since
one may come where nothing of ours takes it any more."""


@pytest.mark.parametrize("when", ["start", "close"])
def test_control_c_twice_leaves_nothing(tmp_path: Path, when: str) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for delay in (0.0005, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06):
        command = [sys.executable, "-c", TWICE, when, str(delay if when == "start" else delay / 10)]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=40)
        assert done.returncode in (0, -signal.SIGINT), done.stderr.decode()
        assert list(tmp_path.iterdir()) == []
        assert processes_with(str(tmp_path)) == []


def test_calls_of_several_threads_are_queued() -> None:
    with open_executor_sync("local") as executor, ThreadPoolExecutor(3) as threads:
        results = threads.map(lambda number: executor.run(CodeBlock(f"print({number})")).stdout, range(6))
        assert list(results) == [f"{number}\n" for number in range(6)]


def test_a_kernel_waits_between_calls() -> None:
    with open_executor_sync("jupyter") as executor:
        executor.run(CodeBlock("kept = 41"))
        assert executor.run(CodeBlock("kept + 1")).displays[0].data["text/plain"] == "42"


def test_is_used_within_with_only() -> None:
    executor = SyncExecutor(FakeExecutor())
    with pytest.raises(SandboxClosedError, match="inside 'with'"):
        executor.run(CodeBlock("1"))
    with executor, pytest.raises(RuntimeError, match="open already"), executor:
        pass
    with pytest.raises(SandboxClosedError, match="inside 'with'"):
        executor.put("a.txt", b"")


async def test_a_running_loop_is_told_what_to_write() -> None:
    with pytest.raises(RuntimeError, match=r"write 'async with open_executor\(...\)'"), open_executor_sync("fake"):
        pass


def test_one_that_does_not_start_leaves_nothing_open() -> None:
    class Broken(FakeExecutor):
        async def start(self) -> None:
            raise OSError("no")

    with pytest.raises(OSError, match="no"), SyncExecutor(Broken()):
        pass
