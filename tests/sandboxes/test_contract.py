"""What `Executor` promises, on each backend that is here, beyond what the public kit asks of everybody's.

`test_conformance.py` runs that on the same backends.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

import sandboxes
from sandboxes import (
    CodeBlock,
    Executor,
    FakeExecutor,
    FileTooLarge,
    LimitNotEnforceable,
    Limits,
    LocalSandbox,
    Result,
    SandboxLostError,
    SandboxUnavailable,
    UnknownExecutor,
    UnknownLanguage,
    UnsafePath,
    WorkspaceFileNotFound,
    executor_names,
    local,
    open_executor,
    workspace_path,
)
from sandboxes.conformance.programs import UNSAFE
from sandboxes.isolation import bwrap, landlock
from tests.sandboxes.backends import (
    BACKENDS,
    DOCKER,
    LOCAL,
    NONE,
    Backend,
    containers,
    descendants,
    find_python,
    require_engine,
)

FAKE = Backend("fake", "fake", "nothing", lambda: True, set)
REAL = (*BACKENDS, NONE)

pytestmark = pytest.mark.usefixtures("nothing_left")

NO_BWRAP = r"type 'apt-get install bubblewrap'.*isolation='none', which is unsafe"
SLEEP = CodeBlock("import time\nprint('up', flush=True)\ntime.sleep(60)")
HELLO = CodeBlock("print('hello')")


def opened(backend: Backend, **options: object) -> Executor:
    require_engine(backend.installed(), backend.engine)
    return backend.open(**options)  # type: ignore[arg-type]


@pytest.fixture(params=[*REAL, FAKE], ids=lambda backend: backend.name)
async def executor(request: pytest.FixtureRequest) -> AsyncIterator[Executor]:
    """Every executor, the fake one included."""
    async with opened(request.param) as executor:
        yield executor


@pytest.fixture(params=REAL, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend that runs something."""
    chosen: Backend = request.param
    return chosen


@pytest.fixture
async def real(backend: Backend) -> AsyncIterator[Executor]:
    async with opened(backend, limits=Limits(wall_time=20)) as executor:
        yield executor


async def wait_for_output(executor: Executor, block: CodeBlock) -> asyncio.Task[sandboxes.Result]:
    """Start a block, and return once it has printed something."""
    printed = asyncio.Event()
    task = asyncio.create_task(executor.run(block, on_output=lambda *_: printed.set()))
    await asyncio.wait_for(printed.wait(), 20)
    return task


async def usable(executor: Executor) -> bool:
    return (await executor.run(HELLO)).stdout == "hello\n"


# Files


def test_an_unsafe_path_is_named() -> None:
    for path in UNSAFE:
        with pytest.raises(UnsafePath, match="unsafe path"):
            workspace_path(path)


async def test_the_fake_executor_bounds_sizes_too() -> None:
    async with FakeExecutor(limits=Limits(file_size="1M")) as executor:
        with pytest.raises(FileTooLarge):
            await executor.put("big", b"x" * ((1 << 20) + 1))
        with pytest.raises(WorkspaceFileNotFound):
            await executor.get("big")


async def test_the_fake_executor_answers_from_its_table_also_where_that_says_nothing() -> None:
    failed = Result(verdict="failed", exit_code=1)
    async with FakeExecutor({"pass": ""}, default=failed) as executor:
        assert (await executor.run(CodeBlock("pass"))).ok
        assert (await executor.run(CodeBlock("x"))).verdict == "failed"


# Results


async def test_files_that_a_block_created_or_changed_are_listed(real: Executor) -> None:
    await real.put("input.csv", b"a,b\n")
    await real.put("changed.json", b"{}")
    code = (
        "import os\nos.makedirs('out/deep'); open('out/deep/plot.png', 'wb').write(b'png')\n"
        "open('changed.json', 'a').write(' ')\nopen('empty.md', 'w')\nopen('input.csv').read()\n"
        "open('gone.txt', 'w').close(); os.remove('gone.txt')\nopen(b'\\xff.bin', 'w').write('x')\n"
    )
    result = await real.run(CodeBlock(code))
    listed = {file.path: (file.size, file.sha256, file.media_type) for file in result.files}
    assert listed == {
        "changed.json": (3, hashlib.sha256(b"{} ").hexdigest(), "application/json"),
        "empty.md": (0, hashlib.sha256(b"").hexdigest(), "text/markdown"),
        "out/deep/plot.png": (3, hashlib.sha256(b"png").hexdigest(), "image/png"),
        "\\xff.bin": (1, hashlib.sha256(b"x").hexdigest(), "application/octet-stream"),
    }
    assert (await real.run(CodeBlock("print(1)"))).files == ()


