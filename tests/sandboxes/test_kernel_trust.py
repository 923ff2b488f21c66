"""What a kernel says is believed in nothing; who does not answer is ended; nobody else gets near its sockets."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandboxes import CodeBlock, Executor, Limits, open_executor
from sandboxes.jupyter import executor as module
from sandboxes.jupyter.client import CHANNELS, Answer, Client
from tests.sandboxes.backends import Backend
from tests.sandboxes.test_kernel import PRELUDE, SLEEP, backend, kernel, out, spec, usable

__all__ = ["backend", "kernel"]


async def test_kernel_that_answers_no_heartbeat_is_ended(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.2)
    monkeypatch.setattr(module, "PATIENCE", 2.0)
    async with open_executor(spec(backend), limits=Limits(wall_time=50)) as executor:
        # Computing without letting other threads run is no silence.
        assert await out(executor, "x = 1\nfor _ in range(3): y = 7 ** 3_000_000\nprint(x)") == "1\n"
        stop = "import os, signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)"
        started = time.monotonic()
        result = await executor.run(CodeBlock(stop))
        assert time.monotonic() - started < 30
        assert (result.verdict, result.stdout) == ("failed", "before\n"), result
        assert "it has answered no heartbeat for" in result.message
        assert "its state is lost" in result.message
        assert await out(executor, "print('x' in globals())") == "False\n"


async def test_stopped_kernel_times_out_in_bounds(backend: Backend) -> None:
    async with open_executor(spec(backend), limits=Limits(wall_time=1)) as executor:
        started = time.monotonic()
        result = await executor.run(CodeBlock("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"))
        assert (result.verdict, time.monotonic() - started < 30) == ("timeout", True), result
        assert await usable(executor)


async def test_cancel_counts_while_the_first_cell_is_sent(backend: Backend) -> None:
    for moments in (1, 2, 3):
        async with open_executor(spec(backend)) as executor:
            task = asyncio.create_task(executor.run(CodeBlock(SLEEP)))
            for _ in range(moments):
                await asyncio.sleep(0)
            await executor.cancel()
            assert (await asyncio.wait_for(task, 20)).verdict == "cancelled"
            assert await usable(executor)


async def test_cancel_counts_while_a_kernel_starts_anew(kernel: Executor) -> None:
    assert (await kernel.run(CodeBlock("import os; os._exit(1)"))).verdict == "failed"
    task = asyncio.create_task(kernel.run(CodeBlock(SLEEP)))
    await asyncio.sleep(0.01)
    await kernel.cancel()
    assert (await asyncio.wait_for(task, 20)).verdict == "cancelled"
    assert await usable(kernel)


WATCHED = """
import json, os, sys
from ipykernel.ipkernel import IPythonKernel
home, start = sys.argv[1], IPythonKernel.start
def sockets():
    return sorted(name for name in os.listdir(home) if name[1:2] == "-")
def watched(kernel):
    print(json.dumps(sockets()), flush=True)
    start(kernel)
    print(json.dumps(sockets()), flush=True)
