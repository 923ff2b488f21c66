"""Kernels keep their state, show things, are held to their limits, and are replaced when they die."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sandboxes import (
    CodeBlock,
    Executor,
    Limits,
    SandboxClosedError,
    SandboxUnavailable,
    UnknownLanguage,
    open_executor,
)
from sandboxes.docker.workspace import NOBODY
from tests.sandboxes.backends import KERNELS, Backend, containers, descendants, require_engine

SLEEP = "import time\nprint('up', flush=True)\ntime.sleep(60)"


@pytest.fixture(params=KERNELS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each sandbox with a kernel in it."""
    chosen: Backend = request.param
    require_engine(chosen.installed(), chosen.engine)
    return chosen


def spec(backend: Backend) -> str:
    return backend.spec


@pytest.fixture
async def kernel(backend: Backend) -> AsyncIterator[Executor]:
    async with open_executor(spec(backend), limits=Limits(wall_time=20)) as executor:
        yield executor
    assert (descendants(), containers()) == (set(), [])


async def out(executor: Executor, code: str, language: str = "python") -> str:
    result = await executor.run(CodeBlock(code, language=language))
    assert (result.verdict, result.stderr, result.error) == ("ok", "", None), result
    return result.stdout


async def usable(executor: Executor) -> bool:
    return (await executor.run(CodeBlock("print('hello')"))).stdout == "hello\n"


# State


async def test_variables_imports_functions_and_directory_stay(kernel: Executor) -> None:
    await out(kernel, "import os, math\nx = 20\ndef double(n): return 2 * n\nos.makedirs('d'); os.chdir('d')")
    assert await out(kernel, "x += 1; print(double(x), math.pi > 3, os.getcwd())") == "42 True /workspace/d\n"


async def test_await_at_the_top_magics_and_shell_lines(kernel: Executor) -> None:
    assert await out(kernel, "import asyncio\nawait asyncio.sleep(0.01)\nprint('awaited')") == "awaited\n"
    assert "Wall time" in await out(kernel, "%time 1 + 1")
    assert await out(kernel, "%%bash\necho from $0 | cut -c 1-4") == "from\n"
    assert (await out(kernel, "!echo hi")).split() == ["hi"]
    assert await out(kernel, "a = !echo one\nprint(a)") == "['one']\n"


async def test_cells_import_modules_from_the_workspace(kernel: Executor) -> None:
    await kernel.put("helper.py", b"NAME = 'helper'")
    await kernel.put("json.py", b"raise RuntimeError('not before the standard library')")
    await out(kernel, "import json, helper; assert helper.NAME == 'helper'")


async def test_other_languages_run_beside_the_state(kernel: Executor) -> None:
    await out(kernel, "x = 1")
    assert await out(kernel, "echo $((6 * 7))", "bash") == "42\n"
    assert await out(kernel, "print(x)") == "1\n"
    with pytest.raises(UnknownLanguage, match=r"not r$"):
        await kernel.run(CodeBlock("1", language="r"))


async def test_named_block_is_saved_and_listed(kernel: Executor) -> None:
    result = await kernel.run(CodeBlock("print(1)", filename="src/a.py"))
    assert result.stdout == "1\n"
    assert await kernel.get("src/a.py") == b"print(1)"
    result = await kernel.run(CodeBlock("open('made.csv', 'w').write('x')"))
    assert [file.path for file in result.files] == ["made.csv"]


async def test_background_processes_and_threads_live_on_and_die_at_close(backend: Backend) -> None:
    async with open_executor(spec(backend)) as executor:
        await out(executor, "import subprocess\nchild = subprocess.Popen(['sleep', '600'])")
        assert await out(executor, "print(child.poll())") == "None\n"
        await out(
            executor,
            "import threading, time\ncount = 0\n"
            "def work():\n  global count\n  while True: count += 1; time.sleep(0.01)\n"
            "threading.Thread(target=work, daemon=True).start()",
        )
        await asyncio.sleep(0.1)
        assert int(await out(executor, "print(count)")) > 3
        running = backend.processes()
    assert not running & backend.processes()


