"""Section A: time and processes."""

from __future__ import annotations

import subprocess
import time

import pytest

from sandboxes import CodeBlock
from sandboxes.conformance.programs import DAEMONS, IGNORE_SIGNALS, LEFT_RUNNING
from tests.sandboxes.hostile.arena import KERNEL, Arena


async def test_busy_loop_uses_up_cpu_time(arena: Arena) -> None:
    result = await arena.attack("print('before')\nwhile True: pass", verdict="cpu_time", cpu_time=0.3)
    assert result.stdout == "before\n"
    assert result.cpu_time is not None
    assert 0.3 <= result.cpu_time < 1.3


async def test_cpu_time_is_that_of_the_whole_tree(arena: Arena) -> None:
    code = "import os\nfor _ in range(4): os.fork()\nwhile True: pass"
    await arena.attack(code, verdict="cpu_time", cpu_time=0.5)


async def test_cpu_time_of_ended_children_counts(arena: Arena) -> None:
    code = """
    import os, time
    while True:
        if os.fork() == 0:
            end = time.process_time() + 0.05
            while time.process_time() < end: pass
            os._exit(0)
        os.wait()
    """
    await arena.attack(code, verdict="cpu_time", cpu_time=0.5)


@pytest.mark.parametrize("grouped", [True, False], ids=["control group", "watcher alone"])
async def test_cpu_time_of_children_whose_end_is_ignored_counts(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, grouped: bool
) -> None:
    if not grouped:  # as for most users
        monkeypatch.setattr("sandboxes.local.usable_place", lambda: None)
    code = """
    import os, signal, time
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if os.fork() == 0:
            end = time.process_time() + 0.03
            while time.process_time() < end: pass
            os._exit(0)
        try: os.wait()
        except ChildProcessError: pass
    """
    await arena.attack(code, verdict="cpu_time", cpu_time=0.5, wall_time=10)


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(3600)", "import signal; signal.pause()"])
async def test_endless_block_times_out_with_partial_output(arena: Arena, code: str) -> None:
    result = await arena.attack(f"print('before')\n{code}", verdict="timeout", wall_time=0.5)
    assert result.stdout == "before\n"
    assert result.exit_code is None
    assert 0.5 <= result.duration < 0.5 + arena.backend.grace


async def test_shell_sleeping_for_ever_times_out(arena: Arena) -> None:
    block = CodeBlock("echo before; sleep 3600", language="bash")
    result = await arena.attack(block, verdict="timeout", wall_time=0.5)
    assert result.stdout == "before\n"


async def test_ignored_signals_do_not_help(arena: Arena) -> None:
    await arena.attack(IGNORE_SIGNALS + "while True: pass", verdict="timeout", wall_time=0.5)


@pytest.mark.parametrize("target", ["os.getpid()", "0"], ids=["itself", "its group"])
async def test_stopping_itself_times_out(arena: Arena, target: str) -> None:
    code = f"import os, signal\nprint('before')\nos.kill({target}, signal.SIGSTOP)"
    result = await arena.attack(code, verdict="timeout", wall_time=0.5)
    assert result.stdout == "before\n"


async def test_stopped_children_die_too(arena: Arena) -> None:
    code = """
    import os, signal, subprocess
    for _ in range(5):
        os.kill(subprocess.Popen(["sh", "-c", "sleep 300; : " + HOST["tag"]]).pid, signal.SIGSTOP)
    """
    await arena.attack(code)


