"""Kernels by name: found as Jupyter finds them, started as their kernel.json says, refused where nothing else helps."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandboxes import (
    CodeBlock,
    Executor,
    Limits,
    Result,
    SandboxStartError,
    SandboxUnavailable,
    UnknownExecutor,
    UnknownLanguage,
    open_executor,
)
from tests.sandboxes.backends import Backend, containers, descendants, require_engine
from tests.sandboxes.test_kernel import backend

__all__ = ["backend"]

Open = Callable[..., Executor]


@pytest.fixture
def opened(backend: Backend, tmp_path: Path) -> Open:
    """Opens a kernel that is installed in the workspace."""

    def opened(name: str, **limits: Any) -> Executor:
        env = {"JUPYTER_PATH": "/workspace/share/jupyter", "PYTHONPATH": "/workspace/lib"}
        options: dict[str, Any] = {"kernel": name} if backend.container else {}
        spec = backend.spec if backend.container else f"{backend.spec}:{name}"
        return open_executor(spec, limits=Limits(**limits), workspace=tmp_path, env=env, **options)

    return opened


def install(workspace: Path, name: str, spec: object, **files: str) -> None:
    """Install a kernel in a workspace."""
    directory = workspace / "share/jupyter/kernels" / name
    directory.mkdir(parents=True)
    (directory / "kernel.json").write_text(spec if isinstance(spec, str) else json.dumps(spec))
    for file, content in files.items():
        (directory / f"{file}.py").write_text(content)


@pytest.fixture(scope="module")
def bash_kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is on PyPI."""
    target = tmp_path_factory.mktemp("bash_kernel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(target),
        "bash_kernel",
        "filetype",
    ]
    done = subprocess.run([*command, "--retries", "1", "--timeout", "10"], capture_output=True, text=True, timeout=50)
    require_engine(done.returncode == 0, f"PyPI's bash_kernel ({done.stderr[-300:]})")
    return target


@pytest.fixture
def bash(opened: Open, tmp_path: Path, bash_kernel: Path) -> Open:
    """Opens the bash kernel."""
    (tmp_path / "lib").symlink_to("packages")
    subprocess.run(["cp", "-r", str(bash_kernel), str(tmp_path / "packages")], check=True)
    argv = ["python3", "-m", "bash_kernel", "-f", "{connection_file}"]
    install(tmp_path, "bash", {"argv": argv, "display_name": "Bash", "language": "bash", "env": {"PS1": "$"}})
    return lambda **limits: opened("bash", **limits)


async def run(executor: Executor, code: str, language: str = "bash") -> Result:
    return await executor.run(CodeBlock(code, language=language))


@pytest.mark.slow
async def test_bash_kernel_keeps_its_state_and_is_held_to_limits(bash: Open) -> None:
    async with bash(wall_time=4, memory="300M") as executor:
        heard: list[bytes] = []
        result = await executor.run(
            CodeBlock("x=5; mkdir d; cd d; echo one; sleep 0.2; echo two", language="bash"),
            on_output=lambda stream, data: heard.append(data),
        )
        assert (result.verdict, result.stdout, result.stdout_bytes) == ("ok", "one\ntwo\n", 8), result
        assert b"".join(heard) == b"one\ntwo\n"
        assert len(heard) > 1
        assert (await run(executor, "echo $x $PWD; echo made > file", "sh")).stdout == "5 /workspace/d\n"
        assert await executor.get("d/file") == b"made\n"
        failed = await run(executor, "ls /nowhere")
        assert (failed.verdict, failed.exit_code, "No such file" in failed.stdout) == ("failed", 1, True)
        late = await run(executor, "sleep 60")
        assert (late.verdict, "the state is kept" in late.message) == ("timeout", True), late
        assert (await run(executor, "echo $x")).stdout == "5\n"
        with pytest.raises(UnknownLanguage, match="the kernel bash runs bash, not python: say language='bash'"):
            await executor.run(CodeBlock("print(1)"))
        dead = await run(executor, "kill -9 $PPID; sleep 9")
        assert (dead.verdict, "its state is lost" in dead.message) == ("failed", True), dead
        assert (await run(executor, "echo [$x]")).stdout == "[]\n"
    assert (descendants(), containers()) == (set(), [])