async def test_restart_and_reset_give_a_fresh_kernel(kernel: Executor) -> None:
    await out(kernel, "x = 1; open('kept', 'w').write('y')")
    await kernel.restart()
    assert await out(kernel, "print('x' in globals(), open('kept').read())") == "False y\n"
    await out(kernel, "x = 1")
    await kernel.reset()
    assert await out(kernel, "import os; print('x' in globals(), os.listdir('.'))") == "False []\n"


# Displays and errors


async def test_last_value_and_rich_objects_are_displays(kernel: Executor) -> None:
    result = await kernel.run(CodeBlock("1 + 1"))
    assert [display.data for display in result.displays] == [{"text/plain": "2"}]
    code = """
from IPython.display import *
display(Image(b"\\xff\\xd8\\xff", format="jpeg"))
for one in (HTML("<b>x</b>"), Markdown("*x*"), Latex("$x$"), JSON({"a": [1]}), SVG("<svg xmlns='http://www.w3.org/2000/svg'/>")):
    display(one)
"""
    kinds = [set(display.data) - {"text/plain"} for display in (await kernel.run(CodeBlock(code))).displays]
    assert kinds == [
        {"image/jpeg"},
        {"text/html"},
        {"text/markdown"},
        {"text/latex"},
        {"application/json"},
        {"image/svg+xml"},
    ]


async def test_plot_is_a_picture(backend: Backend) -> None:
    async with open_executor(spec(backend), limits=Limits(wall_time=30)) as executor:
        result = await executor.run(CodeBlock("import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()"))
        pictures = [display.data["image/png"] for display in result.displays if "image/png" in display.data]
        assert len(pictures) == 1
        content = base64.b64decode(pictures[0])
        assert content.startswith(b"\x89PNG")
        assert [(file.path, file.size) for file in result.files] == [("plot-1.png", len(content))]
        assert await executor.get("plot-1.png") == content
        await executor.put("plot-2.svg", b"the user's")
        code = "from IPython.display import SVG, display\nfor _ in range(2): display(SVG('<svg></svg>'))"
        result = await executor.run(CodeBlock(code))
        assert [file.path for file in result.files] == ["plot-3.svg", "plot-4.svg"]
        assert await executor.get("plot-2.svg") == b"the user's"
        await executor.run(CodeBlock("for number in range(1000): open(f'plot-{number}.svg', 'w').close()"))
        picture = (await executor.run(CodeBlock("display(SVG('<svg></svg>'))"))).files[-1].path
        assert re.fullmatch(r"plot-[0-9a-f]{16}\.svg", picture)
        assert (await executor.get(picture)).startswith(b"<svg")


async def test_display_is_updated_and_cleared(kernel: Executor) -> None:
    code = "from IPython.display import display\nh = display(1, display_id=True)\nh.update(2)"
    assert [display.data for display in (await kernel.run(CodeBlock(code))).displays] == [{"text/plain": "2"}]
    code = "from IPython.display import clear_output, display\ndisplay(1)\nclear_output()\ndisplay(2)"
    assert [display.data for display in (await kernel.run(CodeBlock(code))).displays] == [{"text/plain": "2"}]
    code = "display(1)\nclear_output(wait=True)\ndisplay(2)\nclear_output(wait=True)"
    assert [display.data for display in (await kernel.run(CodeBlock(code))).displays] == [{"text/plain": "2"}]


async def test_files_are_listed_however_late_the_runner_hears_of_a_cell(backend: Backend, tmp_path: Path) -> None:
    if os.geteuid() == 0 and backend.container:
        os.chown(tmp_path, NOBODY, NOBODY)
    async with open_executor(spec(backend), workspace=tmp_path) as executor:
        runner = backend.runner(executor)
        for name in ("a", "b"):
            os.kill(runner, signal.SIGSTOP)
            try:
                running = asyncio.create_task(executor.run(CodeBlock(f"open({name!r}, 'w').close()")))
                while not (tmp_path / name).exists():
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)  # longer than the clock of change times ticks
            finally:
                os.kill(runner, signal.SIGCONT)
            assert [file.path for file in (await running).files] == [name]
        assert (await executor.run(CodeBlock("1"))).files == ()


