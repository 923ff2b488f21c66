"""What is particular to Python blocks, beyond ending as under `python FILE` (see test_same_as_python)."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandboxes import CodeBlock, Executor, FileTooLarge, Limits, SandboxStartError, open_executor
from tests.sandboxes.backends import find_python, require_engine

OTHERS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    require_engine(shutil.which("bwrap") is not None, "bubblewrap")
    async with open_executor("local", limits=Limits(wall_time=20)) as executor:
        yield executor


async def out(executor: Executor, code: str, filename: str | None = None) -> str:
    """Run a block that must end well, and return what it printed."""
    result = await executor.run(CodeBlock(code, filename=filename))
    assert (result.verdict, result.stderr) == ("ok", ""), result
    return result.stdout


async def test_every_block_has_a_fresh_state(executor: Executor) -> None:
    await out(
        executor,
        "import sys, os, json, threading, builtins, signal\nx = 1\njson.x = 2\n"
        "sys.path.append('/nowhere')\nos.environ['MARK'] = '3'\n"
        "sys.setrecursionlimit(5000)\nos.umask(0o77)\nos.chdir('/')\nsys.stdout = None\n"
        "threading.excepthook = print\nbuiltins.mark = 1\nsignal.alarm(1000)\n",
    )
    code = (
        "import sys, os, json, threading, signal, builtins\n"
        "print('x' in globals(), hasattr(json, 'x'), '/nowhere' in sys.path, 'MARK' in os.environ,"
        " sys.getrecursionlimit(), oct(os.umask(0o22)), os.getcwd(), threading.excepthook is print,"
        " hasattr(builtins, 'mark'), signal.alarm(0))\n"
    )
    assert await out(executor, code) == "False False False False 1000 0o22 /workspace False False 0\n"


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('random').random()",
        "__import__('random').Random().random()",
        "__import__('uuid').uuid4()",
        "__import__('uuid').uuid1()",
        "__import__('secrets').token_hex()",
        "__import__('os').urandom(8)",
        "__import__('tempfile').mktemp()",
        "__import__('numpy').random.random()",
        "__import__('numpy').random.default_rng().random()",
        "__import__('numpy').random.randint(1 << 40)",
    ],
)
async def test_blocks_draw_different_random_numbers(expression: str) -> None:
    require_engine(shutil.which("bwrap") is not None, "bubblewrap")
    if "numpy" in expression:
        pytest.importorskip("numpy")
    preload = ["numpy"] if "numpy" in expression else ["random", "uuid", "secrets", "tempfile"]
    async with open_executor("local", preload=preload) as executor:
        drawn = [await out(executor, f"print({expression})") for _ in range(3)]
    assert len(set(drawn)) == 3


async def test_seeded_random_numbers_are_the_same_in_every_block(executor: Executor) -> None:
    drawn = {await out(executor, "import random; random.seed(7); print(random.random())") for _ in range(2)}
    assert drawn == {"0.32383276483316237\n"}


async def test_a_block_can_import_the_module_that_an_earlier_block_saved(executor: Executor) -> None:
    await out(executor, "def double(x):\n    return 2 * x\n", filename="lib/arithmetic.py")
    assert await out(executor, "from lib.arithmetic import double; print(double(4))") == "8\n"
    await out(executor, "def double(x):\n    return 'changed'\n", filename="lib/arithmetic.py")
    assert await out(executor, "from lib.arithmetic import double; print(double(4))") == "changed\n"


async def test_a_block_in_a_directory_finds_modules_beside_it_and_works_in_the_workspace(
    executor: Executor,
) -> None:
    await executor.put("app/helper.py", b"NAME = 'helper'")
    code = "import helper, os, sys; print(helper.NAME, os.getcwd(), sys.path[0], sys.argv, __file__)"
    expected = "helper /workspace /workspace/app ['/workspace/app/main.py'] /workspace/app/main.py\n"
    assert await out(executor, code, filename="app/main.py") == expected


async def test_a_block_without_a_name_is_a_file_while_it_runs_and_gone_afterwards(executor: Executor) -> None:
    printed = await out(executor, "print(open(__file__).read(), end=''); print(__file__)  # itself")
    assert re.fullmatch(r"print\(.*# itself/workspace/\.block_\S+\.py\n", printed), printed
    assert await out(executor, "import os; print(len(os.listdir()))") == "1\n"


async def test_five_megabytes_of_source(executor: Executor) -> None:
    code = "x = [\n" + "'" + "y" * 97 + "',\n" * 1 + ("'" + "z" * 96 + "',\n") * 50_000 + "]\nprint(len(x))\n"
    assert len(code) > 5_000_000
    assert await out(executor, code) == "50001\n"


async def test_more_source_than_a_block_may_have_is_refused_and_the_executor_goes_on() -> None:
    require_engine(shutil.which("bwrap") is not None, "bubblewrap")
    async with open_executor("local", limits=Limits(file_size="128M")) as executor:
        with pytest.raises(FileTooLarge, match="at most 67108864"):
            await executor.run(CodeBlock("#" * (65 << 20)))
        assert await out(executor, "print(1)") == "1\n"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("print('a')\nx = '\0'\n", "null bytes"),
        ("# -*- coding: foobar -*-\nprint(1)\n", "unknown encoding: foobar"),
        ("\ufeff# -*- coding: latin-1 -*-\nprint(1)\n", "encoding problem"),
        ("print('\ud800')\n", "can't decode byte"),
        ("x = (\n", r"line 1\n    x = \(\n"),
    ],
)
async def test_source_that_is_no_python_is_a_syntax_error(executor: Executor, code: str, error: str) -> None:
    result = await executor.run(CodeBlock(code))
    assert (result.verdict, result.exit_code, result.stdout) == ("failed", 1, "")
    assert re.search(error, result.stderr)
    # Early releases of 3.11 say ValueError of a NUL.
    assert "SyntaxError" in result.stderr or (error == "null bytes" and "ValueError" in result.stderr)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "code",
    [
        "1/0",
        "import sys\nsys.excepthook = None\n1/0",
        "def hook(*error): raise ValueError\nimport sys\nsys.excepthook = hook\n1/0",
        "import sys\ndel sys.stdout\n1/0",
        "import atexit\natexit.register(lambda: 1/0)",
        "import threading\nthreading.Thread(target=lambda: 1/0).start()",
        "class C:\n    def __del__(self): 1/0\nc = C()",
        "import warnings\nwarnings.warn('careful')\n1/0",
        "import logging\nlogging.exception('x')\n1/0",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=lambda: 1/0).start()",
        "import os\nif os.fork(): os.wait()\n1/0",
    ],
)
async def test_what_a_block_prints_of_errors_shows_no_frame_of_ours(executor: Executor, code: str) -> None:
    result = await executor.run(CodeBlock(code, filename="main.py"))
    shown = re.findall(r'File "([^"]*)"', result.stderr)
    assert "/workspace/main.py" in shown
    assert not [path for path in shown if path.startswith("<") or "runner" in path]


async def test_a_block_finds_nothing_of_the_runner(executor: Executor) -> None:
    code = (
        "import sys, gc\n"
        "print([name for name in sys.modules if 'agentexec' in name])\n"
        "print(sys.orig_argv == [sys.executable, __file__])\n"
        "modules = [o for o in gc.get_objects() if type(o) is type(sys)]\n"
        "print([module.__name__ for module in modules if 'agentexec' in module.__name__])\n"
        "import os; print(sorted(os.listdir('/proc/self/fd')))\n"
    )
    lines = (await out(executor, code)).splitlines()
    assert lines[:2] == ["[]", "True"]
    assert lines[3] == "['0', '1', '2', '3']"  # 3 is the directory it reads


async def test_the_standard_streams_are_what_python_makes_them(executor: Executor) -> None:
    code = "import sys\nfor s in sys.stdin, sys.stdout, sys.stderr: print(s.name, s.mode, s.encoding, s.errors)"
    assert (await out(executor, code)).splitlines() == [
        "<stdin> r utf-8 surrogateescape",
        "<stdout> w utf-8 surrogateescape",
        "<stderr> w utf-8 backslashreplace",
    ]


async def test_lines_are_sent_as_they_are_printed_so_that_a_killed_block_has_said_them() -> None:
    require_engine(shutil.which("bwrap") is not None, "bubblewrap")
    async with open_executor("local", limits=Limits(wall_time=0.4)) as executor:
        result = await executor.run(CodeBlock("print('before')\nwhile True: pass"))
    assert (result.verdict, result.stdout) == ("timeout", "before\n")


async def test_daemon_threads_do_not_hold_a_block_up(executor: Executor) -> None:
    code = (
        "import threading, time\n"
        "open_file = open('kept.txt', 'w'); open_file.write('kept')\n"
        "def work():\n    while True: time.sleep(0.001); len(open_file.name)\n"
        "for _ in range(4): threading.Thread(target=work, daemon=True).start()\n"
    )
    result = await executor.run(CodeBlock(code))
    assert (result.verdict, result.stderr) == ("ok", "")
    assert result.duration < 5
    assert await executor.get("kept.txt") == b"kept"


async def test_a_forked_child_that_ends_normally_runs_its_own_exit_functions(executor: Executor) -> None:
    code = (
        "import os, sys, atexit\n"
        "atexit.register(lambda: print('exit of', 'child' if pid == 0 else 'parent'))\n"
        "pid = os.fork()\n"
        "if pid: print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "else: sys.exit(5)\n"
    )
    assert await out(executor, code) == "exit of child\n5\nexit of parent\n"


async def test_deep_recursion_that_overflows_the_stack_is_the_programs_own_failure(
    executor: Executor,
) -> None:
    code = "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\n"
    result = await executor.run(CodeBlock(code + "repr(A())"))
    assert result.verdict == "failed"
    assert (result.exit_code, result.signal) in ((1, None), (None, 11))
    assert await out(executor, "print(1)") == "1\n"


async def test_forkserver(executor: Executor) -> None:
    code = (
        "import multiprocessing\n"
        "def square(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('forkserver').Pool(2) as pool:\n"
        "        print(pool.map(square, [1, 2, 3]))\n"
    )
    assert await out(executor, code) == "[1, 4, 9]\n"


async def test_faulthandler_shows_where_a_crash_was(executor: Executor) -> None:
    code = "import ctypes, faulthandler\nfaulthandler.enable()\ndef crash(): ctypes.string_at(0)\ncrash()\n"
    result = await executor.run(CodeBlock(code, filename="main.py"))
    assert (result.verdict, result.exit_code, result.signal) == ("failed", None, 11)
    assert 'File "/workspace/main.py", line 3 in crash' in result.stderr


async def test_signal_handlers_are_the_default_ones(executor: Executor) -> None:
    code = (
        "import signal\n"
        "print([int(s) for s in signal.valid_signals() if signal.getsignal(s) not in (signal.SIG_DFL, None)"
        " and s not in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)])\n"
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.set_wakeup_fd(-1))\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
    )
    assert await out(executor, code) == "[]\nTrue -1\nset()\n"


async def test_preloaded_modules_are_there_already(executor: Executor) -> None:
    async with open_executor("local", preload=["colorsys", "xml.dom.minidom"]) as other:
        assert await out(other, "import sys; print('colorsys' in sys.modules, 'xml.dom.minidom' in sys.modules)") == (
            "True True\n"
        )
    assert await out(executor, "import sys; print('colorsys' in sys.modules)") == "False\n"


async def test_a_module_that_cannot_be_preloaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_engine(shutil.which("bwrap") is not None, "bubblewrap")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SandboxStartError, match="cannot preload 'no_such_module': ModuleNotFoundError"):
        await open_executor("local", preload=["no_such_module"]).start()
    assert list(tmp_path.iterdir()) == []


async def test_modules_of_the_virtual_environment_that_runs_us_are_there(executor: Executor) -> None:
    assert await out(executor, "import pydantic, sys; print(sys.executable)") == f"{sys.executable}\n"


@pytest.mark.parametrize("version", OTHERS)
async def test_another_interpreter_runs_the_blocks(version: str) -> None:
    require_engine(shutil.which("bwrap") is not None, "bubblewrap")
    python = find_python(version)
    async with open_executor(f"local:{python}") as executor:
        result = await executor.run(
            CodeBlock("import sys, hashlib, sqlite3; print(sys.version_info[:2]); open('f', 'w').write('x')")
        )
        assert (result.verdict, result.stderr) == ("ok", "")
        assert result.stdout == f"({version.replace('.', ', ')})\n"
        assert [file.path for file in result.files] == ["f"]
        assert (await executor.run(CodeBlock("1/0"))).verdict == "failed"
