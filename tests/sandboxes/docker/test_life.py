"""Limits that the engine holds, and how containers end: quickly, always, and never somebody else's."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes import (
    CodeBlock,
    Executor,
    Limits,
    SandboxError,
    SandboxLostError,
    SandboxStartError,
    SandboxUnavailable,
    open_executor,
)
from sandboxes.docker import owners
from sandboxes.docker.engine import Engine
from tests.sandboxes.backends import containers, engine
from tests.sandboxes.docker.conftest import PrivateEngine

HELLO = CodeBlock("print('hello')")
SLEEP = CodeBlock("import time\nprint('up', flush=True)\ntime.sleep(60)")
GREEDY = """
import mmap, os
print("before", flush=True)
m = mmap.mmap(-1, 2 << 30, flags=mmap.MAP_PRIVATE)
m.madvise(23)  # MADV_POPULATE_WRITE: in one call, faster than anybody can watch
print("after")
"""


async def usable(executor: Executor) -> bool:
    return (await executor.run(HELLO)).stdout == "hello\n"


async def running(executor: Executor) -> asyncio.Task[object]:
    """Start a block that sleeps, and return once it has printed something."""
    printed = asyncio.Event()
    task = asyncio.create_task(executor.run(SLEEP, on_output=lambda *_: printed.set()))
    await asyncio.wait_for(printed.wait(), 20)
    return task


# The memory control group


async def test_runner_outlives_the_oom_killer_and_the_next_block_works() -> None:
    async with open_executor("docker", limits=Limits(memory="64M", wall_time=20)) as executor:
        for _ in range(3):
            result = await executor.run(CodeBlock(GREEDY))
            assert (result.verdict, result.stdout) == ("memory", "before\n"), result
            assert "limit is 64 MiB" in result.message
            assert await usable(executor)
        assert len(containers()) == 1


async def test_a_child_that_the_kernel_ends_is_memory_too() -> None:
    code = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {GREEDY!r}]); time.sleep(20)"
    async with open_executor("docker", limits=Limits(memory="64M", wall_time=15)) as executor:
        started = time.monotonic()
        result = await executor.run(CodeBlock(code))
        assert result.verdict == "memory"
        assert time.monotonic() - started < 14, "the block goes at once, not at its own end"
        assert await usable(executor)


@pytest.mark.parametrize("processes", [1, 2, 3])
async def test_few_processes_are_enough_for_block_after_block(processes: int) -> None:
    async with open_executor("docker", limits=Limits(processes=processes)) as executor:
        for _ in range(5):
            assert await usable(executor)
        code = "import os\ntry: os.fork() or os._exit(0)\nexcept OSError: print('refused')"
        assert ("refused" in (await executor.run(CodeBlock(code))).stdout) == (processes == 1)


# Ends


async def test_close_ends_a_running_block_at_once() -> None:
    executor = open_executor("docker")
    await executor.start()
    task = await running(executor)
    started = time.monotonic()
    await executor.close()
    assert time.monotonic() - started < 10
    assert containers() == []
    await asyncio.wait([task], timeout=20)
    assert task.done()


async def test_container_that_is_killed_is_lost_until_restart() -> None:
    async with open_executor("docker") as executor:
        await executor.put("kept", b"kept")
        task = await running(executor)
        with engine() as client:
            client.kill(containers()[0])
        result = await asyncio.wait_for(task, 20)
        assert getattr(result, "verdict", "") == "lost"
        assert getattr(result, "stdout", "") == "up\n"
        with pytest.raises(SandboxLostError, match="restart"):
            await executor.run(HELLO)
        await executor.restart()
        assert await executor.get("kept") == b"kept"
        assert await usable(executor)


async def test_container_that_is_paused_is_lost_within_a_bound() -> None:
    async with open_executor("docker", limits=Limits(wall_time=1)) as executor:
        with engine() as client:
            client.pause(containers()[0])
        started = time.monotonic()
        assert (await executor.run(HELLO)).verdict == "lost"
        assert time.monotonic() - started < 20
        await executor.restart()
        assert await usable(executor)


def owner(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 10
    while containers(pid) and time.monotonic() < end:
        time.sleep(0.05)


def test_containers_of_a_killed_owner_go_by_themselves() -> None:
    started = owner(
        "import asyncio\nfrom sandboxes import open_executor\nasync def main():\n"
        "    async with open_executor('docker'), open_executor('docker'):\n"
        "        print('up', flush=True)\n        await asyncio.sleep(600)\nasyncio.run(main())"
    )
    assert started.stdout is not None
    assert started.stdout.readline() == b"up\n"
    assert len(containers(started.pid)) == 2
    started.kill()
    started.communicate()
    wait_until_gone(started.pid)
    assert containers(started.pid) == []


CREATED = """
import sys
from sandboxes.docker.engine import Engine
from sandboxes.docker.owners import own_labels
labels = own_labels()
labels.update(word.split("=") for word in sys.argv[1:])
with Engine() as engine:
    print(engine.create("agentexec/python", ["sleep", "600"], {"network_mode": "none"}, labels=labels), flush=True)
    engine.create_volume("agentexec-test-" + str(len(sys.argv)), labels)
    print("up", flush=True)
    sys.stdin.read()
