"""The kernel's process says on its sockets what it likes: the host lives, waits for nothing, and keeps little."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxes import CodeBlock, Executor, Limits, SandboxClosedError, open_executor
from sandboxes.jupyter.client import Client
from sandboxes.jupyter.zmtp import COMMAND, GREETING, LONG, MORE, ZmtpError, frame
from tests.fuzz.mutate import mutate
from tests.sandboxes.backends import Backend
from tests.sandboxes.test_kernel import PRELUDE, backend, kernel, out, spec, usable

__all__ = ["backend", "kernel"]

READY = frame(COMMAND, b"\x05READY\x0bSocket-Type\0\0\0\6ROUTER")


def memory() -> int:
    """Return how many bytes of memory this process has had at most since `forget_memory`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def forget_memory() -> int:
    """Begin to count anew; return what this process has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory()


# Floods

FLOOD = f"""{PRELUDE}
import threading, time
content = json.dumps({{'data': {{'text/plain': 'x' * (4 << 20)}}, 'metadata': {{}}}})
parts = [json.dumps(part).encode() for part in ({{'msg_id': '1', 'msg_type': 'display_data'}}, own, {{}})]
parts.append(content.encode())
parts = [b'x', b'<IDS|MSG>', hmac.new(app.session.key, b''.join(parts), hashlib.sha256).hexdigest().encode(), *parts]
sent = 0
def flood():
    global sent
    for _ in range(512):
        app.iopub_socket.send_multipart(parts, copy=False)
        sent += 1
        if sent % 16 == 0: time.sleep(0.03)
