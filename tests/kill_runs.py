"""Kills runs at random moments and sees whether they survive.

    .venv/bin/python -m tests.kill_runs --kills 200

Each run is `agentexec solve` in a process of its own, with blocks in flight in the local sandbox. It is killed by
SIGKILL at a random moment and resumed, some times over. Then:

- it is solved, and every file that its blocks write is there;
- whatever was shown is in the store: what was written to stderr is the beginning of what the view makes of the
  stored events;
- no process is left, neither of the run nor of its sandbox.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from agentexec.cli.view import PlainView
from agentexec.events import BlockStarted, Event, RunResumed, RunStarted
from agentexec.store import Store

STEPS = 6
NAP = 0.15
"""Seconds that each block takes, so that kills hit blocks too."""


START = 1.0
"""Seconds until the first line is shown, about."""


@dataclass
class Tally:
    """What happened to all runs together."""

    runs: int = 0
    kills: int = 0
    in_block: int = 0
    before_start: int = 0
    events: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills of {self.runs} runs: {self.in_block} while a block ran, {self.before_start} before "
            f"the first event; all runs resumed and solved; {self.events} stored events, nothing shown was lost, "
            "no process left"
        )


def write_recording(path: Path) -> None:
    """Write what the models say: one block a step, then the answer."""
    coder = [
        f"Step {step}.\n\n```python\nimport time\nfor part in range(3):\n    print('step {step}', part, flush=True)\n"
        f"    time.sleep({NAP / 3})\nopen('step{step}.txt', 'w').write('{step}')\n```\n"
        for step in range(STEPS)
    ]
    lines = [("planner", "1. Take all steps."), *(("coder", text) for text in [*coder, "FINAL ANSWER: all done"])]
    lines += [("reviewer", "APPROVE")] * (STEPS + 1)
    calls = [json.dumps({"role": f"You are the {role}.", "text": text}) + "\n" for role, text in lines]
    path.write_text("".join(calls), "utf-8")


class Victim:
    """One run, through all its processes.

    Args:
        directory: Where its files go; empty.
        isolation: Flags that choose the sandbox.
    """

    def __init__(self, directory: Path, sandbox: Sequence[str] = ()) -> None:
        self.directory = directory
        self.sandbox = sandbox
        self.store = directory / "store"
        self.run_id: str | None = None
        write_recording(directory / "recorded.jsonl")
        self._shown = 0

    def start(self) -> subprocess.Popen[bytes]:
        """Start or resume it; its stderr goes to a file."""
        self._shown += 1
        command = ["solve", "Take all steps.", "-m", "replay:recorded.jsonl", *self.sandbox]
        if self.run_id is not None:
            command = ["resume", self.run_id]
        with (self.directory / f"shown{self._shown}").open("wb") as shown:
            return subprocess.Popen(
                [sys.executable, "-m", "agentexec", *command],
                cwd=self.directory,
                env={**os.environ, "AGENTEXEC_STORE": str(self.store), "TMPDIR": str(self.directory)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=shown,
            )

    def wait(self, process: subprocess.Popen[bytes], choose: random.Random) -> bool:
        """Wait for a random moment; return whether the process still runs then.

        One in five is in the start of the process, the others are after the first line that it shows.
        """
        shown = self.directory / f"shown{self._shown}"
        end, seconds = time.monotonic() + 60, choose.uniform(0, START)
        if choose.random() > 0.2:
            seconds = choose.uniform(0, STEPS * NAP)
            while not shown.stat().st_size and process.poll() is None and time.monotonic() < end:
                time.sleep(0.002)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def kill(self, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """Kill it without warning; return what it had started."""
        process.send_signal(signal.SIGSTOP)  # else it could start another process after we looked
        try:
            children = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        process.kill()
        process.communicate()
        return children

    def events(self) -> list[Event]:
        """Return what is stored."""
        if not (self.store / "runs.sqlite").exists():
            return []
        with Store(self.store) as store:
            found = store.runs()
            if not found:
                return []
            self.run_id = found[0].run_id
            assert len(found) == 1
            return store.events(self.run_id)

    def check_shown(self, events: Sequence[Event]) -> None:
        """Compare what the latest process showed with what the view makes of what is stored."""
        text = (self.directory / f"shown{self._shown}").read_bytes().decode()
        # The rest of a line may have been on its way; pieces of output are not kept.
        shown = [line for line in text.split("\n")[:-1] if not line.startswith(("  |", "agentexec:"))]
        begins = max((at for at, event in enumerate(events) if isinstance(event, RunStarted | RunResumed)), default=0)
        target = io.StringIO()
        view = PlainView(target)
        for event in events[:begins]:
            view.count(event)
        for event in events[begins:]:
            view(event)
        stored = [line for line in target.getvalue().split("\n")[:-1] if not line.startswith("  |")]
        assert shown == stored[: len(shown)], f"shown, but not stored: {shown[-3:]} / {stored[-3:]}"


def assert_gone(processes: Sequence[psutil.Process]) -> None:
    """Wait until none of the processes is left, at most five seconds."""
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive, f"left: {alive}"


def kill_one(directory: Path, kills: int, tally: Tally, choose: random.Random, sandbox: Sequence[str] = ()) -> None:
    """Kill one run up to `kills` times at random moments, then let it finish; see the module."""
    victim = Victim(directory, sandbox)
    tally.runs += 1
    left = kills
    while True:
        process = victim.start()
        if left > 0 and victim.wait(process, choose):
            left -= 1
            tally.kills += 1
            children = victim.kill(process)
            events = victim.events()
            assert_gone(children)
            victim.check_shown(events)
            tally.before_start += not events
            tally.in_block += bool(events) and isinstance(events[-1], BlockStarted)
            continue
        output, _ = process.communicate(timeout=120)
        events = victim.events()
        shown = (directory / f"shown{victim._shown}").read_text()
        assert (process.returncode, output) == (0, b"all done\n"), shown
        victim.check_shown(events)
        assert victim.run_id is not None
        workspace = victim.store / "workspaces" / victim.run_id
        names = sorted(path.name for path in workspace.iterdir())
        assert names == [f"step{step}.txt" for step in range(STEPS)], names
        tally.events += len(events)
        return


def main() -> None:
    """Kill, and tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--sandbox", default="local")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    choose, tally, began = random.Random(seed), Tally(), time.monotonic()
    while tally.kills < options.kills:
        with tempfile.TemporaryDirectory(prefix="kill-runs-") as directory:
            kill_one(
                Path(directory), min(5, options.kills - tally.kills), tally, choose, ["--sandbox", options.sandbox]
            )
        print(f"{tally.kills} kills, {time.monotonic() - began:.0f} s", flush=True)
    print(tally)


if __name__ == "__main__":
    main()