"""


async def test_what_a_killed_owner_left_is_reaped_by_the_next_start() -> None:
    started = subprocess.Popen([sys.executable, "-c", CREATED], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdout is not None
    container = started.stdout.readline().decode().strip()
    started.stdout.readline()
    async with open_executor("docker"):
        assert containers(started.pid) == [container], "its owner lives"
    started.kill()
    started.communicate()
    async with open_executor("docker"):
        assert containers(started.pid) == []
    with engine() as client:
        assert client.volumes(filters={"name": "agentexec-test-"})["Volumes"] in (None, [])


@pytest.mark.parametrize(
    "label", ["agentexec.user=4711", "agentexec.machine=other", "agentexec.kind=something", "agentexec.process=x"]
)
def test_what_is_somebody_elses_is_never_reaped(label: str) -> None:
    started = subprocess.run(
        [sys.executable, "-c", CREATED, label], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True
    )
    container = started.stdout.decode().split()[0]
    try:
        with Engine() as own:
            assert not any(container.startswith(name.split()[1]) for name in owners.remove_abandoned(own))
    finally:
        with engine() as client:
            assert client.inspect_container(container)["State"]["Status"] == "created"
            client.remove_container(container)
            client.remove_volume("agentexec-test-2")


def test_owner_of_another_boot_is_gone_and_of_another_container_perhaps_not() -> None:
    own = owners.own_labels()
    assert not owners.is_abandoned(own)
    boot, _, namespace = own[owners.BOOT].partition(".")
    assert owners.is_abandoned({**own, owners.BOOT: f"earlier.{namespace}"})
    assert not owners.is_abandoned({**own, owners.BOOT: f"{boot}.1"})
    assert owners.is_abandoned({**own, owners.PROCESS: f"{os.getpid()}.1.00"}), "a process id that was used again"


# Engines that fail


async def fails(url: str, words: str, within: float = 15.0) -> None:
    executor = open_executor("docker", url=url)
    started = time.monotonic()
    with pytest.raises(SandboxUnavailable, match=words):
        await executor.start()
    assert time.monotonic() - started < within


async def test_engine_that_is_not_there(tmp_path: Path) -> None:
    await fails(f"unix://{tmp_path}/nothing.sock", r"no Docker engine answers at unix://.*sudo systemctl start docker")
    await fails("tcp://127.0.0.1:1", "no Docker engine answers at tcp://127.0.0.1:1")
    await fails("nonsense://x", "no Docker engine answers at nonsense")


async def test_no_permission_on_the_socket(tmp_path: Path) -> None:
    if os.getuid() == 0:
        code = (
            "import os\nfrom sandboxes import SandboxUnavailable\nfrom sandboxes.docker.engine import Engine\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "try: Engine()\nexcept SandboxUnavailable as error: print(error)"
        )
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "no permission to use the Docker engine" in answer.stdout, answer
        assert "usermod -aG docker" in answer.stdout
    else:
        closed = tmp_path / "closed.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(closed))
            closed.chmod(0)
            await fails(f"unix://{closed}", "no permission to use the Docker engine")


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """A socket that takes connections and never says a word."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "silent.sock"))
        listener.listen()
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take)
        thread.start()
        yield f"unix://{tmp_path}/silent.sock"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in taken:
            each.close()


async def test_engine_that_never_answers(silent: str) -> None:
    await fails(silent, "does not answer.*systemctl restart docker", within=20)


async def test_engine_that_restarts_in_mid_block(private_engine: PrivateEngine) -> None:
    async with open_executor("docker", url=private_engine.url) as executor:
        await executor.put("kept", b"kept")
        task = await running(executor)
        private_engine.stop()
        result = await asyncio.wait_for(task, 20)
        assert getattr(result, "verdict", "") == "lost"
        with pytest.raises(SandboxError):
            await executor.restart()
        private_engine.start()
        await executor.restart()
        assert await executor.get("kept") == b"kept"
        assert await usable(executor)


async def test_engine_that_hangs_in_mid_block(private_engine: PrivateEngine) -> None:
    # The stream goes through the engine, so nothing comes any more; the answer is bounded all the same.
    async with open_executor("docker", url=private_engine.url, limits=Limits(wall_time=1)) as executor:
        task = await running(executor)
        private_engine.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(0)
            started = time.monotonic()
            thread = threading.Timer(4, lambda: private_engine.signal(signal.SIGCONT))
            thread.start()
            result = await asyncio.wait_for(task, 20)
            assert getattr(result, "verdict", "") in ("lost", "timeout")
            assert time.monotonic() - started < 20
        finally:
            thread.join()
            private_engine.signal(signal.SIGCONT)
        await executor.restart()
        assert await usable(executor)


async def test_start_fails_with_the_engines_words() -> None:
    with pytest.raises(SandboxStartError, match=r"Docker cannot .*"):
        await open_executor("docker", host_config={"cpuset_cpus": "4711"}).start()