IPythonKernel.start = watched
from sandboxes.runner.ipython import run_kernel
run_kernel(home + "/connection.json")
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose sockets have addresses that are short enough, however deep the tests lie."""
    with tempfile.TemporaryDirectory(prefix="kernel-") as name:
        yield Path(name)


def test_nobody_finds_a_kernel_that_cannot_be_asked_yet(short: Path) -> None:
    connection = {
        **{f"{name}_port": number for number, name in enumerate(CHANNELS, 1)},
        "transport": "ipc",
        "ip": f"{short}/k",
        "key": "key",
        "signature_scheme": "hmac-sha256",
    }
    (short / "connection.json").write_text(json.dumps(connection))
    with subprocess.Popen([sys.executable, "-c", WATCHED, short], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            for _ in range(2):  # before `Kernel.start`, and after it
                assert json.loads(process.stdout.readline()) == [f"n-{number}" for number in range(1, 6)]
            while sorted(path.name for path in short.glob("?-*")) != [f"k-{number}" for number in range(1, 6)]:
                time.sleep(0.01)
            assert json.loads((short / "connection.json").read_text()) == connection
        finally:
            process.kill()


async def test_kernel_that_misses_a_message_is_connected_to_again(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected, connect, ask = [], Client.connect, Client.ask

    async def counting(self: Client, *args: Any, **options: Any) -> None:
        connected.append(self)
        await connect(self, *args, **options)

    async def unheard(self: Client, *args: Any, **options: Any) -> Answer:
        if len(connected) < 2:
            await asyncio.sleep(60)
        return await ask(self, *args, **options)

    monkeypatch.setattr(Client, "connect", counting)
    monkeypatch.setattr(Client, "ask", unheard)
    async with open_executor(spec(backend)) as executor:
        assert await usable(executor)
    assert len(connected) == 2
    assert connected[0] is connected[1]


async def test_cancelling_the_task_at_any_moment_of_a_start_breaks_nothing(kernel: Executor) -> None:
    dice = random.Random(2026)
    for _ in range(8):
        await kernel.run(CodeBlock("import os; os._exit(1)"))
        task = asyncio.create_task(kernel.run(CodeBlock("print(1)", filename="a.py")))
        await asyncio.sleep(dice.random() / 4)
        task.cancel()
        await asyncio.wait([task], timeout=20)
        assert await usable(kernel)


WRONG = {
    "content is a list": "sign({'msg_type': 'display_data'}, [1], own)",
    "data is text": "sign({'msg_type': 'display_data'}, {'data': 'text'}, own)",
    "transient is text": "sign({'msg_type': 'display_data'}, {'data': {}, 'transient': 'x'}, own)",
    "type is a number": "sign({'msg_type': 7}, {}, own)",
    "traceback is a number": "sign({'msg_type': 'error'}, {'ename': 1, 'traceback': 7}, own)",
    "too many representations": "sign({'msg_type': 'display_data'}, {'data': {str(n): 'x' for n in range(99)}}, own)",
}


@pytest.mark.parametrize("what", WRONG)
async def test_message_that_is_not_what_it_should_be_is_counted_and_ends_nothing(kernel: Executor, what: str) -> None:
    code = f"{PRELUDE}{WRONG[what]}\nimport time; time.sleep(0.2)\nprint('after')\n1 + 1"
    result = await kernel.run(CodeBlock(code))
    assert (result.verdict, result.stdout) == ("ok", "after\n"), result
    assert [display.data for display in result.displays] == [{"text/plain": "2"}]
    assert result.message == "1 malformed messages were left out"


async def test_what_a_kernel_says_can_be_written_down(kernel: Executor) -> None:
    content = {
        "data": {"text/plain": "\ud800", "\udfff": "x", "application/json": {"a": "\ud800"}},
        "metadata": {"\ud800": ["\udc00", float("nan")]},
    }
    deep = "{'data': {'text/plain': 'deep'}, 'metadata': {'a': json.loads('[' * 400 + ']' * 400)}}"
    error = {"ename": "\ud800", "evalue": "\ud800", "traceback": ["\ud800"]}
    code = (
        f"{PRELUDE}nan = float('nan')\nsign({{'msg_type': 'display_data'}}, {content!r}, own)\n"
        f"sign({{'msg_type': 'display_data'}}, {deep}, own)\nsign({{'msg_type': 'error'}}, {error!r}, own)"
    )
    result = await kernel.run(CodeBlock(code))
    assert len(result.displays) == 2, result
    assert result.model_validate_json(result.model_dump_json()).error == result.error


async def test_counts_and_updates(kernel: Executor) -> None:
    result = await kernel.run(CodeBlock("display(1)\n2"))
    assert result.execution_count == 1
    assert [display.execution_count for display in result.displays] == [None, 1]
    code = (
        "h = display('x' * 1_000_000, display_id='a')\ndisplay('y', display_id='a')\n"
        "for n in range(40): update_display('z' * 1_000_000, display_id='a')\n"
        "from IPython.display import update_display, clear_output\n"
    )
    code = "from IPython.display import update_display, clear_output\n" + code
    result = await kernel.run(CodeBlock(code))
    assert (result.verdict, result.message, result.execution_count) == ("ok", "", 2)
    assert [display.data["text/plain"][:2] for display in result.displays] == ["'z", "'z"]
    # A name from before a clearing means nothing any more.
    code = "display(1, display_id='b')\nclear_output()\ndisplay(2)\nupdate_display(3, display_id='b')"
    result = await kernel.run(CodeBlock(code))
    assert [display.data for display in result.displays] == [{"text/plain": "2"}]


async def test_nobody_else_reaches_a_kernel(backend: Backend) -> None:
    async with open_executor(spec(backend)) as one, open_executor(spec(backend)) as other:
        shared: Path = one._here  # type: ignore[attr-defined]
        (directory,) = shared.iterdir()
        names = {path.name for path in directory.iterdir()}
        assert {"k-1", "k-2"} <= names
        assert all(path.lstat().st_mode & 0o077 == 0 for path in (shared, directory))
        # Not by another run, which has a directory of its own, and not by the host's name for it.
        seen = await out(other, f"import os\nprint(os.listdir('/shared'), os.path.exists({str(directory)!r}))")
        assert directory.name not in seen
        assert seen.endswith("False\n")
        # Not over a network, and the key is in nobody's arguments or environment.
        key = one._client.session.key.decode()  # type: ignore[attr-defined]
        assert len(key) == 64
        for process in [psutil.Process(pid) for pid in backend.processes()]:
            assert key not in " ".join(process.cmdline())
            if process.uids().real == os.geteuid() or os.geteuid() == 0:
                assert key.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()
            assert not process.net_connections(kind="inet")
        if os.geteuid() == 0:
            assert_out_of_reach(directory)
        assert await usable(one)


def assert_out_of_reach(directory: Path) -> None:
    """Another user can neither look into a kernel's directory nor connect to its sockets."""
    program = f"""
import os, socket
os.setgroups([]); os.setgid(4242); os.setuid(4242)
for attempt in (
    lambda: os.listdir({str(directory)!r}),
    lambda: socket.socket(socket.AF_UNIX).connect({str(directory / "k-1")!r}),
):
    try:
        attempt()
    except PermissionError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=20)
    assert done.stdout == "refused\nrefused\n", done


async def test_code_is_taken_as_python_takes_a_file(kernel: Executor) -> None:
    assert await out(kernel, "\ufeffprint(1)\r\nprint(2)\r\n") == "1\n2\n"
    for code in ("a\0b", "'\ud800' +"):
        assert (await kernel.run(CodeBlock(code))).verdict == "failed"
    assert await usable(kernel)


async def test_full_shared_memory_is_memory(backend: Backend) -> None:
    limits = Limits(memory="300M", file_size="500M", wall_time=20)
    async with open_executor(spec(backend), limits=limits) as executor:
        code = "with open('/dev/shm/a', 'wb') as file:\n  for _ in range(400): file.write(bytes(1 << 20))"
        result = await executor.run(CodeBlock(code))
        assert result.verdict == "memory", result
        assert "300 MiB" in result.message
        assert await usable(executor)
