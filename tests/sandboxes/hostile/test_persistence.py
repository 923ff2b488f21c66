"""Section H, and what else outlives a block: the next block, the next run and the host are unaffected."""

from __future__ import annotations

import asyncio
import os

import pytest

from sandboxes import CodeBlock
from sandboxes.conformance.canaries import tagged
from sandboxes.runner.files import remove_tree
from tests.sandboxes.hostile.arena import Arena

PLANTED = "raise SystemExit('planted')"
HOOKS = {
    "sitecustomize.py": PLANTED,
    "usercustomize.py": PLANTED,
    "planted.pth": "import sys; sys.exit('planted')",
    "json.py": PLANTED,
    ".bashrc": "echo planted; exit 9",
    ".profile": "echo planted; exit 9",
    ".bash_profile": "echo planted; exit 9",
    ".config/pip/pip.conf": "[global]\nindex-url = http://127.0.0.1:1/\n",
    ".pip/pip.conf": "[global]\nindex-url = http://127.0.0.1:1/\n",
    ".ipython/profile_default/startup/00.py": PLANTED,
    ".ipython/profile_default/ipython_config.py": PLANTED,
    ".local/share/jupyter/kernels/python3/kernel.json": '{"argv": ["false"], "language": "python"}',
    ".jupyter/jupyter_config.py": PLANTED,
    ".local/lib/python3/site-packages/sitecustomize.py": PLANTED,
    ".git/config": "[core]\n\tfsmonitor = touch planted\n\thooksPath = .git/hooks\n",
    ".git/hooks/post-checkout": "#!/bin/sh\ntouch planted\n",
    "agentexec.toml": '[sandbox]\nspec = "none"\nnetwork = "on"\nisolation = "none"\n',
    ".env": "LD_PRELOAD=/workspace/evil.so\nPYTHONSTARTUP=/workspace/json.py\n",
}


@pytest.mark.parametrize("restarted", [False, True], ids=["next block", "next run"])
async def test_files_that_programs_read_at_their_start_change_nothing(arena: Arena, restarted: bool) -> None:
    # In the workspace, and in whatever blocks have for a home.
    code = f"""
    import os
    for top in (os.getcwd(), os.path.expanduser("~"), os.environ.get("TMPDIR", "/tmp")):
        for name, content in {HOOKS!r}.items():
            path = os.path.join(top, name)
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w") as file: file.write(content)
                os.chmod(path, 0o755)
            except OSError:
                pass
    """
    check = """
    import os, subprocess, sys
    print(sys.argv[1:], "LD_PRELOAD" in os.environ, "PYTHONSTARTUP" in os.environ)
    print(subprocess.run(["bash", "-c", "echo shell"], capture_output=True).stdout)
    print(os.path.exists("planted"))
    """
    async with arena.open() as executor:
        result = await executor.run(arena.python(code))
        assert result.verdict == "ok", result.stderr
        if restarted:
            await executor.restart()
        # json.py may shadow for a block that imports it, which this one does not.
        result = await executor.run(arena.python(check))
        assert (result.verdict, result.stdout) == ("ok", "[] False False\nb'shell\\n'\nFalse\n"), result
        result = await executor.run(CodeBlock("set -- $0; echo $#", language="sh"))
        assert (result.verdict, result.stdout) == ("ok", "1\n"), result
        await arena.assert_usable(executor)


async def test_poisoned_bytecode_of_the_library_is_not_possible(arena: Arena) -> None:
    code = """
    import json, os, sys
    made = []
    for module in list(sys.modules.values()):
        cached = getattr(module, "__cached__", None)
        if cached and not cached.startswith(os.getcwd()):
            for path in (cached, os.path.join(os.path.dirname(cached), "planted.pyc")):
                try:
                    open(path, "ab").close()
                    made.append(path)
                except OSError:
                    pass
    print(made)
    """
    assert (await arena.attack(code)).stdout == "[]\n"