async def test_a_file_written_in_a_blocks_first_moment_is_listed(real: Executor) -> None:
    # The clock behind change times is up to a tick behind the precise one.
    for number in range(12):
        result = await real.run(CodeBlock(f"open('file{number}', 'w').close()"))
        assert [file.path for file in result.files] == [f"file{number}"]


async def test_the_fields_of_a_result(real: Executor) -> None:
    code = "import sys\nsys.stdout.write('out'); sys.stderr.write('err'); sum(range(3_000_000))\nsys.exit(7)"
    result = await real.run(CodeBlock(code))
    assert (result.verdict, result.ok, result.exit_code, result.signal) == ("failed", False, 7, None)
    assert (result.stdout, result.stdout_bytes, result.stderr, result.stderr_bytes) == ("out", 3, "err", 3)
    assert not result.truncated
    assert 0.01 < result.duration < 10
    assert result.cpu_time is not None
    assert 0.01 < result.cpu_time < 10
    assert result.peak_memory is not None
    assert 1 << 20 < result.peak_memory < 1 << 30
    assert result.isolation == real.isolation
    result = await real.run(CodeBlock("import os; os.kill(os.getpid(), 15)"))
    assert (result.verdict, result.exit_code, result.signal) == ("failed", None, 15)


async def test_output_beyond_the_limit_is_kept_as_head_and_tail(backend: Backend) -> None:
    async with opened(backend, limits=Limits(output=1000)) as executor:
        result = await executor.run(CodeBlock("print('a' * 500 + 'b' * 4000 + 'c' * 499)"))
    assert (result.verdict, result.truncated, result.stdout_bytes) == ("ok", True, 5000)
    assert result.stdout == "a" * 500 + "\n[... 4000 of 5000 bytes left out ...]\n" + "c" * 499 + "\n"


async def test_output_that_is_no_text_is_replaced(real: Executor) -> None:
    result = await real.run(CodeBlock("import os; os.write(1, b'\\xff\\0\\x1b[31m')"))
    assert result.stdout == "\ufffd\0\x1b[31m"


# Output as it comes


async def test_output_is_passed_on_as_bytes_in_order(real: Executor) -> None:
    pieces: list[tuple[str, bytes]] = []
    code = "import os, time\nfor i in range(5):\n    os.write(1 + i % 2, b'%d' % i); time.sleep(0.02)\n"
    await real.run(CodeBlock(code), on_output=lambda *piece: pieces.append(piece))
    assert pieces == [
        ("stdout", b"0"),
        ("stderr", b"1"),
        ("stdout", b"2"),
        ("stderr", b"3"),
        ("stdout", b"4"),
    ]


async def test_a_character_may_be_split_between_pieces(real: Executor) -> None:
    pieces: list[bytes] = []
    code = "import os, time\nos.write(1, b'\\xe2\\x82'); time.sleep(0.05); os.write(1, b'\\xac')"
    result = await real.run(CodeBlock(code), on_output=lambda _, data: pieces.append(data))
    assert (result.stdout, pieces) == ("€", [b"\xe2\x82", b"\xac"])


async def test_all_output_is_passed_on_also_what_is_not_kept(backend: Backend) -> None:
    total = 0

    def count(_: str, data: bytes) -> None:
        nonlocal total
        total += len(data)

    async with opened(backend, limits=Limits(output="1k")) as executor:
        await executor.run(CodeBlock("print('x' * 20_000_000)"), on_output=count)
    assert total == 20_000_001


# Cancellation


async def test_a_start_that_is_cancelled_leaves_nothing_and_can_be_repeated(backend: Backend) -> None:
    for delay in (0, 0.001, 0.003, 0.006, 0.01, 0.02, 0.04, 0.08):
        executor = opened(backend)
        task = asyncio.create_task(executor.start())
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task], timeout=20)
        if task.cancelled():
            assert (descendants(), containers()) == (set(), [])
        await executor.start()
        assert await usable(executor)
        await executor.close()


