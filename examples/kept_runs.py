"""A run that waits for a person, is killed, goes on, branches off, and is exported: each step a process of its own.

python examples/kept_runs.py

The model's side is played back, so no key is needed. Everything goes into a directory that is removed at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CODER = [
    "First the data.\n\n```python\nopen('numbers.txt', 'w').write('10 20 30')\nprint('three numbers')\n```",
    "Now the sum, which takes a while.\n\n```python\nimport time\nprint('adding', flush=True)\ntime.sleep(2)\n"
    "print(sum(map(int, open('numbers.txt').read().split())))\n```",
    "FINAL ANSWER: The sum is 60.",
]


def agentexec(*args: str, expect: int = 0) -> str:
    """Run a command as on a terminal; return what it wrote to stdout."""
    print("$ agentexec", *args, flush=True)
    done = subprocess.run([sys.executable, "-m", "agentexec", *args], stdout=subprocess.PIPE, text=True)
    if done.returncode != expect:
        sys.exit(f"status {done.returncode}, not {expect}")
    print(done.stdout, end="", flush=True)
    return done.stdout.strip()


def resume_and_kill(run: str) -> None:
    """Go on with a run, and kill the process without warning while the second block runs."""
    print("$ agentexec resume", run, "    # killed", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "agentexec", "resume", run], stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        sys.stderr.buffer.write(line)
        if line.strip() == b"| adding":
            break
    process.kill()
    process.communicate()


def main() -> None:
    """Take all the steps."""
    lines = [{"role": "You are the coder.", "text": text} for text in CODER]
    Path("recorded.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    alone = ("--model", "replay:recorded.jsonl", "--no-plan", "--no-review")

    # It asks before each block, and nobody is there: the process ends with status 4, and the run waits.
    agentexec("solve", "What is the sum?", *alone, "--approve", "always", expect=4)
    run = agentexec("runs", "--status", "waiting").split()[0]

    # Another process answers for all blocks of this kind.
    agentexec("approve", run, "--always")
    resume_and_kill(run)
    agentexec("runs")

    # The block that was interrupted runs again, on the workspace as it was before it.
    agentexec("resume", run)

    # Another run with the same first two messages, in which a person writes what the coder does next.
    branch = agentexec("branch", run, "--at", "3", "--message", "```python\nprint(open('numbers.txt').read())\n```")
    agentexec("resume", branch)
    agentexec("diff", run, branch, expect=1)

    agentexec("show", branch)
    agentexec("export", run, "-o", "run.md")
    agentexec("export", run, "-o", "run.ipynb")
    print("wrote", *sorted(path.name for path in Path().glob("run.*")))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        os.environ["AGENTEXEC_STORE"] = str(Path(directory, "store"))
        main()