@pytest.mark.slow
async def test_bash_kernel_s_output_and_memory_are_bounded(bash: Open) -> None:
    async with bash(wall_time=40, memory="120M", output=10_000) as executor:
        result = await run(executor, "head -c 59999 /dev/zero | tr '\\0' x; echo")
        assert (result.verdict, result.truncated) == ("ok", True), result
        # bash_kernel reads from a terminal, and may see one end of a line, CR and LF, in two pieces, as two.
        assert result.stdout_bytes - 60_000 in (0, 1)
        assert len(result.stdout) < 10_200
        assert f"{result.stdout_bytes - 10_000} of {result.stdout_bytes} bytes left out" in result.stdout
        result = await run(executor, "a=$(head -c 500000000 /dev/zero | tr '\\0' x); echo ${#a}")
        assert result.verdict == "memory", result
        assert (await run(executor, "echo usable")).stdout == "usable\n"


LAUNCHER = """
import os, sys
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
interrupt = IPythonKernel.interrupt_request
def asked(*args):
    open("/workspace/asked", "w").close()
    return interrupt(*args)
IPythonKernel.interrupt_request = asked
print("loud", flush=True)
IPKernelApp.launch_instance(argv=sys.argv[1:])
"""
SPEC = {
    "argv": ["python3", "{resource_dir}/launch.py", "-f", "{connection_file}"],
    "display_name": "Python by message",
    "language": "python",
    "interrupt_mode": "message",
    "env": {"WHERE": "${HOME}/there", "UNKNOWN": "${nothing}"},
}


async def test_kernel_json_is_honoured(opened: Open, tmp_path: Path) -> None:
    install(tmp_path, "by-message", SPEC, launch=LAUNCHER)
    async with opened("by-message", wall_time=3) as executor:
        code = "import os, signal\nprint(os.environ['WHERE'], os.environ['UNKNOWN'])\nx = 1\n2"
        result = await executor.run(CodeBlock(code))
        assert (result.verdict, result.stdout) == ("ok", "/tmp/there ${nothing}\n"), result
        assert [display.data for display in result.displays] == [{"text/plain": "2"}]
        started = time.monotonic()
        result = await executor.run(CodeBlock("import time; time.sleep(60)"))
        assert (result.verdict, time.monotonic() - started < 30) == ("timeout", True), result
        assert (tmp_path / "asked").exists()
        after = await executor.run(CodeBlock("print(x)"))
        assert after.stdout == "1\n", (result, after)
        assert (await executor.run(CodeBlock("echo $0", language="bash"))).stdout.startswith("bash")
        with pytest.raises(UnknownLanguage, match="a Python kernel runs"):
            await executor.run(CodeBlock("1", language="r"))


async def test_kernel_of_the_interpreter_s_prefix_is_found(backend: Backend) -> None:
    options: dict[str, Any] = {"kernel": "python3"} if backend.container else {}
    name = backend.spec if backend.container else "jupyter:python3"
    async with open_executor(name, limits=Limits(wall_time=20), **options) as executor:
        heard: list[tuple[str, bytes]] = []
        code = CodeBlock("import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr, flush=True)\n1 / 0")
        result = await executor.run(code, on_output=lambda stream, data: heard.append((stream, data)))
        assert (result.verdict, result.stdout, result.stderr) == ("failed", "out\n", "err\n"), result
        assert result.error is not None
        assert result.error.name == "ZeroDivisionError"
        assert heard == [("stdout", b"out\n"), ("stderr", b"err\n")]

        def refuse(stream: str, data: bytes) -> None:
            raise ValueError("no more")

        # A listener's own error is its caller's, and the kernel stays.
        with pytest.raises(ValueError, match="no more"):
            await executor.run(
                CodeBlock("x = 1\nprint('out', flush=True)\nimport time; time.sleep(60)"), on_output=refuse
            )
        assert (await executor.run(CodeBlock("print(x)"))).stdout == "1\n"