# Lifetime


async def test_two_blocks_at_once_are_queued(real: Executor) -> None:
    code = "import os, time\nprint(os.path.exists('busy')); open('busy', 'w')\ntime.sleep(0.1); os.remove('busy')"
    results = await asyncio.gather(*(real.run(CodeBlock(code)) for _ in range(4)))
    assert [result.stdout for result in results] == ["False\n"] * 4


async def test_restart_gives_a_fresh_place_with_the_same_workspace(backend: Backend) -> None:
    async with opened(backend) as executor:
        await executor.put("kept", b"kept")
        await executor.run(CodeBlock("open('/tmp/agentexec-test-mark', 'w')"))
        await executor.restart()
        assert await executor.get("kept") == b"kept"
        code = "import os; print(os.path.exists('/tmp/agentexec-test-mark'))"
        if backend is NONE:
            os.remove("/tmp/agentexec-test-mark")  # there the whole machine is the sandbox
        assert (await executor.run(CodeBlock(code))).stdout == "False\n"


async def test_restart_ends_a_running_block(real: Executor) -> None:
    task = await wait_for_output(real, SLEEP)
    await asyncio.wait_for(real.restart(), 20)
    assert (await task).verdict == "cancelled"
    assert await usable(real)


async def test_a_lost_sandbox_says_what_to_call(backend: Backend, real: Executor) -> None:
    os.kill(backend.runner(real), signal.SIGKILL)
    with pytest.raises(SandboxLostError):
        await real.put("a", b"")
    for call in (real.run(HELLO), real.put("a", b""), real.get("a")):
        with pytest.raises(SandboxLostError, match=r"call restart\(\)"):
            await call


@pytest.mark.parametrize("name", ["plain", "with space", "new\nline", "ünï", "-dash", "a'b\"c$(d)"])
async def test_a_workspace_that_is_given_is_used_and_kept(backend: Backend, tmp_path: Path, name: str) -> None:
    workspace = tmp_path / name
    workspace.mkdir()
    (workspace / "mine").write_text("mine")
    async with opened(backend, workspace=workspace) as executor:
        result = await executor.run(CodeBlock("print(open('mine').read()); open('out', 'w').write('x')"))
        assert (result.stdout, result.stderr) == ("mine\n", "")
    assert sorted(path.name for path in workspace.iterdir()) == ["mine", "out"]


async def test_a_workspace_that_is_made_is_removed_whatever_is_in_it(backend: Backend) -> None:
    async with opened(backend) as executor:
        sandbox = executor.sandbox  # type: ignore[attr-defined]
        workspace = sandbox.workspace
        code = "import os\nos.makedirs('a/b'); open('a/b/c', 'w'); os.chmod('a/b', 0); os.symlink('/', 'root')"
        await executor.run(CodeBlock(code))
        assert workspace.is_dir()
    assert not workspace.exists()


@pytest.mark.parametrize("different", [False, True], ids=["identical", "different"])
async def test_400_blocks_eight_executors_at_a_time_are_all_right(backend: Backend, different: bool) -> None:
    executors = [opened(backend) for _ in range(8)]
    await asyncio.gather(*(executor.start() for executor in executors))
    try:

        async def work(which: int) -> list[bool]:
            right = []
            for number in range(50):
                mark = f"{which}-{number}" if different else "same"
                code = f"open('f', 'w').write({mark!r}); print({mark!r}, open('f').read())"
                result = await executors[which].run(CodeBlock(code, filename="main.py"))
                right.append((result.verdict, result.stdout, result.stderr) == ("ok", f"{mark} {mark}\n", ""))
            return right

        answers = await asyncio.gather(*(work(which) for which in range(8)))
    finally:
        await asyncio.gather(*(executor.close() for executor in executors))
    assert sum(map(sum, answers)) == 400


# Languages