async def test_error_has_name_message_and_both_tracebacks(kernel: Executor) -> None:
    result = await kernel.run(CodeBlock("print('before')\ndef f(): return 1 / 0\nf()"))
    assert (result.verdict, result.exit_code, result.stdout) == ("failed", 1, "before\n")
    assert result.error is not None
    assert (result.error.name, result.error.message) == ("ZeroDivisionError", "division by zero")
    assert "return 1 / 0" in result.error.traceback
    assert "\x1b" not in result.error.traceback
    assert "\x1b[" in result.error.coloured
    result = await kernel.run(CodeBlock("x ="))
    assert result.error is not None
    assert result.error.name == "SyntaxError"
    result = await kernel.run(CodeBlock("raise SystemExit(3)"))
    assert (result.verdict, result.error and result.error.name) == ("failed", "SystemExit")
    assert await usable(kernel)


async def test_input_fails_at_once(kernel: Executor) -> None:
    started = time.monotonic()
    result = await kernel.run(CodeBlock("input('? ')"))
    assert result.error is not None
    assert result.error.name == "StdinNotImplementedError"
    assert time.monotonic() - started < 20


async def test_displays_are_bounded_in_number_and_size(kernel: Executor) -> None:
    result = await kernel.run(CodeBlock("from IPython.display import display\nfor i in range(400): display(i)"))
    assert len(result.displays) == 100
    assert "300 displays were left out" in result.message
    code = "from IPython.display import HTML\nfor i in range(5): display(HTML('x' * 6_000_000))"
    result = await kernel.run(CodeBlock(code))
    assert len(result.displays) == 2
    assert result.verdict == "ok"
    assert await usable(kernel)


async def test_output_is_live_bounded_and_counted(kernel: Executor) -> None:
    seen: list[float] = []
    code = (
        "import time, os, sys\nfor i in range(3):\n  print(i, flush=True); time.sleep(0.2)\nprint('e', file=sys.stderr)"
    )
    result = await kernel.run(CodeBlock(code), on_output=lambda *_: seen.append(time.monotonic()))
    assert (result.stdout, result.stderr) == ("0\n1\n2\n", "e\n")
    assert seen[-1] - seen[0] > 0.3
    result = await kernel.run(CodeBlock("s = 'x' * 999 + '\\n'\nfor _ in range(50_000): print(s, end='')"))
    assert (result.verdict, result.stdout_bytes, result.truncated) == ("ok", 50_000_000, True)
    assert len(result.stdout) < 1_100_000
    assert (await kernel.run(CodeBlock("os.write(1, b'raw\\xff\\n')"))).stdout == "raw\ufffd\n"
    assert await usable(kernel)


# Limits and ends


async def test_cell_that_runs_too_long_is_interrupted_and_the_state_is_kept(backend: Backend) -> None:
    async with open_executor(spec(backend), limits=Limits(wall_time=1)) as executor:
        for code in (
            "x = 5\nimport time\nprint('up', flush=True)\ntime.sleep(60)",
            "x = 6\nprint('up')\nwhile True: pass",
        ):
            started = time.monotonic()
            result = await executor.run(CodeBlock(code))
            assert (result.verdict, result.stdout) == ("timeout", "up\n"), result
            assert "the state is kept" in result.message
            assert time.monotonic() - started < 20
        assert await out(executor, "print(x)") == "6\n"