flooding = threading.Thread(target=flood)
"""


async def test_flood_of_displays_between_and_during_cells_costs_the_host_little(kernel: Executor) -> None:
    await out(kernel, FLOOD)
    before = forget_memory()
    await out(kernel, "flooding.start()")
    await asyncio.sleep(1.0)
    for number in range(1, 4):
        assert await out(kernel, f"while sent < {number * 100}: time.sleep(0.01)\nprint({number})") == f"{number}\n"
    assert await out(kernel, "flooding.join(); print(sent)") == "512\n"
    for _ in range(3):  # what was published before may still be on its way, and the display behind it
        result = await kernel.run(CodeBlock("1 + 1"))
        assert result.verdict == "ok", result
        if result.displays:
            break
    assert [display.data for display in result.displays] == [{"text/plain": "2"}]
    # Displays of a thread's are those of the cell that started it, and that one is over.
    assert memory() - before < 64 << 20


async def test_flood_of_a_cell_s_own_displays_costs_little_and_is_told(kernel: Executor) -> None:
    await out(kernel, FLOOD)
    before = forget_memory()
    result = await kernel.run(
        CodeBlock("parts[4] = json.dumps({'msg_id': get_ipython().kernel.get_parent()['header']['msg_id']}).encode()\n"
                  "parts[2] = hmac.new(app.session.key, b''.join(parts[3:]), hashlib.sha256).hexdigest().encode()\n"
                  "flood(); print('done')")
    )  # fmt: skip
    assert (result.verdict, result.stdout) == ("ok", "done\n"), result
    assert sum(len(display.data["text/plain"]) for display in result.displays) <= 16 << 20
    assert "displays were left out" in result.message
    assert memory() - before < 128 << 20
    assert await usable(kernel)


async def test_hundred_thousand_messages_are_counted_and_hold_nobody_up(kernel: Executor) -> None:
    await out(kernel, FLOOD)
    before = forget_memory()
    code = (
        "own = {'msg_id': get_ipython().kernel.get_parent()['header']['msg_id']}\n"
        'parts[4] = json.dumps(own).encode()\nparts[6] = b\'{"data": {"text/plain": "x"}}\'\n'
        "parts[2] = hmac.new(app.session.key, b''.join(parts[3:]), hashlib.sha256).hexdigest().encode()\n"
        "thread = app.iopub_thread\nmany = lambda: [thread.socket.send_multipart(parts) for _ in range(100_000)]\n"
        "thread.schedule(many)\nprint('done')"
    )
    result = await kernel.run(CodeBlock(code))
    assert (result.verdict, result.stdout, len(result.displays)) == ("ok", "done\n", 100), result
    assert "displays were left out" in result.message
    assert memory() - before < 32 << 20
    assert await usable(kernel)


async def test_many_values_in_one_message_cost_little(kernel: Executor) -> None:
    await out(kernel, PRELUDE)
    before = forget_memory()
    code = "own = {'msg_id': get_ipython().kernel.get_parent()['header']['msg_id']}\n" + "".join(
        f"sign({{'msg_type': 'display_data'}}, {content}, own)\n"
        for content in (
            "'{\"data\": [' + '{},' * 2_500_000 + '{}]}'",
            "'[' * 8_000_000",
            "'[' + '0,' * 4_000_000 + '0]'",
            "'\"' + chr(92) + (',' + chr(92)) * 4_000_000",
        )
    )
    result = await kernel.run(CodeBlock(code))
    assert (result.verdict, result.message) == ("ok", "4 malformed messages were left out")
    assert memory() - before < 64 << 20
    # A text may hold as many commas as it likes.
    result = await kernel.run(CodeBlock("from IPython.display import HTML\nHTML(',[{\"' * 1_000_000)"))
    assert [len(display.data["text/html"]) for display in result.displays] == [4_000_000], result


# What is too large, and what is forged


async def test_display_that_is_too_large_is_left_out_and_the_rest_is_not(kernel: Executor) -> None:
    code = "from IPython.display import HTML, display\ndisplay(HTML('x' * 100_000_000))\nprint('after')\n1 + 1"
    result = await kernel.run(CodeBlock(code))
    assert (result.verdict, result.stdout, result.message) == ("ok", "after\n", "1 displays were left out")
    assert [display.data for display in result.displays] == [{"text/plain": "2"}]


async def test_answer_that_is_too_large_is_an_error(kernel: Executor) -> None:
    started = time.monotonic()
    result = await kernel.run(CodeBlock("x = 1\nraise ValueError('y' * 20_000_000)"))
    assert (result.verdict, time.monotonic() - started < 30) == ("failed", True)
    assert result.error is not None
    assert (result.error.name, "more than 8 MiB" in result.error.message) == ("AnswerTooLarge", True)
    assert await out(kernel, "print(x)") == "1\n"


FORGED = """
import time
sign({'msg_type': 'status'}, {'execution_state': 'idle'}, own)
time.sleep(1.5)
print('late')
1 / 0
"""


async def test_cell_that_claims_to_be_over_is_not_over(kernel: Executor) -> None:
    result = await kernel.run(CodeBlock(PRELUDE + FORGED))
    assert (result.verdict, result.stdout) == ("failed", "late\n"), result
    assert result.error is not None
    assert result.error.name == "ZeroDivisionError"
    assert await out(kernel, "print('mine')") == "mine\n"


async def test_kernel_that_never_says_it_is_idle_has_done_with_its_answer(kernel: Executor) -> None:
    code = "from ipykernel.kernelbase import Kernel\nKernel._publish_status = lambda *_, **__: None\nprint('hushed')"
    for _ in range(2):
        started = time.monotonic()
        assert await out(kernel, code) == "hushed\n"
        assert time.monotonic() - started < 20


@pytest.mark.parametrize("error", [SandboxClosedError("x"), TimeoutError(), ValueError("full")], ids=repr)
async def test_error_of_a_listener_is_passed_on_whatever_it_is(kernel: Executor, error: Exception) -> None:
    def refuse(stream: str, data: bytes) -> None:
        raise error

    await out(kernel, "x = 1")
    for code in ("print('at the end')", "import time\nprint('up', flush=True)\ntime.sleep(60)"):
        with pytest.raises(type(error)):
            await kernel.run(CodeBlock(code), on_output=refuse)
        assert await out(kernel, "print(x)") == "1\n"


# Bytes

RAW = """
import os, socket
def sockets():
    for number in range(3, 200):
        try:
            found = socket.socket(fileno=os.dup(number))
        except OSError:
            continue
        if found.family == socket.AF_UNIX and not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            yield found
def say(data):
    for each in sockets(): each.send(data)