IN_EVERY_IMAGE = ("python", "bash", "sh", "perl")


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "print('hi'); raise SystemExit(3)"),
        ("py", "print('hi'); raise SystemExit(3)"),
        ("bash", "[[ 1 == 1 ]] && echo hi; exit 3"),
        ("Shell", "echo hi; exit 3"),
        ("sh", "echo hi; exit 3"),
        ("javascript", "console.log('hi'); process.exit(3)"),
        ("js", "console.log('hi'); process.exit(3)"),
        ("perl", 'print "hi\\n"; exit 3;'),
        ("ruby", "puts 'hi'; exit 3"),
        ("r", "cat('hi\\n'); quit(status = 3)"),
        ("php", '<?php echo "hi\\n"; exit(3);'),
        ("lua", "print('hi') os.exit(3)"),
        ("java", 'class A { public static void main(String[] x) { System.out.println("hi"); System.exit(3); } }'),
        ("go", 'package main\nimport ("fmt"; "os")\nfunc main() { fmt.Println("hi"); os.Exit(3) }'),
        ("rust", 'fn main() { println!("hi"); std::process::exit(3) }'),
        ("c", '#include <stdio.h>\nint main(void) { puts("hi"); return 3; }'),
        ("c++", '#include <iostream>\nint main() { std::cout << "hi\\n"; return 3; }'),
    ],
)
async def test_each_language_runs_or_says_that_it_is_not_installed(
    backend: Backend, real: Executor, language: str, code: str
) -> None:
    row = sandboxes.find_language(language)
    program = row.program or (*row.command, "python")[0]
    installed = program in IN_EVERY_IMAGE
    if backend is not DOCKER:
        installed = program == "python" or any(Path(path, program).exists() for path in ("/usr/bin", "/usr/local/bin"))
    if installed:
        result = await real.run(CodeBlock(code, language=language))
        assert (result.stdout, result.exit_code, result.verdict) == ("hi\n", 3, "failed"), result
    else:
        with pytest.raises(UnknownLanguage, match=re.escape(f"{program} is not installed")):
            await real.run(CodeBlock(code, language=language))
    assert await usable(real)


async def test_an_unknown_language_is_refused_with_what_is_known(executor: Executor) -> None:
    with pytest.raises(UnknownLanguage, match="unknown language 'cobol'; known are python, bash"):
        await executor.run(CodeBlock("x", language="cobol"))


async def test_a_missing_interpreter_is_named_and_the_executor_goes_on(backend: Backend) -> None:
    async with opened(backend, env={"PATH": "/nowhere"}) as executor:
        with pytest.raises(UnknownLanguage, match=r"bash is not installed.*package bash has it"):
            await executor.run(CodeBlock("echo", language="bash"))
        assert await usable(executor)


async def test_other_languages_read_an_end_of_input_and_save_under_their_name(real: Executor) -> None:
    result = await real.run(CodeBlock('read x; echo "$? $0"', language="sh", filename="bin/script.sh"))
    assert result.stdout.startswith("1 ")
    assert result.stdout.endswith("/bin/script.sh\n")
    assert (await real.get("bin/script.sh")).startswith(b"read x")


# Opening


def test_an_unknown_executor_is_refused_with_what_is_known() -> None:
    with pytest.raises(UnknownExecutor, match=r"no executor is called 'nope'; known are .*fake, .*local"):
        open_executor("nope")


async def test_a_plug_in_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "other_backend-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sandboxes.executors]\nother = other_backend:make\n")
    (tmp_path / "other_backend.py").write_text(
        "from sandboxes import FakeExecutor\n"
        "def make(arg, *, limits, workspace, **options):\n"
        "    said = f'{arg} {limits.wall_time:g} {workspace} {options}'\n"
        "    return FakeExecutor(default=said, limits=limits)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert "other" in executor_names()
    async with open_executor("other:a:b", limits=Limits(wall_time=5), workspace="/w", size=1) as executor:
        assert (await executor.run(HELLO)).stdout == "a:b 5 /w {'size': 1}"
    monkeypatch.undo()
    assert "other" not in executor_names()


def test_an_option_that_a_backend_does_not_know_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        open_executor("local", colour="red")
    with pytest.raises(ValueError, match="choose from auto, bwrap"):
        open_executor("local", isolation="some")


@pytest.mark.parametrize("python", ["no-such-python", "/nowhere/python3", "/bin/sh", "3.6"])
def test_an_interpreter_that_is_none_is_refused(python: str) -> None:
    python = find_python(python) if python == "3.6" else python
    with pytest.raises(SandboxUnavailable, match=r"no such interpreter|not a working Python|3\.8 or newer is needed"):
        LocalSandbox(python=python)


def test_a_workspace_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="is not a directory; make it first"):
        open_executor("local", workspace=tmp_path / "missing")