@pytest.mark.parametrize(
    "then", ["os._exit(3)", "held = b'x' * (600 << 20); time.sleep(30)"], ids=["ends", "takes memory"]
)
async def test_what_comes_of_the_interrupt_is_no_verdict_on_the_cell(backend: Backend, then: str) -> None:
    code = f"""
import os, time
print("up", flush=True)
try:
    time.sleep(30)
except KeyboardInterrupt:
    {then}
"""
    async with open_executor(spec(backend), limits=Limits(wall_time=1, memory="512M")) as kernel:
        result = await kernel.run(CodeBlock(code))
        assert (result.verdict, result.stdout, result.exit_code) == ("timeout", "up\n", None), result
        assert result.message.startswith("ran longer than 1 s; "), result.message
        assert "its state is lost" in result.message
        assert await out(kernel, "print(1)") == "1\n"


async def test_cell_that_ignores_the_interrupt_costs_the_state(backend: Backend) -> None:
    async with open_executor(spec(backend), limits=Limits(wall_time=1)) as executor:
        await out(executor, "x = 5")
        code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up', flush=True)\nwhile True: pass"
        started = time.monotonic()
        result = await executor.run(CodeBlock(code))
        assert (result.verdict, result.stdout) == ("timeout", "up\n"), result
        assert "its state is lost" in result.message
        assert time.monotonic() - started < 20
        assert await out(executor, "print('x' in globals())") == "False\n"


@pytest.mark.parametrize(
    ("code", "verdict", "exit_code", "number"),
    [
        ("import os; os._exit(3)", "failed", 3, None),
        ("import os; os._exit(0)", "failed", 0, None),
        ("import ctypes; ctypes.string_at(0)", "failed", None, signal.SIGSEGV),
        ("import os; os.abort()", "failed", None, signal.SIGABRT),
        ("import os; os.kill(os.getpid(), 9)", "failed", None, signal.SIGKILL),
    ],
)
async def test_dead_kernel_is_told_and_replaced(
    kernel: Executor, code: str, verdict: str, exit_code: int | None, number: int | None
) -> None:
    await out(kernel, "x = 1")
    result = await kernel.run(CodeBlock(f"print('before', flush=True)\n{code}"))
    assert (result.verdict, result.exit_code, result.signal, result.stdout) == (verdict, exit_code, number, "before\n")
    assert "its state is lost" in result.message
    assert await out(kernel, "print('x' in globals())") == "False\n"


async def test_hook_at_exit_that_hangs_does_not_delay_the_end(backend: Backend) -> None:
    hang = "import atexit, signal, time\natexit.register(time.sleep, 60)\n"
    ignore = "for each in (1, 2, 15): signal.signal(each, signal.SIG_IGN)\n"
    async with open_executor(spec(backend), limits=Limits(wall_time=3)) as executor:
        result = await executor.run(CodeBlock(hang + "raise SystemExit(3)"))
        assert result.verdict == "failed", result
        await out(executor, hang + ignore + "x = 1")
        started = time.monotonic()
        await executor.restart()
        assert time.monotonic() - started < 30
        assert await out(executor, "print('x' in globals())") == "False\n"
        await out(executor, hang + ignore)
        started = time.monotonic()
    assert time.monotonic() - started < 20


async def test_kernel_that_ends_between_cells_is_told_at_the_next(kernel: Executor) -> None:
    await out(kernel, "import os, threading\nthreading.Timer(0.1, lambda: os._exit(3)).start()")
    await asyncio.sleep(0.6)
    result = await kernel.run(CodeBlock("print('never')"))
    assert (result.verdict, result.exit_code, result.stdout) == ("failed", 3, "")
    assert "its state is lost" in result.message
    assert await usable(kernel)


async def test_memory_of_the_tree_is_limited_and_the_next_cell_works(backend: Backend) -> None:
    async with open_executor(spec(backend), limits=Limits(memory="300M", wall_time=20)) as executor:
        for code in (
            "held = [bytearray(b'x' * (1 << 20)) for _ in range(600)]",
            "import os, time\nfor _ in range(6):\n"
            "  if os.fork() == 0:\n    b = bytearray(b'x' * (80 << 20)); time.sleep(30)\n"
            "time.sleep(30)",
        ):
            result = await executor.run(CodeBlock("print('before', flush=True)\n" + code))
            assert (result.verdict, result.stdout) == ("memory", "before\n"), result
            assert "its state is lost" in result.message
            assert await usable(executor)