async def test_two_runs_that_share_a_workspace_see_its_files_and_nothing_else(arena: Arena) -> None:
    plant = "import os\nopen('shared', 'w').write('one'); open('/tmp/mine' if os.access('/tmp', 2) else 'no', 'w')"
    async with arena.open() as one, arena.row.open(workspace=arena.workspace) as two:
        await asyncio.gather(one.run(CodeBlock(plant)), two.run(CodeBlock("print(1)")))
        results = await asyncio.gather(
            *(each.run(CodeBlock(f"open('f{n}', 'w').write('x')")) for n, each in enumerate((one, two) * 5))
        )
        assert [result.verdict for result in results] == ["ok"] * 10
        seen = await two.run(CodeBlock("import os; print(open('shared').read(), os.path.exists('/tmp/mine'))"))
        assert seen.stdout == "one False\n"
        await two.restart()
        assert await one.get("shared") == b"one"


@pytest.mark.timeout(120)
async def test_five_megabytes_of_source_run(arena: Arena) -> None:
    code = "x = 1\n" + "# " + "y" * 98 + "\n"
    source = code * 50_000 + "print(x)\n"
    async with arena.open(wall_time=60) as executor:
        result = await executor.run(CodeBlock(source))
        assert (result.verdict, result.stdout) == ("ok", "1\n"), result.message
        await arena.assert_usable(executor)


@pytest.mark.timeout(240)
async def test_tree_10000_directories_deep_is_bounded_and_removed(arena: Arena) -> None:
    code = "import os\nfor _ in range(10_000):\n    os.mkdir('d')\n    os.chdir('d')\n"
    async with arena.open(wall_time=10) as executor:
        result = await executor.run(CodeBlock(code))
        # Landlock walks up to the root in each step, and may not get to the end in time.
        assert result.verdict in ("ok", "timeout"), (result.message, result.stderr[-500:])
        assert (await executor.run(CodeBlock("print(1)"))).stdout == "1\n"
    remove_tree(str(arena.workspace))
    assert not arena.workspace.exists()


@pytest.mark.parametrize(
    "end",
    ["", "import threading, os; threading.Timer(0.2, os._exit, [3]).start()"],
    ids=["kernel alive", "kernel ended"],
)
async def test_nothing_goes_on_after_a_reset(arena: Arena, end: str) -> None:
    writer = """
import os, sys, time
while True:
    for path in ("left.py", os.environ["HOME"] + "/left"):
        try: open(path, "w").close()
        except OSError: pass
    time.sleep(0.001)
"""
    code = f"""
    import subprocess, sys, time
    subprocess.Popen([sys.executable, "-c", {writer!r}, HOST["tag"]], start_new_session=True)
    time.sleep(0.3)
    """
    async with arena.open() as executor:
        await executor.run(arena.python(code))
        if arena.row.keeps_state:
            await executor.run(CodeBlock(end))
            await asyncio.sleep(0.5)  # for the end of a kernel that nobody speaks with
        await executor.reset()
        look = "import os; print([os.path.exists(path) for path in ('left.py', os.environ['HOME'] + '/left')])"
        assert (await executor.run(CodeBlock(look))).stdout == "[False, False]\n"
        assert not tagged(arena.tag)


BETWEEN = {
    "memory": "import time; time.sleep(1); held = bytearray(b'x' * (400 << 20)); time.sleep(60)",
    "disk": "import time; time.sleep(1); open('large', 'wb').write(bytes(100 << 20)); time.sleep(60)",
    "kernel ended": "import os, sys, time; time.sleep(1); os.kill(int(sys.argv[2]), 9); time.sleep(60)",
}