@pytest.mark.parametrize("mode", [0o500, 0o200, 0])
def test_a_workspace_that_is_not_the_callers_to_write_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    code = f"from sandboxes import open_executor; open_executor('local', workspace={str(tmp_path)!r})"
    # Root may write it all the same; without capabilities it is its owner alone.
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run([*drop, sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    tmp_path.chmod(0o700)
    assert f"the workspace {tmp_path} is not writable for you; name a directory" in done.stderr


async def test_without_bwrap_it_is_refused_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    real_access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: "bwrap" not in str(path) and real_access(path, mode))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match=NO_BWRAP):
        await open_executor("local", isolation="bwrap").start()
    if landlock.usable():
        async with open_executor("local") as executor:
            assert (executor.isolation.tier, executor.isolation.mechanisms["tier"]) == (
                "landlock",
                "bwrap is not installed",
            )
            assert (await executor.run(HELLO)).isolation == executor.isolation
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    with pytest.raises(SandboxUnavailable, match=NO_BWRAP):
        await open_executor("local").start()
    async with open_executor("local", isolation="none") as executor:
        assert await usable(executor)


@pytest.fixture
def forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """bwrap is installed, and may not make namespaces: a real one, behind a filter such as Docker's."""
    filtered = tmp_path / "bwrap"
    # EPERM for clone with any namespace, as the filter of blocks has it.
    code = (
        "import os, sys; sys.path.insert(0, sys.argv.pop(1)); from sandboxes.isolation.seccomp import compile_filter; "
        "from sandboxes.runner import linux; linux.prctl(38, 1); linux.filter_calls(compile_filter()); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    root = Path(sandboxes.__file__).parent.parent
    real_bwrap = bwrap.find_bwrap()
    filtered.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{code}' '{root}' {real_bwrap} \"$@\"\n")
    filtered.chmod(0o755)
    monkeypatch.setattr(bwrap, "installed", lambda: str(filtered))
    monkeypatch.setattr(local, "_forbidden", "")
    yield
    filtered.unlink()


async def test_a_bwrap_that_may_not_work_makes_auto_take_landlock_and_say_so(forbidden: None) -> None:
    require_engine(landlock.usable(), "Landlock")
    with pytest.raises(SandboxUnavailable, match=r"may not create namespaces here.*isolation='landlock'"):
        await open_executor("local", isolation="bwrap").start()
    for _ in range(2):  # at first it is tried, then it is known
        async with open_executor("local") as executor:
            result = await executor.run(HELLO)
            assert (result.stdout, result.isolation.tier) == ("hello\n", "landlock")
            assert "may not create namespaces here" in result.isolation.mechanisms["tier"]


async def test_a_bwrap_that_may_not_work_is_refused_where_there_is_no_landlock(
    forbidden: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    for _ in range(2):
        with pytest.raises(SandboxUnavailable, match=r"sysctl kernel.apparmor_restrict_unprivileged_userns=0"):
            await open_executor("local").start()


async def test_an_explicit_limit_that_nothing_enforces_is_refused_and_a_default_one_reported() -> None:
    with pytest.raises(LimitNotEnforceable, match="network with isolation 'none'"):
        await open_executor("local", isolation="none", limits=Limits(network=False)).start()
    for limits in (Limits(), Limits(network=True), Limits(wall_time=3)):
        async with open_executor("local", isolation="none", limits=limits) as executor:
            assert executor.isolation.unenforced == (() if limits.network else ("network",))


async def test_a_virtual_environment_in_the_workspace_is_used_and_cannot_be_changed(tmp_path: Path) -> None:
    require_engine(BACKENDS[0].installed(), BACKENDS[0].engine)
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")],
        check=True,
        timeout=50,
    )
    packages = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    (packages / "marked.py").write_text("MARK = 'from the venv'")
    python = str(tmp_path / "venv/bin/python")
    async with open_executor("local", workspace=tmp_path, python=python) as executor:
        result = await executor.run(
            CodeBlock("import marked, sys; print(marked.MARK); print(sys.prefix != sys.base_prefix)")
        )
        assert result.stdout == "from the venv\nTrue\n", result.stderr
        code = (
            "import glob, os\n"
            "for path in [*glob.glob('venv/lib/*/site-packages'), 'venv/bin']:\n"
            "    try: open(path + '/planted.py', 'w')\n    except OSError as error: print(error.strerror)\n"
            "    try: os.rename(path, path + '.old')\n    except OSError as error: print(error.strerror)\n"
        )
        result = await executor.run(CodeBlock(code))
        assert result.stdout.count("Read-only file system\n") >= 2
        assert len(result.stdout.splitlines()) == 4
    assert not list(tmp_path.rglob("planted.py"))


@pytest.mark.parametrize("isolation", ["bwrap", "landlock"])
async def test_a_workspace_that_became_a_link_is_not_followed_at_a_restart(tmp_path: Path, isolation: str) -> None:
    require_engine(BACKENDS[0].installed(), BACKENDS[0].engine)
    outside, project = tmp_path / "outside", tmp_path / "project"
    outside.mkdir()
    (project / "sub").mkdir(parents=True)
    async with (
        open_executor("local", isolation=isolation, workspace=project) as first,
        open_executor("local", isolation=isolation, workspace=project / "sub") as second,
    ):
        code = f"import os; os.rename('sub', 'old'); os.symlink({str(outside)!r}, 'sub')"
        assert (await first.run(CodeBlock(code))).ok
        with pytest.raises(SandboxUnavailable, match="is another directory than it was"):
            await second.restart()
    assert os.listdir(outside) == []


async def test_links_beside_an_interpreter_in_the_workspace_show_nothing_of_the_machine(tmp_path: Path) -> None:
    """Neither one that a block makes, nor one that is there already, perhaps by a block of another backend."""
    require_engine(BACKENDS[0].installed(), BACKENDS[0].engine)
    secret, workspace = tmp_path / "secret", tmp_path / "workspace"
    secret.mkdir()
    (secret / "key").write_text("of the machine")
    venv = workspace / "project/venv"
    command = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=50)
    (venv / "share").symlink_to(secret)
    code = f"""
import os
for make in (
    lambda: os.symlink({str(secret)!r}, "project/venv/libexec"),
    lambda: os.rename("project/venv", "project/other"),
    lambda: os.rename("project", "other"),
):
    try: make(); print("made")
    except OSError as error: print(error.strerror)
print(os.path.exists({str(venv / "share/key")!r}), os.path.exists({str(venv / "libexec/key")!r}))
open("project/written", "w").close()
"""
    refused = "Read-only file system\n" + 2 * "Device or resource busy\n" + "False False\n"
    async with open_executor(
        "local", isolation="bwrap", workspace=workspace, python=str(venv / "bin/python")
    ) as executor:
        for _ in range(2):
            result = await executor.run(CodeBlock(code))
            assert result.stdout == refused, result.stderr
            assert result.verdict == "ok"
            await executor.restart()