async def test_cpu_time_counts_each_cell_for_itself(backend: Backend) -> None:
    burn = "import time\nend = time.process_time() + %s\nwhile time.process_time() < end: pass\nprint('done')"
    async with open_executor(spec(backend), limits=Limits(cpu_time=1, wall_time=20)) as executor:
        for _ in range(3):
            result = await executor.run(CodeBlock(burn % 0.6))
            assert (result.verdict, result.stdout) == ("ok", "done\n"), result
            assert result.cpu_time is not None
            assert 0.5 < result.cpu_time < 1
        result = await executor.run(CodeBlock(burn % 5))
        assert result.verdict == "cpu_time"
        assert await usable(executor)


async def test_disk_and_file_size(backend: Backend) -> None:
    limits = Limits(disk="20M", file_size="8M", wall_time=20)
    async with open_executor(spec(backend), limits=limits) as executor:
        result = await executor.run(CodeBlock("open('a', 'wb').write(bytes(20_000_000))"))
        assert (result.verdict, result.error and result.error.name) == ("disk", "OSError"), result
        code = "import time\nfor i in range(9): open(f'f{i}', 'wb').write(bytes(7_000_000))\ntime.sleep(5)"
        assert (await executor.run(CodeBlock(code))).verdict == "disk"
        assert await usable(executor)


async def test_cancel_interrupts_and_keeps_the_state(kernel: Executor) -> None:
    await out(kernel, "x = 1")
    printed = asyncio.Event()
    task = asyncio.create_task(kernel.run(CodeBlock(SLEEP), on_output=lambda *_: printed.set()))
    await asyncio.wait_for(printed.wait(), 20)
    await kernel.cancel()
    await kernel.cancel()
    result = await asyncio.wait_for(task, 20)
    assert (result.verdict, result.stdout) == ("cancelled", "up\n")
    assert await out(kernel, "print(x)") == "1\n"
    await kernel.cancel()


AT = """
import os, signal, time
session = get_ipython().kernel.session
asked, times = session.{method}, []
def interrupted(*args, **kwargs):
    if session.{method} is interrupted:
        session.{method} = asked
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100): time.sleep(1e-4)  # where Python would raise it
    return asked(*args, **kwargs)
session.{method} = interrupted
"""


@pytest.mark.parametrize("method", ["send", "sign"])
async def test_interrupt_between_a_cell_and_its_answer_is_none(kernel: Executor, method: str) -> None:
    again = f"def later(_):\n    session.{method} = interrupted\nsession.{method} = asked\n"
    # What is registered last comes after the cell, and the next message is the answer.
    await out(
        kernel, AT.format(method=method) + again + "get_ipython().events.register('post_run_cell', later); kept = 1"
    )
    assert await out(kernel, "print(kept)") == "1\n"
    assert await out(kernel, "get_ipython().events.unregister('post_run_cell', later); print(kept)") == "1\n"


async def test_interrupt_does_not_tear_what_a_cell_sends(kernel: Executor) -> None:
    result = await kernel.run(CodeBlock(f"{AT.format(method='sign')}kept = 1\ndisplay(2)\ntime.sleep(60)"))
    assert (result.verdict, result.error and result.error.name) == ("failed", "KeyboardInterrupt"), result
    assert [display.data for display in result.displays] == [{"text/plain": "2"}]
    assert result.duration < 10
    assert await out(kernel, "print(kept)") == "1\n"


