"""`python -m tests.crash --kills 200`: owners of sandboxes are killed at random moments; nothing of them may be left.

Each owner is a process that opens an executor and runs a block with daemons that ignore every signal. It gets a SIGKILL
at a moment that a seed decides, from before its sandbox exists to the middle of a block or of its end. Beside it, the
executors of this process stay open all the time, and must not be touched. Afterwards the next start, `agentexec clean`,
has to leave no process, container, volume, control group, mount, socket or temporary directory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from sandboxes import CodeBlock, Executor, Limits, SandboxUnavailable, open_executor
from sandboxes.conformance.canaries import tagged
from sandboxes.docker.owners import KIND, PROCESS
from sandboxes.runner.files import remove_tree
from tests.sandboxes.backends import LOCAL, container_processes, docker_installed, engine

WINDOW = {"local": 0.5, "landlock": 0.5, "docker": 1.2, "jupyter": 1.5, "jupyter+docker": 2.5}
"""Seconds after its imports within which an owner is killed; its life is about that long."""
PATIENCE = 10.0
"""Seconds in which everything of a killed owner must be gone by itself: an engine takes a moment."""
OWNER = """
import asyncio, sys
from sandboxes import CodeBlock, Limits, open_executor
import sandboxes.docker, sandboxes.jupyter
name, tag, workspace = sys.argv[1:]
CODE = '''
import os, signal, subprocess, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for _ in range(2):
    subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; while :; do sleep 1; done; : %s"], start_new_session=True)
open("made", "w").write("x")
time.sleep(0.4)
''' % tag
async def main():
    options = {"isolation": "landlock"} if name == "landlock" else {}
    spec = "local" if name == "landlock" else name
    for given in (None, workspace, None):
        async with open_executor(spec, workspace=given, limits=Limits(wall_time=300), **options) as executor:
            await executor.put("given", b"x")
            await executor.run(CodeBlock(CODE))