# Limits


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (512, 512),
        ("512", 512),
        ("1k", 1024),
        ("64K", 65536),
        ("512M", 512 << 20),
        ("1.5GiB", 3 << 29),
        (" 2 gb ", 2 << 30),
        ("1t", 1 << 40),
    ],
)
def test_a_size_is_bytes_or_a_number_with_a_unit(text: object, size: int) -> None:
    assert Limits.model_validate({"memory": text}).memory == size


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("memory", value)
        for value in ["", "M", "-1", "1X", "1e9", 0, -5, True, 1.5, None, "9" * 400, "9" * 18 + "t", [], "0"]
    ]
    + [("wall_time", value) for value in [0, -1, float("nan"), float("inf"), "soon", 1e9]]
    + [("processes", value) for value in [0, 1 << 30, "many", 1.5]]
    + [("open_files", 3), ("memroy", "1G"), ("network", "maybe")],
)
def test_what_is_no_limit_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Limits.model_validate({field: value})


def test_limits_are_values() -> None:
    assert Limits.model_validate({"memory": "512M"}) == Limits(memory=512 << 20)
    assert len({Limits(), Limits(), Limits(wall_time=1)}) == 2
    with pytest.raises(ValidationError, match="frozen"):
        Limits().wall_time = 3  # type: ignore[misc]
    defaults = Limits()
    assert (defaults.wall_time, defaults.cpu_time, defaults.memory, defaults.processes) == (
        60,
        None,
        1 << 30,
        128,
    )
    assert (defaults.disk, defaults.file_size, defaults.open_files, defaults.output) == (
        1 << 30,
        256 << 20,
        1024,
        1 << 20,
    )
    assert defaults.network is False