@pytest.mark.parametrize("then", ["await asyncio.sleep(60)", "while True: pass", "time.sleep(60)"])
async def test_cell_that_awaits_is_interrupted_whatever_it_does(backend: Backend, then: str) -> None:
    async with open_executor(spec(backend), limits=Limits(wall_time=1)) as executor:
        for _ in range(2):
            result = await executor.run(CodeBlock(f"import asyncio, time\nawait asyncio.sleep(0)\nkept = 1\n{then}"))
            assert result.verdict == "timeout"
            assert "the state is kept" in result.message
            assert result.error
            assert result.error.name == ("CancelledError" if "await" in then else "KeyboardInterrupt")
        assert await out(executor, "print(kept)") == "1\n"


async def test_interrupt_that_a_kernel_misses_comes_again_but_hits_once(backend: Backend) -> None:
    missing = """
import signal, time
usual = signal.getsignal(signal.SIGINT)
signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, usual))
kept = 1
time.sleep(60)
"""
    cleaning = """
import time
try:
    time.sleep(60)
finally:
    time.sleep(1.2)
    print("clean")
"""
    async with open_executor(spec(backend), limits=Limits(wall_time=1)) as executor:
        for code, told in ((missing, ""), (cleaning, "clean\n")):
            result = await executor.run(CodeBlock(code))
            assert (result.verdict, result.stdout, result.error and result.error.name) == (
                "timeout", told, "KeyboardInterrupt",
            )  # fmt: skip
            assert "the state is kept" in result.message
        assert await out(executor, "print(kept)") == "1\n"


async def test_interrupt_of_long_modules_is_told_quickly(kernel: Executor) -> None:
    # IPython takes more than a second for the source around a line of each.
    lines = "\n".join(f"def f{i}(x): return [x, {{'a': (x, {i})}}]" for i in range(40_000))
    for name, then in (("one", "import two; two.g()"), ("two", "import time; time.sleep(60)")):
        await kernel.put(f"{name}.py", f"{lines}\ndef g():\n    {then}\n".encode())
    await out(kernel, "import two, one; kept = 1")
    printed = asyncio.Event()
    task = asyncio.create_task(
        kernel.run(CodeBlock("print(1, flush=True)\none.g()"), on_output=lambda *_: printed.set())
    )
    await asyncio.wait_for(printed.wait(), 20)
    await kernel.cancel()
    result = await asyncio.wait_for(task, 20)
    assert result.verdict == "cancelled"
    assert "the state is kept" in result.message
    assert result.error
    expected = (
        r"Traceback .*\n  Cell In\[\d+\], line 2, in <module>\n    one.g\(\)\n  File .*one.py, line 40002, in g\n.*"
    )
    assert re.fullmatch(
        expected + r"\n  File .*two.py, line 40002, in g\n.*\nKeyboardInterrupt", result.error.traceback
    )
    assert await out(kernel, "print(kept)") == "1\n"


async def test_block_behind_a_reset_has_the_new_kernel(kernel: Executor) -> None:
    await out(kernel, "x = 1")
    block = CodeBlock("print('x' in globals())\nx = 1")
    _, result = await asyncio.gather(kernel.reset(), kernel.run(block))
    assert (result.verdict, result.stdout) == ("ok", "False\n"), result
    task = asyncio.create_task(kernel.reset())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=20)
    assert task.cancelled()
    assert (await kernel.run(block)).stdout == "False\n"


@pytest.mark.parametrize("when", ["at once", "soon", "running"])
async def test_cancelling_the_task_keeps_the_kernel(kernel: Executor, when: str) -> None:
    await out(kernel, "x = 1")
    for _ in range(3):
        printed = asyncio.Event()
        task = asyncio.create_task(kernel.run(CodeBlock(SLEEP), on_output=lambda *_: printed.set()))  # noqa: B023
        if when == "running":
            await asyncio.wait_for(printed.wait(), 20)
        else:
            await asyncio.sleep(0 if when == "at once" else 0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)
        assert await out(kernel, "print(x)") == "1\n"