print("imported", flush=True)
asyncio.run(main())
"""


@dataclass
class Findings:
    """What was killed, and what was left of it.

    Attributes:
        kills: Backend to number of its owners that were killed.
        early: How many had ended by themselves before.
        inside: How many had something running in a sandbox.
        left: What should not be there.
    """

    kills: dict[str, int] = field(default_factory=dict)
    early: int = 0
    inside: int = 0
    left: list[str] = field(default_factory=list)


async def backends() -> list[str]:
    """Return the names of those that can be used here."""
    found = ["local", "jupyter"] if LOCAL.installed() else []
    with contextlib.suppress(SandboxUnavailable, ValueError):
        async with open_executor("local", isolation="landlock"):
            found.append("landlock")
    return [*found, "docker", "jupyter+docker"] if docker_installed() else found


def labelled(pids: set[int]) -> set[str]:
    """Return the containers and volumes in the engine that belong to some processes."""
    if not docker_installed():
        return set()
    with engine() as client:
        found = {each["Id"][:12]: each["Labels"] for each in client.containers(all=True, filters={"label": KIND})}
        found |= {each["Name"]: each["Labels"] for each in client.volumes(filters={"label": KIND})["Volumes"] or ()}
    return {name for name, labels in found.items() if int(labels[PROCESS].partition(".")[0]) in pids}


def machine(pids: set[int], directory: Path) -> set[str]:
    """Return everything on this machine that belongs to some owners, whose temporary directory is theirs alone."""
    found = {f"temporary {path}" for path in directory.iterdir()}
    groups = Path("/sys/fs/cgroup")
    for group in (*groups.glob("agentexec-*"), *groups.glob("*/agentexec-*"), *groups.glob("*/*/agentexec-*")):
        if any(str(pid) in group.name.split("-") for pid in pids):
            found.add(f"control group {group}")
    for source in ("/proc/self/mountinfo", "/proc/net/unix"):
        found |= {f"in {source}: {line}" for line in Path(source).read_text().splitlines() if str(directory) in line}
    return found | {f"in the engine: {name}" for name in labelled(pids)}


class Owner:
    """A process that opens one executor after the other."""

    def __init__(self, name: str, tag: str, directory: Path, workspace: Path) -> None:
        self.name = name
        argv = [sys.executable, "-c", OWNER, name, tag, str(workspace)]
        environment = {**os.environ, "TMPDIR": str(directory)}
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=Path(__file__).parents[1]
        )

    def kill(self, after: float) -> tuple[bool, list[psutil.Process]]:
        """Kill it some seconds after its imports; return whether it was alive, and the processes that were below it."""
        assert self.process.stdout is not None
        self.process.stdout.readline()
        time.sleep(after)
        below: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self.process.pid).suspend()  # so that nothing is started while we look
            below = psutil.Process(self.process.pid).children(recursive=True)
            below += [psutil.Process(pid) for pid in container_processes(self.process.pid)]
        alive = self.process.poll() is None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        return alive, below


def runs(process: psutil.Process) -> bool:
    """Whether a process is more than a zombie, whose reaping is this machine's init's affair."""
    try:
        return bool(process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
    except psutil.NoSuchProcess:
        return False


async def survivors(below: Sequence[psutil.Process], tag: str) -> list[str]:
    """Return what still runs after `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while True:
        left = [str(each) for each in below if runs(each)] + [f"process {pid}" for pid in tagged(tag)]
        if not left or time.monotonic() > end:
            return left
        await asyncio.sleep(0.02)


async def witness(executor: Executor, number: int) -> bool:
    """Whether a live owner's executor still has its sandbox and its files."""
    await executor.put("kept", b"%d" % number)
    result = await executor.run(CodeBlock("print(open('kept').read())"))
    return result.stdout == f"{number}\n"


async def crash(kills: int, seed: int, names: Sequence[str], scale: float = 1.0) -> Findings:
    """Kill owners, one after the other, and look for what they leave.

    Args:
        kills: How many.
        seed: Decides backends and moments.
        names: Of the backends, in turn.
        scale: Of the windows, for slow machines.
    """
    dice, findings, pids = random.Random(seed), Findings(), set[int]()
    with tempfile.TemporaryDirectory(prefix="crash-") as top:
        directory, workspace = Path(top, "tmp"), Path(top, "workspace")
        directory.mkdir()
        workspace.mkdir(mode=0o777)
        async with contextlib.AsyncExitStack() as stack:
            beside = [
                await stack.enter_async_context(open_executor(name, limits=Limits(wall_time=60)))
                for name in ("local", "docker")
                if name in await backends()
            ]
            for number in range(kills):
                name, tag = names[number % len(names)], f"tag-{secrets.token_hex(8)}"
                owner = Owner(name, tag, directory, workspace)
                pids.add(owner.process.pid)
                alive, below = await asyncio.to_thread(owner.kill, dice.uniform(0, WINDOW[name] * scale))
                findings.kills[name] = findings.kills.get(name, 0) + alive
                findings.early += not alive
                findings.inside += bool(below)
                findings.left += [f"kill {number} of {name}: {each}" for each in await survivors(below, tag)]
            findings.left += await asyncio.to_thread(clean_up, pids, directory)
            for number, executor in enumerate(beside):
                if not await witness(executor, number):
                    findings.left.append(f"the live {executor.isolation.tier} executor was touched")
        remove_tree(str(workspace))
    return findings


def clean_up(pids: set[int], directory: Path) -> list[str]:
    """Start the next one, in the owners' own surroundings; return what is left after it."""
    environment = {**os.environ, "TMPDIR": str(directory)}
    end = time.monotonic() + PATIENCE
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "agentexec", "clean"], env=environment, capture_output=True, text=True, timeout=60
        )
        left = sorted(machine(pids, directory))
        if done.returncode:
            left.append(f"agentexec clean failed: {done.stderr}")
        if not left or time.monotonic() > end:
            return left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--scale", type=float, default=1.0, help="of the windows, for slow machines")
    parser.add_argument("--backend", action="append", choices=sorted(WINDOW), help="one of several; all by default")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    findings = asyncio.run(crash(options.kills, seed, options.backend or asyncio.run(backends()), options.scale))
    print(f"killed {sum(findings.kills.values())}: {findings.kills}")
    print(f"{findings.inside} of them had a sandbox; {findings.early} more had ended before")
    print("\n".join(findings.left) or "nothing is left")
    return bool(findings.left)


if __name__ == "__main__":
    sys.exit(main())
