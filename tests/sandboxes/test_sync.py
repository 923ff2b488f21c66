"""Executors without an event loop."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
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
from tests.sandboxes.backends import descendants, require_engine


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


def press_control_c_twice(delay: float) -> threading.Thread:
    """Send two interrupts, the first after so many seconds, while an executor starts or closes."""

    def press() -> None:
        for wait in (delay, 0.002):
            time.sleep(wait)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


@pytest.mark.parametrize("when", ["start", "close"])
def test_control_c_twice_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for delay in (0.0005, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06) * 2:
        pressing = press_control_c_twice(delay) if when == "start" else None
        with contextlib.suppress(KeyboardInterrupt):
            try:
                with open_executor_sync("local") as executor:
                    if pressing is None:
                        assert executor.run(CodeBlock("print(2)")).stdout == "2\n"
                        pressing = press_control_c_twice(delay / 10)
            finally:
                while pressing is not None and pressing.is_alive():
                    with contextlib.suppress(KeyboardInterrupt):
                        pressing.join()
    assert (list(tmp_path.iterdir()), descendants()) == ([], set())


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