async def test_what_hangs_at_its_exit_holds_nobody_up(backend: Backend) -> None:
    executor = open_executor(spec(backend))
    await executor.start()
    await out(
        executor, "import atexit, signal, time\natexit.register(time.sleep, 60)\nsignal.signal(15, signal.SIG_IGN)"
    )
    for end in (executor.restart, executor.close):
        started = time.monotonic()
        await end()
        assert time.monotonic() - started < 30
    assert (descendants(), containers()) == (set(), [])


async def test_runner_that_is_killed_is_lost_until_restart(backend: Backend, kernel: Executor) -> None:
    task = asyncio.create_task(kernel.run(CodeBlock(SLEEP)))
    await asyncio.sleep(0.3)
    os.kill(backend.runner(kernel), signal.SIGKILL)
    assert (await asyncio.wait_for(task, 20)).verdict == "lost"
    await kernel.restart()
    assert await usable(kernel)


async def test_close_during_a_cell_is_quick(backend: Backend) -> None:
    executor = open_executor(spec(backend))
    await executor.start()
    task = asyncio.create_task(executor.run(CodeBlock(SLEEP)))
    await asyncio.sleep(0.2)
    started = time.monotonic()
    await executor.close()
    assert time.monotonic() - started < 10
    await asyncio.wait([task], timeout=20)
    assert task.done()
    with pytest.raises(SandboxClosedError):
        await executor.run(CodeBlock("1"))
    assert (descendants(), containers()) == (set(), [])


# The untrusted kernel

HOSTILE = {
    "forged, unsigned": "import json\nsend([b'kernel', b'<IDS|MSG>', b'0' * 64, b'{}', b'{}', b'{}', b'{}'])",
    "no delimiter": "send([b'garbage'] * 5)",
    "empty": "send([b''])",
    "endless": "for i in range(20_000): send([b'x', b'<IDS|MSG>', b'', b'{}', b'{}', b'{}', b'{}'])",
    "signed, for another request": "sign({'msg_type': 'status'}, {'execution_state': 'idle'}, {'msg_id': 'other'})",
    "signed, no dictionary": "sign([1, 2], 7, 'text')",
    "signed, nested": "sign({'msg_type': 'display_data'}, '[' * 100_000, {})",
    "signed, wrong types": "sign({'msg_type': 'display_data'}, {'data': {'a': {'b': [1]}}, 'metadata': 3}, own)",
    "signed, no content": "sign({'msg_type': 'error'}, {}, own)",
    "signed, transient": "sign({'msg_type': 'update_display_data'}, {'transient': {'display_id': [1]}}, own)",
}
PRELUDE = """
from ipykernel.kernelapp import IPKernelApp
import hmac, hashlib, json, os
app = IPKernelApp.instance()
own = {'msg_id': get_ipython().kernel.get_parent()['header']['msg_id']}
def send(parts):
    app.iopub_socket.send_multipart(parts)
def sign(header, content, parent):
    if isinstance(header, dict):  # without an id it would be no message at all
        header = {'msg_id': os.urandom(8).hex(), **header}
    parts = [json.dumps(header).encode(), json.dumps(parent).encode(), b'{}',
             content.encode() if isinstance(content, str) else json.dumps(content).encode()]
    key = app.session.key
    send([b'x', b'<IDS|MSG>', hmac.new(key, b''.join(parts), hashlib.sha256).hexdigest().encode(), *parts])
"""


@pytest.mark.parametrize("what", HOSTILE)
async def test_messages_of_a_hostile_kernel_are_harmless(backend: Backend, what: str) -> None:
    async with open_executor(spec(backend), limits=Limits(wall_time=5)) as executor:
        started = time.monotonic()
        result = await executor.run(CodeBlock(PRELUDE + HOSTILE[what] + "\nprint('after')"))
        assert result.verdict in ("ok", "failed", "timeout"), result
        assert time.monotonic() - started < 20
        assert await usable(executor)