# The package


def test_importing_the_package_has_no_effects(tmp_path: Path) -> None:
    code = (
        "import sys, os, threading\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        "import sandboxes\n"
        "heavy = {'docker', 'jupyter_client', 'openai', 'agentexec', 'zmq', 'typer'} & sys.modules.keys()\n"
        "same = set(os.listdir('/proc/self/fd')) == before\n"
        "print(sorted(heavy), threading.active_count(), same, os.listdir('.'))\n"
    )
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, cwd=tmp_path, env=env, timeout=30
    )
    assert (done.stdout.decode(), done.stderr.decode()) == ("[] 1 True []\n", "")
    assert list(tmp_path.iterdir()) == []


def test_the_package_never_imports_agentexec_or_an_engine_outside_its_module() -> None:
    own_module = {
        "docker": "docker",
        "requests": "docker",
        "jupyter_client": "jupyter",
        "zmq": "jupyter",
        "pytest": "conformance",
    }
    for path in Path(sandboxes.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in (name.partition(".")[0] for name in names):
                assert name not in ("agentexec", "openai"), path
                assert own_module.get(name, path.stem) in (path.stem, path.parent.name), path
                known = name in sys.stdlib_module_names or name in (
                    "sandboxes",
                    "pydantic",
                    "psutil",
                    *own_module,
                )
                assert known, (path, name)
                if path.parent.name == "runner" and path.name != "__init__.py":
                    assert name in sys.stdlib_module_names, path


def test_the_runner_is_python_3_8() -> None:
    for path in (Path(sandboxes.__file__).parent / "runner").glob("*.py"):
        if path.name != "__init__.py":
            ast.parse(path.read_text(), feature_version=(3, 8))


def test_the_exports_are_pinned() -> None:
    assert len(set(sandboxes.__all__)) == len(sandboxes.__all__)
    assert set(sandboxes.__all__) == {
        "LANGUAGES", "VERDICTS", "ByteStream", "CodeBlock", "Display", "DockerSandbox", "ErrorInfo", "Executor",
        "FakeExecutor", "FileTooLarge", "Isolation", "Language", "LimitNotEnforceable", "Limits",
        "LocalSandbox", "OnOutput", "Pool", "PoolTimeout", "ProcessStream", "Result", "Sandbox", "SandboxClosedError",
        "SandboxError", "SandboxLostError", "SandboxProtocolError", "SandboxStartError",
        "SandboxUnavailable", "ScriptExecutor", "SyncExecutor", "UnknownExecutor", "UnknownLanguage", "UnsafePath",
        "Verdict", "WorkspaceFile", "WorkspaceFileNotFound", "executor_names", "find_language",
        "open_executor", "open_executor_sync", "workspace_path",
    }  # fmt: skip
    assert all(hasattr(sandboxes, name) for name in sandboxes.__all__)
    assert sandboxes.VERDICTS == (
        "ok",
        "failed",
        "timeout",
        "cpu_time",
        "memory",
        "disk",
        "cancelled",
        "lost",
    )


MODEST = """
import asyncio, resource, sys
from sandboxes import CodeBlock, Limits, open_executor
for name, most in (("CORE", 0), ("NOFILE", 300), ("FSIZE", 50 << 20), ("RTPRIO", 0)):
    resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
async def main():
    limits = Limits(open_files=2000, file_size="100M")
    async with open_executor("local", isolation=sys.argv[1], limits=limits) as executor:
        code = "import resource\\nfor name in ('CORE', 'NOFILE', 'FSIZE'): "
        code += "print(resource.getrlimit(getattr(resource, f'RLIMIT_{name}')))"
        result = await executor.run(CodeBlock(code))
        print(result.verdict, result.stdout, result.stderr)
asyncio.run(main())
"""


@pytest.mark.parametrize("isolation", ["bwrap", "landlock", "none"])
def test_limits_above_what_the_caller_itself_may_have_come_down_to_that(isolation: str) -> None:
    require_engine(LOCAL.installed(), LOCAL.engine)
    done = subprocess.run([sys.executable, "-c", MODEST, isolation], capture_output=True, text=True, timeout=50)
    assert done.stdout == f"ok (0, 0)\n(300, 300)\n{(50 << 20, 50 << 20)}\n \n", done.stderr