@pytest.mark.parametrize("how", BETWEEN)
async def test_limits_hold_between_cells(arena: Arena, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if not arena.row.keeps_state:
        pytest.skip("nothing of a block goes on after it")
    monkeypatch.setattr("sandboxes.local.usable_place", lambda: None)  # as for most users
    code = f"""
    import os, subprocess, sys
    subprocess.Popen([sys.executable, "-c", {BETWEEN[how]!r}, HOST["tag"], str(os.getpid())], start_new_session=True)
    """
    async with arena.open(memory="200M", disk="64M") as executor:
        assert (await executor.run(arena.python(code))).verdict == "ok"
        async with asyncio.timeout(10):
            while tagged(arena.tag):  # what ended the kernel, or passed a limit, does not wait for the next cell
                await asyncio.sleep(0.05)
        result = await executor.run(CodeBlock("print(1)"))
        assert result.verdict == ("failed" if how == "kernel ended" else how), result
        await arena.assert_usable(executor)


async def test_flags_of_the_standard_input_are_not_the_next_block_s(arena: Arena) -> None:
    code = """
    import fcntl, os
    print(fcntl.fcntl(0, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_APPEND))
    fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)
    """
    async with arena.open() as executor:
        for _ in range(2):
            assert (await arena.run(executor, code)).stdout == "0\n"
            await executor.reset()


async def test_terminals_are_there_for_the_next_block(arena: Arena) -> None:
    use = """
    import os
    try: print(os.openpty() and "there")
    except OSError as error: print(error.strerror)
    """
    lock = """
    import os
    for path in ("/dev/pts/ptmx", "/dev/pts"):
        try: os.chmod(path, 0)
        except OSError: pass
    """
    async with arena.open() as executor:
        before = (await arena.run(executor, use)).stdout
        await arena.run(executor, lock)
        assert (await arena.run(executor, use)).stdout == before
        await arena.run(executor, lock)
        await executor.reset()
        assert (await arena.run(executor, use)).stdout == before


async def test_resets_leave_no_descriptor_in_the_runner(arena: Arena) -> None:
    async with arena.open() as executor:
        await executor.reset()
        await executor.ping()
        before = _descriptors(arena)
        for _ in range(5):
            await executor.reset()
        await executor.ping()
        assert _descriptors(arena) == before


def _descriptors(arena: Arena) -> int:
    """Return how many the processes of a sandbox have open, as far as this process may see that."""
    count = 0
    for pid in arena.row.processes():
        try:
            count += len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue
    return count


async def test_directories_are_like_new_after_a_reset(arena: Arena) -> None:
    look = """
    import fcntl, os
    def flags(path):
        file = os.open(path, os.O_RDONLY)
        try:
            return fcntl.ioctl(file, 0x80086601, bytes(8))
        except OSError:
            return None
        finally:
            os.close(file)
    def is_ours(path):
        try:
            os.listdir(path)
            return os.access(path, os.W_OK) and os.stat(path).st_uid == os.getuid()
        except OSError:
            return False
    def attributes(path):
        try:
            return {name: os.getxattr(path, name) for name in os.listxattr(path)}
        except OSError:
            return None
    places = [os.path.realpath(path) for path in (".", "/tmp", "/dev/shm", "/shared", os.environ["HOME"])]
    places = sorted({path for path in places if is_ours(path)})
    print([(path, oct(os.stat(path).st_mode), attributes(path), flags(path)) for path in places])
    """
    leave = """
    access = bytes.fromhex("02000000" "01000700ffffffff" "04000000ffffffff" "20000000ffffffff")
    for path in places:
        os.chmod(path, 0o1757)
        file = os.open(path, os.O_RDONLY)
        for attempt in (
            lambda: os.setxattr(path, "user.note", b"to the next"),
            lambda: os.setxattr(path, "system.posix_acl_default", access),
            lambda: fcntl.ioctl(file, 0x40086602, (int.from_bytes(flags(path), "little") | 0x40).to_bytes(8, "little")),
        ):
            try: attempt()
            except (OSError, TypeError): pass
        os.close(file)
    """
    async with arena.open() as executor:
        before = (await arena.run(executor, look)).stdout
        await arena.run(executor, look + leave)
        assert (await arena.run(executor, look)).stdout != before
        await executor.reset()
        assert (await arena.run(executor, look)).stdout == before
