"""A Python block behaves as `python FILE` does: the same programs, run by both, leave the same."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from sandboxes import CodeBlock, Executor, Limits, Result, open_executor
from tests.sandboxes.backends import find_python, require_engine
from tests.sandboxes.programs import PROGRAMS

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHERS = ["3.8", "3.9", "3.12", "3.13"]
CORE = [
    "tb",
    "tb_chain",
    "syntaxerror",
    "unittest_ok",
    "pickle_spawn",
    "getsource",
    "atexit_exc",
    "exit_msg",
    "exit_300",
    "del_uses_global",
    "unclosed_file",
    "excepthook_raises",
    "names_in_main",
    "last_exc",
    "threads",
    "asyncio",
    "fork",
    "stdin_read",
    "input",
    "sigterm",
    "kbd",
]
"""What is compared with the other interpreters of this machine too."""


@dataclass
class Ending:
    """What a program left."""

    status: int
    stdout: str
    stderr: str
    files: dict[str, str] = field(default_factory=dict)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Executor, Path]]:
    require_engine(shutil.which("bwrap") is not None, "bubblewrap")
    workspace = tmp_path_factory.mktemp("shared")
    async with open_executor("local", limits=Limits(wall_time=20), workspace=workspace) as executor:
        yield executor, workspace


def normal(text: str, directory: Path) -> str:
    """Take out what differs from one run of the same program to the next."""
    text = text.replace(str(directory), "/workspace")
    text = re.sub(r"0x[0-9a-f]{6,}", "0x?", text)
    text = re.sub(r"in \d\.\d\d\ds", "in ?s", text)
    return re.sub(r"Previous line repeated \d+ more times", "Previous line repeated ? more times", text)


async def under_python(python: str, source: str, directory: Path) -> Ending:
    """Run a program as `python FILE`, with the environment that blocks have."""
    file = directory / "main.py"
    file.write_bytes(source.encode("utf-8", "surrogatepass"))
    env = {
        "PATH": f"{Path(python).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "USER": "sandbox",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    process = await asyncio.create_subprocess_exec(
        python, str(file), stdin=-3, stdout=-1, stderr=-1, cwd=directory, env=env
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.iterdir()
        if path.is_file() and path != file
    }
    out, err = (normal(text.decode("utf-8", "replace"), directory) for text in (stdout, stderr))
    return Ending(process.returncode, out, err, files)


def in_block(result: Result) -> Ending:
    status = result.exit_code if result.exit_code is not None else -(result.signal or 0)
    files = {file.path: str(file.sha256) for file in result.files if "/" not in file.path}
    files.pop("main.py")
    return Ending(status, normal(result.stdout, Path("/workspace")), normal(result.stderr, Path("/workspace")), files)


@pytest.mark.parametrize("name", PROGRAMS)
async def test_block_ends_as_under_python(name: str, shared: tuple[Executor, Path], tmp_path: Path) -> None:
    executor, workspace = shared
    expected = await under_python(sys.executable, PROGRAMS[name], tmp_path.resolve())
    try:
        result = await executor.run(CodeBlock(PROGRAMS[name], filename="main.py"))
        assert in_block(result) == expected
        assert result.verdict == ("ok" if expected.status == 0 else "failed")
    finally:
        for left in workspace.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()


@pytest.mark.parametrize("version", OTHERS)
async def test_block_ends_as_under_another_python(version: str, tmp_path: Path) -> None:
    python = find_python(version)
    require_engine(shutil.which("bwrap") is not None, "bubblewrap")
    async with open_executor("local", python=python, limits=Limits(wall_time=20)) as executor:
        for name in CORE:
            directory = tmp_path / name
            directory.mkdir()
            expected = await under_python(python, PROGRAMS[name], directory.resolve())
            assert in_block(await executor.run(CodeBlock(PROGRAMS[name], filename="main.py"))) == expected, name
            await executor.run(CodeBlock("find . -mindepth 1 -delete", language="sh"))


async def test_a_module_beside_the_program_wins_over_one_that_the_runner_has_loaded(
    shared: tuple[Executor, Path],
) -> None:
    executor, workspace = shared
    await executor.put("json.py", b"x = 'mine'")
    await executor.put("select/__init__.py", b"x = 'a package'")
    await executor.put("struct/notes.txt", b"a directory that is no package")
    try:
        result = await executor.run(CodeBlock("import json, select, struct; print(json.x, struct.pack('B', 65))"))
        assert (result.stdout, result.stderr) == ("mine b'A'\n", "")
        result = await executor.run(CodeBlock("print(2)"))  # the runner does not see it
        assert result.stdout == "2\n"
    finally:
        for path in ("json.py", "select", "struct"):
            left = workspace / path
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    assert (await executor.run(CodeBlock("import json; print(json.dumps([1]))"))).stdout == "[1]\n"
