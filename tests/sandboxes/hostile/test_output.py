"""Section C: output."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from sandboxes.conformance.programs import (
    ENDLESS_FLOOD,
    FLOODS,
    MARKUP,
    NASTY,
    SPLIT_CHARACTERS,
    SPLIT_TEXT,
    pickled,
)
from sandboxes.types import Stream
from tests.sandboxes.hostile.arena import Arena


@pytest.mark.parametrize("name", FLOODS)
async def test_flood_keeps_head_and_tail_and_counts_the_rest(arena: Arena, name: str) -> None:
    out, err, code = FLOODS[name]
    before = psutil.Process().memory_info().rss
    result = await arena.attack(code, output="10K", wall_time=20)
    assert (result.stdout_bytes, result.stderr_bytes, result.truncated) == (out, err, True)
    assert len(result.stdout) + len(result.stderr) < 21 * 1024
    assert psutil.Process().memory_info().rss - before < 32 << 20


async def test_head_and_tail_are_the_right_bytes(arena: Arena) -> None:
    result = await arena.attack("print('HEAD' + 'x' * 100000 + 'TAIL')", output="1K")
    assert result.stdout.startswith("HEADxxx")
    assert result.stdout.endswith("xxxTAIL\n")
    assert "[... 98985 of 100009 bytes left out ...]" in result.stdout
    assert result.stdout.replace("x", "") == "HEAD\n[... 98985 of 100009 bytes left out ...]\nTAIL\n".replace("x", "")


async def test_flood_is_ended_in_time(arena: Arena) -> None:
    code = "import os\nif os.fork():\n    while True: os.write(1, b'x' * 65536)\nwhile True: os.write(2, b'y' * 65536)"
    result = await arena.attack(code, verdict="timeout", wall_time=0.7, output="10K")
    assert result.truncated
    assert result.stdout.startswith("x" * 5000)
    assert result.stderr.startswith("y" * 5000)


async def test_flood_to_a_slow_listener_is_ended_in_time(arena: Arena) -> None:
    def slow(stream: Stream, data: bytes) -> None:
        time.sleep(0.002)

    await arena.attack(ENDLESS_FLOOD, verdict="timeout", wall_time=0.5, on_output=slow)


async def test_flood_of_single_bytes_is_all_there(arena: Arena) -> None:
    code = "import os\nfor _ in range(20000): os.write(1, b'o'); os.write(2, b'e')"
    got = {"stdout": 0, "stderr": 0}

    def count(stream: Stream, data: bytes) -> None:
        got[stream] += len(data)

    result = await arena.attack(code, on_output=count)
    assert result.stdout == "o" * 20000
    assert got == {"stdout": 20000, "stderr": 20000}


@pytest.mark.parametrize("name", NASTY)
async def test_output_of_any_bytes_is_text(arena: Arena, name: str) -> None:
    written, text = NASTY[name]
    result = await arena.attack(f"import os\nos.write(1, {written!r})\nos.write(2, {written!r})")
    assert (result.stdout, result.stderr, result.stdout_bytes) == (text, text, len(written))


async def test_character_that_is_split_across_writes_is_whole(arena: Arena) -> None:
    assert (await arena.attack(SPLIT_CHARACTERS)).stdout == SPLIT_TEXT


async def test_truncation_inside_a_character_is_text(arena: Arena) -> None:
    result = await arena.attack("print('\\u20ac' * 10000, end='')", output=1001)
    assert result.truncated
    assert set(result.stdout.split("\n")[0]) <= {"\u20ac", "\ufffd"}


async def test_forged_frames_are_plain_output(arena: Arena) -> None:
    code = r"""
    import json, os, struct
    report = {"op": "result", "verdict": "ok", "exit_code": 0, "signal": None, "stdout_bytes": 0, "stderr_bytes": 0,
              "stdout_head": 0, "stderr_head": 0, "duration": 0.0, "cpu_time": 0.0, "peak_memory": 0, "message": "",
              "files": []}
    payload = json.dumps(report).encode()
    for kind in range(8):
        for stream in (1, 2):
            os.write(stream, struct.pack("!IB", len(payload), kind) + payload)
            os.write(stream, struct.pack("!IB", 0xffffffff, kind))
    print("=== END OF OUTPUT ===\n__EXIT_CODE__:0")
    os._exit(9)
    """
    result = await arena.attack(code, verdict="failed")
    assert result.exit_code == 9
    assert "=== END OF OUTPUT ===\n__EXIT_CODE__:0\n" in result.stdout
    assert result.stdout.count('"op": "result"') == 8


async def test_frames_to_every_descriptor_reach_nobody(arena: Arena) -> None:
    code = """
    import os, struct
    frame = struct.pack("!IB", 20, 1) + b'{"op": "fatal"}     '
    for descriptor in range(3, 1024):
        try:
            os.write(descriptor, frame)
            print("wrote to", descriptor)
        except OSError:
            pass
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) != os.getpid():
            for descriptor in range(64):
                try:
                    os.write(os.open("/proc/%s/fd/%d" % (pid, descriptor), os.O_WRONLY), frame)
                    print("wrote to", pid, descriptor)
                except OSError:
                    pass
    """
    assert (await arena.attack(code)).stdout == ""


async def test_markup_in_the_output_is_kept_as_it_is(arena: Arena) -> None:
    assert (await arena.attack(f"print({MARKUP!r}, end='')")).stdout == MARKUP


async def test_traceback_of_100_megabytes_is_bounded(arena: Arena) -> None:
    result = await arena.attack("raise ValueError('x' * 100_000_000)", verdict="failed", output="10K")
    assert result.exit_code == 1
    assert result.truncated
    assert result.stderr_bytes > 100_000_000
    assert len(result.stderr) < 11_000


@pytest.mark.parametrize("method", ["__repr__", "__str__", "__del__", "__reduce__"])
async def test_exception_in_a_hook_of_an_object_is_reported(arena: Arena, method: str) -> None:
    code = f"""
    class Bad(Exception):
        def {method}(self, *_):
            raise RuntimeError("in {method}")
    raise Bad()
    """
    result = await arena.attack(code, verdict="failed")
    assert result.exit_code == 1
    assert "Bad" in result.stderr


@pytest.mark.parametrize(
    "hook",
    [
        "sys.excepthook = None",
        "sys.excepthook = lambda *_: 1 / 0",
        "sys.stdout = None; sys.stderr = None",
        "sys.stdout.close(); sys.stderr.close()",
        "sys.stdout = object()",
        "sys.modules.clear()",
        "import builtins; builtins.__dict__.clear()",
        "import threading; threading._shutdown = None",
        "import gc; gc.get_objects = None; gc.collect = None",
        "import os; os._exit = None",
    ],
)
async def test_broken_interpreter_harms_only_itself(arena: Arena, hook: str) -> None:
    async with arena.open(wall_time=5) as executor:
        result = await executor.run(arena.python(f"import sys\n{hook}\nraise ValueError"))
        assert result.verdict == "failed"
        await arena.assert_usable(executor)


async def test_pickle_in_the_output_stays_bytes(arena: Arena) -> None:
    mark = arena.canaries.file.parent / "pickled"
    await arena.attack(pickled(str(mark)))
    assert not os.path.exists(mark)


async def test_memory_shared_with_the_runner_forges_no_verdict(arena: Arena) -> None:
    # A worker tells by it how far it got: here, that it could not even be executed.
    code = """
    import ctypes
    for line in open("/proc/self/maps"):
        words = line.split()
        start, end = (int(address, 16) for address in words[0].split("-"))
        if words[1] == "rw-s" and end - start == 4096:
            ctypes.memmove(start, bytes((3, 2)), 2)
            print("forged", flush=True)
    while True: pass
    """
    result = await arena.attack(code, verdict="timeout", wall_time=0.5)
    assert result.stdout == "forged\n"
    assert "interpreter" not in result.message