BOMBS = {
    "forks": ("python", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"),
    "forks that leave their session": (
        "python",
        "import os\nwhile True:\n    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: pass",
    ),
    "shell": ("bash", ":(){ :|:& };:\nsleep 60"),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_fork_bomb_is_capped(arena: Arena, name: str) -> None:
    language, code = BOMBS[name]
    before = len(arena.row.processes())
    async with arena.open(wall_time=1, processes=24) as executor:
        most = 0

        def count(stream: str, data: bytes) -> None:
            nonlocal most
            if b"alive" not in data:  # what an interrupted kernel says on stderr is too much to look for each piece
                return
            most = max(most, len(arena.row.processes()) - before)

        # Where nothing but the runner's watcher caps processes, it ends the block.
        verdict = "failed" if "watcher" in executor.isolation.mechanisms["processes"] else "timeout"
        block = CodeBlock(code, language=language)
        if language == "python":
            block = arena.python("import threading\nprint('alive', flush=True)\n" + code)
        await arena.run(executor, block, verdict=verdict, on_output=count)
        assert most <= 24 + 4
        assert subprocess.run(["true"], timeout=10).returncode == 0


async def test_fork_fails_at_the_limit(arena: Arena) -> None:
    code = """
    import os, time
    forked = 0
    try:
        while forked < 100:
            if os.fork() == 0:
                time.sleep(60)
            forked += 1
    except OSError as error:
        print(error.strerror)
    print(forked)
    """
    async with arena.open(processes=16) as executor:
        if "watcher" in executor.isolation.mechanisms["processes"]:
            pytest.skip("the watcher caps processes by ending the block")
        result = await arena.run(executor, code)
        reason, forked = result.stdout.split("\n")[:2]
        assert reason == "Resource temporarily unavailable"
        assert (4 if arena.row.keeps_state else 8) <= int(forked) < 16  # a kernel has threads of its own


async def test_thread_bomb_is_capped(arena: Arena) -> None:
    code = """
    import os, threading
    started = 0
    try:
        while started < 200:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            started += 1
    except RuntimeError as error:
        print(error)
    print(started, flush=True)
    os._exit(0)
    """
    async with arena.open(processes=16) as executor:
        watched = "watcher" in executor.isolation.mechanisms["processes"]
        result = await arena.run(executor, code, verdict="failed" if watched else "ok")
        if not watched:
            assert int(result.stdout.split("\n")[1]) < 16


async def test_double_forked_daemon_dies_with_its_block(arena: Arena) -> None:
    code = """
    import os, signal, subprocess, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.execvp("sh", ["sh", "-c", "while :; do date >> beats; sleep 0.01; done; : " + HOST["tag"]])
        os._exit(0)
    while not os.path.exists("beats"):
        time.sleep(0.01)
    """
    await arena.attack(code)
    beats = (arena.workspace / "beats").stat().st_size
    time.sleep(0.1)
    assert (arena.workspace / "beats").stat().st_size == beats


async def test_child_in_another_process_group_dies_with_its_block(arena: Arena) -> None:
    await arena.attack(f"import subprocess\n{LEFT_RUNNING['other group']}")


async def test_daemons_die_at_a_timeout(arena: Arena) -> None:
    await arena.attack(DAEMONS, verdict="timeout", wall_time=0.5)


async def test_child_that_keeps_stdout_open_does_not_hold_the_block_up(arena: Arena) -> None:
    result = await arena.attack(f"import subprocess\nprint('before')\n{LEFT_RUNNING['child']}", wall_time=8)
    assert result.stdout == "before\n"
    assert result.duration < 4


async def test_closed_output_is_not_the_end(arena: Arena) -> None:
    code = """
    import os, time
    os.close(1); os.close(2)
    time.sleep(0.3)
    open("done", "w").close()
    os._exit(7)
    """
    result = await arena.attack(code, verdict="failed")
    assert result.exit_code == 7
    assert result.duration >= 0.3
    assert [file.path for file in result.files] == ["done"]


async def test_flood_of_zombies_is_reaped(arena: Arena) -> None:
    code = """
    import os
    for _ in range(100):
        if os.fork() == 0:
            os.fork()
            os._exit(0)
        os.wait()
    print("done")
    """
    assert (await arena.attack(code, processes=32)).stdout == "done\n"


@pytest.mark.parametrize("status", [1, 3, 101, 124, 125, 126, 127, 130, 137, 139, 143, 152, 153, 255])
async def test_own_exit_status_is_failed_whatever_it_is(arena: Arena, status: int) -> None:
    result = await arena.attack(f"import os; os._exit({status})", verdict="failed", cpu_time=5)
    assert (result.exit_code, result.signal) == (status, None)


@pytest.mark.parametrize("number", [4, 6, 8, 9, 11, 15, 24, 31])
async def test_own_death_by_signal_is_failed_and_leaves_no_core(arena: Arena, number: int) -> None:
    code = f"""
    import os, resource, signal
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    except (OSError, ValueError):
        pass
    print("before")
    os.kill(os.getpid(), {number})
    """
    result = await arena.attack(code, verdict="failed", cpu_time=5)
    assert (result.exit_code, result.signal, result.stdout) == (None, number, "before\n")
    assert result.files == ()
    assert list(arena.workspace.iterdir()) == []


async def test_segmentation_fault_is_failed(arena: Arena) -> None:
    result = await arena.attack("import ctypes; ctypes.string_at(0)", verdict="failed")
    assert result.signal == 11
    assert list(arena.workspace.iterdir()) == []


async def test_deep_recursion_is_failed(arena: Arena) -> None:
    result = await arena.attack("def deeper(): deeper()\ndeeper()", verdict="failed")
    assert (result.exit_code, "RecursionError" in result.stderr) == (1, True)
    overflow = (
        "import sys\nsys.setrecursionlimit(10**9)\nclass Deep:\n    __getattr__ = lambda s, n: getattr(s, n)\nDeep().a"
    )
    arena.canaries.assert_untouched()
    async with arena.open() as executor:
        await arena.run(executor, overflow, verdict="failed")


async def test_killing_everybody_harms_only_itself(arena: Arena) -> None:
    code = """
    import os, subprocess
    child = subprocess.Popen(["sleep", "300"])
    print("before")
    os.kill(-1, 9)  # spares the caller
    print("after", child.wait())
    """
    result = await arena.attack(code)
    assert result.stdout == "before\nafter -9\n"


async def test_killing_its_group_harms_only_itself(arena: Arena) -> None:
    result = await arena.attack("print('before')\nimport os\nos.killpg(0, 9)", verdict="failed")
    assert (result.signal, result.stdout) == (9, "before\n")


async def test_every_signal_to_the_parent_changes_nothing(arena: Arena) -> None:
    code = """
    import os, time
    for number in range(1, 65):
        for target in {1, os.getppid()}:
            try:
                os.kill(target, number)
            except OSError:
                pass
    time.sleep(0.1)
    print("alive")
    """
    assert (await arena.attack(code)).stdout == "alive\n"


async def test_flood_of_signals_to_the_parent_does_not_starve_it(arena: Arena) -> None:
    code = """
    import os, signal
    print("before")
    for _ in range(20):
        os.fork()
        break
    while True:
        for target in (1, os.getppid()):
            try:
                os.kill(target, signal.SIGCHLD)
            except OSError:
                pass
    """
    await arena.attack(code, verdict="timeout", wall_time=0.7)


PARENT = {
    "limits": "resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))",
    "memory": "resource.prlimit(1, resource.RLIMIT_AS, (1 << 20, 1 << 20))",
    "cpu": "resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))",
    "nice": "os.setpriority(os.PRIO_PROCESS, 1, 19)",
    "nice of the user": "os.setpriority(os.PRIO_USER, os.getuid(), 19)",
    "policy": "os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))",
    "cores": "os.sched_setaffinity(1, {0})",
    "memory map": "open('/proc/1/mem', 'rb')",
}


@pytest.mark.parametrize("what", PARENT)
async def test_supervisor_cannot_be_tuned(arena: Arena, what: str) -> None:
    code = f"""
    import os, resource
    try:
        {PARENT[what]}
    except OSError as error:
        print("refused", error.errno)
    """
    assert (await arena.attack(code)).stdout.startswith("refused")


async def test_reading_limits_and_setting_its_own_still_works(arena: Arena) -> None:
    code = """
    import os, resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (20, hard))
    print(resource.prlimit(0, resource.RLIMIT_NOFILE), resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE))
    os.nice(1)
    os.setpriority(os.PRIO_PROCESS, 0, 15)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    """
    assert (await arena.attack(code, open_files=64)).stdout == "(20, 64) (20, 64)\n"


async def test_many_busy_sessions_do_not_delay_the_end(arena: Arena) -> None:
    code = """
    import os
    print("before")
    try:
        # These belong to root, and so to a block where root started the sandbox.
        open("/proc/1/autogroup", "w").write("19")
        open("/proc/1/oom_score_adj", "w").write("1000")
    except OSError:
        pass
    for _ in range(60):
        if os.fork() == 0:
            os.setsid()
            break
    while True: pass
    """
    await arena.attack(code, verdict="timeout", wall_time=0.7)


async def test_stdin_is_at_its_end(arena: Arena) -> None:
    code = """
    import sys, os
    print(repr(sys.stdin.read()), os.read(0, 1))
    try:
        input()
    except (EOFError, NotImplementedError):
        print("EOF")
    """
    assert (await arena.attack(code)).stdout == "'' b''\nEOF\n"
    async with arena.open() as executor:
        assert (await arena.run(executor, CodeBlock("cat; echo $?", language="sh"))).stdout == "0\n"


async def test_raising_its_own_limits_is_refused(arena: Arena) -> None:
    # CPU time is limited by the cell: a kernel as a whole has no limit of it, so only the runner counts there.
    names = ("RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE", *(() if arena.row.keeps_state else ("RLIMIT_CPU",)))
    code = f"""
    import resource
    for name in {names}:
        limit = getattr(resource, name)
        soft, hard = resource.getrlimit(limit)
        assert hard != resource.RLIM_INFINITY, name
        for wish in (resource.RLIM_INFINITY, hard + 1):
            try:
                resource.setrlimit(limit, (wish, wish))
                print("raised", name)
            except (OSError, ValueError):
                pass
    """
    assert (await arena.attack(code, cpu_time=5)).stdout == ""


async def test_setting_the_clock_is_refused(arena: Arena) -> None:
    code = """
    import time
    before = time.time()
    for clock in (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_TAI):
        try:
            time.clock_settime(clock, 1e9)
            print("set")
        except OSError:
            pass
    print(abs(time.time() - before) < 100)
    """
    assert (await arena.attack(code)).stdout == "True\n"


async def test_faking_use_of_cpu_time_is_failed(arena: Arena) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGXCPU)"
    assert (await arena.attack(code, verdict="failed", cpu_time=5)).signal == 24


async def test_held_vfork_is_ended(arena: Arena) -> None:
    # The child is held between vfork and exec, where it has its parent's memory, not as much again.
    code = """
    import os, time
    os.mkfifo("gate")
    held = bytearray(b"x" * (40 << 20))
    if os.fork() == 0:
        time.sleep(0.5)
        os._exit(0 if open("gate", "w") else 1)
    action = (os.POSIX_SPAWN_OPEN, 5, "gate", os.O_RDONLY, 0)
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}, file_actions=[action]), 0)
    print("done")
    """
    memory = (100 << 20) + (KERNEL if arena.row.keeps_state else 0)
    assert (await arena.attack(code, memory=memory)).stdout == "done\n"