async def test_sockets_are_not_for_others_and_not_followed(backend: Backend, tmp_path: Path) -> None:
    async with open_executor(spec(backend), limits=Limits(wall_time=4)) as executor:
        shared: Path = executor._here  # type: ignore[attr-defined]
        assert shared.stat().st_mode & 0o077 == 0
        (directory,) = shared.iterdir()
        assert directory.stat().st_mode & 0o077 == 0
        # Other sockets in their place are not connected to, whatever happens to the kernel.
        code = f"import os\nfor n in os.listdir('/shared/{directory.name}'):\n  p = '/shared/{directory.name}/' + n\n"
        code += "  os.unlink(p); os.symlink('/nowhere', p)"
        await executor.run(CodeBlock(code))
        assert await usable(executor)


async def test_shared_directory_counts_as_disk(backend: Backend) -> None:
    async with open_executor(spec(backend), limits=Limits(disk="20M", wall_time=20)) as executor:
        code = "import time\nopen('/shared/fill', 'wb').write(bytes(60_000_000))\ntime.sleep(5)"
        result = await executor.run(CodeBlock(code))
        assert result.verdict == "disk", result


# Other kernels, and none


async def test_missing_kernel_and_missing_ipykernel_say_what_to_do(backend: Backend, tmp_path: Path) -> None:
    options: dict[str, Any] = {"kernel": "nothing"} if backend.container else {}
    name = "jupyter+docker" if backend.container else "jupyter:nothing"
    with pytest.raises(
        SandboxUnavailable, match="the kernel 'nothing' is not installed in this sandbox; installed are: "
    ):
        await open_executor(name, **options).start()
    missing: dict[str, Any] = {"image": "agentexec/python"} if backend.container else {"python": "/usr/bin/python3"}
    with pytest.raises(SandboxUnavailable, match="pip install ipykernel"):
        await open_executor(spec(backend), **missing).start()
    assert (descendants(), containers()) == (set(), [])


async def test_pool_of_kernels(backend: Backend) -> None:
    from sandboxes import Pool

    async with Pool(spec(backend), 2, reuse=True) as pool:
        for _ in range(4):
            async with pool.take() as executor:
                assert await out(executor, "print('x' in globals())") == "False\n"
                await out(executor, "x = 1")


async def test_what_was_printed_between_cells_comes_live_with_the_next(kernel: Executor) -> None:
    await out(kernel, "import threading\nthreading.Timer(0.1, lambda: print('between', flush=True)).start()")
    await asyncio.sleep(0.5)
    seen: list[bytes] = []
    result = await kernel.run(CodeBlock("print('in it')"), on_output=lambda stream, data: seen.append(data))
    assert b"".join(seen).decode() == result.stdout == "between\nin it\n"


async def test_failure_whose_traceback_cannot_be_shown_is_still_one(backend: Backend) -> None:
    async with open_executor(spec(backend), limits=Limits(open_files=64)) as kernel:
        # With no descriptor left, IPython cannot load what formats a traceback, and shows no error at all.
        await out(kernel, "import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (20, 64))")
        result = await kernel.run(CodeBlock("os.listdir('/proc')"))
        assert result.verdict == "failed"
        assert result.error is not None
        assert (result.error.name, "Too many open files" in result.error.message) == ("OSError", True)


async def test_fork_that_comes_to_the_end_of_its_cell_ends(kernel: Executor) -> None:
    # A kernel has threads, which Python warns of from 3.12 on.
    code = "import os, warnings\nwarnings.simplefilter('ignore')\nchild = os.fork()\n"
    code += "if child: print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    assert await out(kernel, code) == "0\n"
    assert await out(kernel, "print(child > 0)") == "True\n"


async def test_kernel_keeps_nothing_of_what_was_printed(kernel: Executor) -> None:
    measure = "import gc; gc.collect(); print(open('/proc/self/statm').read().split()[1])"
    before = int(await out(kernel, measure))
    for _ in range(30):
        await out(kernel, "print('x' * (1 << 20))")
    assert int(await out(kernel, measure)) - before < (8 << 20) // 4096