BROKEN: dict[str, tuple[object, str]] = {
    "no JSON": ("{", "cannot be used"),
    "no object": ([1], "it is not an object"),
    "no argv": ({"argv": []}, "'argv' is not a list of words"),
    "no words": ({"argv": ["a", 1]}, "'argv' is not a list of words"),
    "nobody to speak to": ({"argv": ["true"]}, "no {connection_file}"),
    "another interrupt": ({**SPEC, "interrupt_mode": "prayer"}, "neither 'signal' nor 'message'"),
    "no texts": ({**SPEC, "env": {"A": 1}}, "'env' is not an object of texts"),
    "a provisioner": (
        {**SPEC, "metadata": {"kernel_provisioner": {"provisioner_name": "ssh"}}},
        "kernel provisioner",
    ),
    "no program": ({"argv": ["/nowhere/r", "{connection_file}"]}, "could not be executed: No such file"),
    "ends at once": (
        {"argv": ["sh", "-c", "echo sorry >&2; exit 7", "{connection_file}"]},
        "exit status 7\nsorry",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_kernel_that_cannot_come_up_says_why_at_once(opened: Open, tmp_path: Path, what: str) -> None:
    spec, why = BROKEN[what]
    install(tmp_path, "broken", spec)
    started = time.monotonic()
    with pytest.raises(SandboxUnavailable) as raised:
        await opened("broken").start()
    assert why in str(raised.value)
    assert time.monotonic() - started < 30
    assert (descendants(), containers()) == (set(), [])


async def test_kernel_that_hangs_while_it_starts_can_be_given_up(opened: Open, tmp_path: Path) -> None:
    install(tmp_path, "slow", {"argv": ["sleep", "60", "{connection_file}"]})  # which `sleep` takes for an error
    install(tmp_path, "hanging", {"argv": ["sh", "-c", "sleep 60", "{connection_file}"]})
    with pytest.raises(SandboxUnavailable, match="invalid time interval"):
        await opened("slow").start()
    executor = opened("hanging")
    starting = asyncio.create_task(executor.start())
    await asyncio.sleep(1.0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(starting, 20)
    await executor.close()
    assert (descendants(), containers()) == (set(), [])


@pytest.mark.parametrize("name", ["nosuch", "../x", "..", ".", "a/b", " ", "x" * 5000, "\udcff", "a\nb", "{prefix}"])
async def test_kernel_that_is_not_installed_names_those_that_are(opened: Open, tmp_path: Path, name: str) -> None:
    install(tmp_path, "by-message", SPEC)
    (tmp_path / "share/jupyter/x").mkdir()
    (tmp_path / "share/jupyter/x/kernel.json").write_text(json.dumps(SPEC))
    if not name.strip():
        with pytest.raises(UnknownExecutor, match="nothing is named after the colon"):
            open_executor(f"jupyter:{name}")
        return
    with pytest.raises(SandboxUnavailable) as raised:
        await opened(name).start()
    message = str(raised.value)
    assert "is not installed in this sandbox; installed are: by-message" in message
    assert "pip install bash_kernel && python -m bash_kernel.install --sys-prefix" in message
    assert "/workspace/share/jupyter/kernels" in message
    assert len(message) < 1000


async def test_what_a_hanging_start_costs_is_bounded(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandboxes.jupyter.executor.READY_TIMEOUT", 2.0)
    mute = "import socket, sys, time, json\nfile = json.load(open(sys.argv[1]))\nheld = []\nfor n in range(1, 6):\n"
    mute += "  held.append(socket.socket(socket.AF_UNIX)); held[-1].bind(f\"{file['ip']}-{n}\"); held[-1].listen()\n"
    install(tmp_path, "mute", {"argv": ["python3", "-c", mute + "time.sleep(60)", "{connection_file}"]})
    started = time.monotonic()
    with pytest.raises(SandboxStartError, match="did not come up"):
        await opened("mute").start()
    assert time.monotonic() - started < 30