"""
UNSPEAKABLE = {
    "flags": b"\xff" * 1000,
    "a command without end": bytes((COMMAND | LONG,)) + b"\x7f" + b"\xff" * 7,
    "a command in pieces": bytes((COMMAND | MORE, 1)) + b"x",
}


@pytest.mark.parametrize("what", UNSPEAKABLE)
async def test_kernel_that_says_what_is_no_message_is_ended(kernel: Executor, what: str) -> None:
    started = time.monotonic()
    result = await kernel.run(CodeBlock(f"{RAW}\nsay({UNSPEAKABLE[what]!r})\nimport time; time.sleep(20)"))
    assert (result.verdict, time.monotonic() - started < 15) == ("failed", True), result
    assert "its messages cannot be read" in result.message
    assert await usable(kernel)


async def test_kernel_that_begins_a_message_without_end_costs_its_wall_time(backend: Backend) -> None:
    async with open_executor(spec(backend), limits=Limits(wall_time=2)) as executor:
        before = forget_memory()
        endless = bytes((LONG,)) + (1 << 62).to_bytes(8, "big")
        result = await executor.run(CodeBlock(f"{RAW}\nsay({endless!r})\nprint('before', flush=True)"))
        assert (result.verdict, result.stdout) == ("timeout", "before\n"), result
        assert memory() - before < 32 << 20
        assert await usable(executor)


async def test_kernel_that_hangs_up_is_replaced(kernel: Executor) -> None:
    code = f"{RAW}\nfor each in list(sockets()): each.shutdown(2)\n"
    result = await kernel.run(CodeBlock(code + "import time; time.sleep(20)"))
    assert (result.verdict, "it has closed its sockets" in result.message) == ("failed", True), result
    assert await usable(kernel)


class Speaker:
    """A kernel that says some bytes on each connection, and hangs up."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.says: Callable[[], bytes] = lambda: b""

    async def __aenter__(self) -> Speaker:
        self._servers = [
            await asyncio.start_unix_server(self._speak, self.directory / f"k-{number}") for number in range(1, 6)
        ]
        return self

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.says())
        writer.close()

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()


async def test_no_handshake_and_no_message_breaks_a_client(tmp_path: Path) -> None:
    dice = random.Random(2026)
    message = b"".join(frame(MORE, part) for part in (b"<IDS|MSG>", b"0" * 64, b"{}", b"{}")) + frame(0, b"{}")
    seeds = [GREETING + READY + message, GREETING + READY + frame(COMMAND, b"\x04PING\0\0abc") + message * 3]
    directory = os.open(tmp_path, os.O_RDONLY)
    ends = {"connected": 0, "refused": 0}
    async with Speaker(tmp_path) as speaker:
        speaker.says = lambda: dice.choice([*seeds, mutate(seeds, dice)])
        for _ in range(400):
            client = Client(b"key")
            try:
                await client.connect(directory, "k", time.monotonic() + 5, control=True)
                ends["connected"] += 1
            except (ZmtpError, OSError):
                ends["refused"] += 1
            finally:
                client.close()
    os.close(directory)
    assert ends["refused"] > 50
    assert ends["connected"] > 10


async def test_name_that_is_no_socket_or_a_link_is_not_connected_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    async with Speaker(tmp_path / "elsewhere"):
        directory = os.open(tmp_path, os.O_RDONLY)
        for link in (True, False):
            path = tmp_path / "k-1"
            path.symlink_to("elsewhere/k-1") if link else path.touch()
            with pytest.raises(OSError, match="no socket"):
                await Client(b"key").connect(directory, "k", time.monotonic() + 5, control=False)
            path.unlink()
        os.close(directory)


TORN = """
import ctypes, os, random, signal, threading, time
def die():
    time.sleep({delay})
    say({torn!r})
    os.kill(os.getpid(), {number})
threading.Thread(target=die).start()
from IPython.display import display
while True:
    print('x' * 1000); display('y' * 10_000)
"""


async def test_kernel_that_dies_at_any_moment_in_the_middle_of_a_message_is_replaced(kernel: Executor) -> None:
    dice = random.Random(2026)
    for number in (9, 6, 11, 9, 6, 11):
        torn = frame(MORE, b"<IDS|MSG>")[: dice.randrange(12)]
        code = TORN.format(delay=dice.random() / 20, torn=torn, number=number)
        result = await kernel.run(CodeBlock(f"{RAW}\n{code}"))
        assert (result.verdict, "its state is lost" in result.message) == ("failed", True), result
        assert result.signal == number or "its messages cannot be read" in result.message
        assert await usable(kernel)
