"""Runs that survive, from the command line: kept, killed, resumed, branched, answered, shown, removed."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from agentexec.cli.runs import export_command
from agentexec.events import (
    BlockFinished,
    BlockStarted,
    Message,
    MessageAdded,
    RunFinished,
    RunResumed,
    WorkspaceNotSaved,
    WorkspaceSaved,
)
from agentexec.store import Store
from sandboxes.types import CodeBlock
from tests.agentexec.store.events import message, started, turn
from tests.cli.conftest import COMMAND, Cli, assert_gone, on_terminal
from tests.kill_runs import Tally, kill_one
from tests.openai_server import Fault, OpenAIServer, error_body

pytestmark = [pytest.mark.usefixtures("local"), pytest.mark.timeout(240)]

ALONE = ("--no-plan", "--no-review")
WRITE = "I write.\n\n```python\nopen('a.txt', 'a').write('one ')\nprint('written')\n```\n"
READ = "I read.\n\n```python\nprint(open('a.txt').read())\n```\n"
DONE = "FINAL ANSWER: done"


@pytest.fixture
def kept(cli: Cli, server: OpenAIServer) -> Cli:
    """A command line whose store is in its directory, with a model that writes, reads and is done."""
    cli.env["AGENTEXEC_STORE"] = str(cli.directory / "store")
    server.replies = {"coder": [WRITE, READ, DONE]}
    return cli


def store_of(cli: Cli) -> Store:
    return Store(cli.directory / "store")


def only_run(cli: Cli) -> str:
    with store_of(cli) as store:
        (run,) = store.runs()
    return run.run_id


# Listing and showing


def test_a_solved_run_is_kept_listed_shown_and_exported(kept: Cli) -> None:
    done = kept("solve", "Write it down.", *ALONE)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    run_id = only_run(kept)
    assert f"run {run_id}:" in done.stderr

    assert re.fullmatch(rf"{run_id}  solved +\d+ +\S+  Write it down\.\n", kept("runs").stdout)
    (row,) = json.loads(kept("runs", "--json").stdout)
    assert (row["run_id"], row["status"], row["turns"], row["blocks"]) == (run_id, "solved", 5, 2)
    assert kept("runs", "--status", "waiting").stdout == ""
    assert json.loads(kept("runs", "nowhere", "--json").stdout) == []

    shown = kept("show", run_id[-5:]).stdout
    assert [line for line in shown.split("\n") if len(line) > 80 and not line.startswith("workspace")] == []
    parts = (run_id, "solved (final_answer)", "── 1 coder", "I write.", "│ written", "wrote a.txt (4 bytes)", "done")
    assert [part for part in parts if part not in shown] == []
    task, _, said = shown.partition("── 1 coder")
    assert "tokens" not in task.partition("── 0 task")[2], "what a call took is shown below what came of it"
    assert "  (coder · " in said.partition("── 2 executor")[0]
    kept.env["COLUMNS"] = "40"
    rules = [line for line in on_terminal(kept, "show", run_id)[1].decode().splitlines() if line.startswith("──")]
    assert rules
    assert {len(line) for line in rules} == {40}

    lines = kept("export", run_id).stdout.split("\n")[:-1]
    with store_of(kept) as store:
        assert lines == store.event_texts(run_id)
    assert kept("export", "last", "-o", "run.md").returncode == 0
    assert "## 1. coder\n\nI write." in (kept.directory / "run.md").read_text()
    notebook = json.loads(kept("export", "last", "--ipynb").stdout)
    assert any("a.txt" in "".join(cell["source"]) for cell in notebook["cells"])

    replayed = kept("replay", "last", "--speed", "inf")
    assert replayed.stdout.split("\n")[:-1] == [
        line for line in done.stderr.split("\n")[:-1] if not line.startswith("agentexec:")
    ]

    assert kept("rm", "last").returncode == 0
    assert kept("runs").stdout == ""
    assert list((kept.directory / "store/workspaces").iterdir()) == []


def test_no_store_keeps_nothing(kept: Cli) -> None:
    assert kept("solve", "x", *ALONE, "--no-store").returncode == 0
    assert not (kept.directory / "store").exists()
    done = kept("runs")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no run has been kept" in done.stderr


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["show", "nothing"], 2, "there is no run 'nothing'"),
        (["resume", ""], 2, "there is no run ''"),
        (["approve", "last"], 2, "asks nothing: 'agentexec show"),
        (["branch", "last", "--at", "77"], 2, "has no turn 77; its last is 5"),
        (["branch", "last", "--message", "x"], 2, "say which turn's"),
        (["runs", "--since", "soon"], 2, "--since soon: write an age such as"),
        (["replay", "last", "--speed", "0"], 2, "--speed 0.0: it must be more than 0"),
        (["export", "last", "-o", "run.pdf"], 2, "say which form: --jsonl, --md or --ipynb"),
        (["export", "last", "--md", "--jsonl"], 2, "one of --jsonl"),
        (["export", "last", "-o", "no/where.md"], 2, "No such file or directory"),
        (["clean", "--older-than", "x"], 2, "--older-than x: write an age"),
        (["rm", "nothing"], 2, "there is no run"),
    ],
)
def test_wrong_use_is_named(kept: Cli, args: list[str], status: int, said: str) -> None:
    from tests.agentexec.store.events import whole

    with store_of(kept) as store:
        recorder = store.record("20261120T120000-7a120c3f1")
        for event in whole("20261120T120000-7a120c3f1", 5):
            recorder(event)
        recorder.close()
    done = kept(*args)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# Interrupted and resumed


def test_a_dead_model_is_resumed(kept: Cli, server: OpenAIServer) -> None:
    server.faults += [Fault("status", 401, error_body("bad key"))]
    failed = kept("solve", "x", *ALONE)
    run_id = only_run(kept)
    assert failed.returncode == 3
    assert f"to go on, type 'agentexec resume {run_id}'" in failed.stderr
    done = kept("resume", run_id[-6:])
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    with store_of(kept) as store:
        events = store.events(run_id)
    assert sum(isinstance(event, RunFinished) for event in events) == 2
    again = kept("resume", run_id)
    assert (again.returncode, again.stdout) == (0, "done\n")
    assert "is solved" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_block_is_run_again_on_the_workspace_as_it_was(
    kept: Cli, server: OpenAIServer, number: signal.Signals
) -> None:
    slow = (
        "I wait.\n\n```python\nimport os, time\nopen('b.txt', 'a').write('half ')\n"
        "print('here', flush=True)\nwhile not os.path.exists('a.txt') or len(open('b.txt').read()) < 99:\n"
        "    time.sleep(0.05)\n```\n"
    )
    server.replies = {"coder": [WRITE, slow, DONE]}
    process = kept.start("solve", "x", *ALONE)
    assert process.stderr is not None
    for line in process.stderr:
        if b"| here" in line:
            break
    process.send_signal(number)
    _, rest = process.communicate(timeout=40)
    run_id = only_run(kept)
    assert process.returncode == 130
    assert f"agentexec resume {run_id}".encode() in rest
    workspace = kept.directory / "store/workspaces" / run_id
    assert (workspace / "b.txt").read_text() == "half "
    done = kept("resume", "last", "--timeout", "0.5")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "the workspace is as it was when it was last saved" in done.stderr
    assert (workspace / "a.txt").read_text() == "one ", "a block that had ended is not run again"
    assert (workspace / "b.txt").read_text() == "half ", "not twice"


def test_limits_count_what_was_before_and_may_be_changed(kept: Cli, server: OpenAIServer) -> None:
    stopped = kept("solve", "x", *ALONE, "--max-turns", "2")
    assert stopped.returncode == 1
    again = kept("resume", "last")
    assert again.returncode == 1
    assert "no accepted answer after 2 turns (limit 2)" in again.stderr
    done = kept("resume", "last", "--max-turns", "20")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "5 turns · 2 blocks" in done.stderr, "those before count"


def test_two_processes_on_one_run_are_one_too_many(kept: Cli, server: OpenAIServer) -> None:
    server.slow = 30
    process = kept.start("solve", "x", *ALONE)
    assert process.stderr is not None
    process.stderr.readline()
    second = kept("resume", "last")
    assert second.returncode == 5
    assert f"is being worked on by process {process.pid}" in second.stderr
    assert kept("rm", "last").returncode == 5
    assert "running" in kept("runs").stdout
    process.terminate()
    process.communicate(timeout=40)
    assert "interrupted" in kept("runs").stdout


def test_a_kernels_state_is_made_again(kept: Cli, server: OpenAIServer) -> None:
    server.replies = {
        "coder": ["```python\nx = 41\n```", "```python\nprint('x is', x + 1)\n```", DONE],
    }
    stopped = kept("solve", "x", *ALONE, "--sandbox", "jupyter", "--max-turns", "2")
    assert stopped.returncode == 1, stopped.stderr
    done = kept("resume", "last", "--max-turns", "20")
    assert done.returncode == 0, done.stderr
    assert "the kernel has its state again: 1 block was run once more" in done.stderr
    assert "x is 42" in done.stderr


def test_keys_reach_neither_store_nor_exports(kept: Cli, server: OpenAIServer) -> None:
    key = "sk-very-secret-0123456789"
    server.faults += [Fault("status", 400, error_body(f"what is Bearer {key}?"))]
    env = {"OPENAI_API_KEY": key}
    assert kept("solve", f"use {key}", *ALONE, env=env).returncode == 3
    server.replies = {"coder": [f"I saw {key}.\n\n```python\nprint('{key}')\n```", DONE]}
    assert kept("resume", "last", env=env).returncode == 0
    files = [path for path in (kept.directory / "store").rglob("*") if path.is_file()]
    assert len(files) >= 1
    assert not [path for path in files if b"0123456789" in path.read_bytes()]


def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_room(kept: Cli, server: OpenAIServer) -> None:
    """A file system of its own, which is really full."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = kept.directory / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", disk], check=True)
    try:
        kept.env["AGENTEXEC_STORE"] = str(disk)
        many = [f"```python\nprint({number}, 'x' * 60000)\n```" for number in range(30)]
        server.replies = {"coder": [*many, DONE]}
        full = kept("solve", "x", *ALONE, "--workspace", "w", "--max-turns", "90")
        assert full.returncode == 5, full.stderr
        assert "nothing more can be written to the store" in full.stderr
        assert "to go on, type 'agentexec resume" in full.stderr
        with Store(disk) as store:
            blocks = sum(isinstance(event, BlockFinished) for event in store.events(store.find("last").run_id))
        assert 0 < blocks < 30
        subprocess.run(["mount", "-o", "remount,size=90m", disk], check=True)
        done = kept("resume", "last")
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_store_that_cannot_be_used_is_named(kept: Cli) -> None:
    kept.write("file", "")
    done = kept("solve", "x", *ALONE, "--store", "file")
    assert done.returncode == 2
    assert "--no-store keeps nothing" in done.stderr
    (kept.directory / "store").mkdir()
    (kept.directory / "store/runs.sqlite").write_bytes(b"no store" * 1000)
    for args in (["runs"], ["resume", "last"], ["solve", "x", *ALONE]):
        done = kept(*args)
        assert done.returncode == 5
        assert "is damaged" in done.stderr


def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(tmp_path / "store") as store:
        recorder = store.record("a")
        recorder(MessageAdded(message=Message(sender="coder", content="x" * 100_000, turn=1)))
        recorder.close()
    file = tmp_path / "run.jsonl"
    file.write_text("before")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
    try:
        with pytest.raises(typer.Exit) as ended:
            export_command(str(tmp_path / "store"), "a", None, str(file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert ended.value.exit_code == 2
    assert f"-o {file}: File too large" in capsys.readouterr().err
    assert file.read_text() == "before"
    link = tmp_path / "link.jsonl"
    link.symlink_to(file)
    assert export_command(str(tmp_path / "store"), "a", None, str(link)) == 0
    assert link.is_symlink()
    assert len(file.read_text()) > 100_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.jsonl", "run.jsonl", "store"]


# Branches


def test_a_branch_has_the_workspace_of_its_turn_and_goes_another_way(kept: Cli, server: OpenAIServer) -> None:
    assert kept("solve", "x", *ALONE).returncode == 0
    run_id = only_run(kept)
    (kept.directory / "store/workspaces" / run_id / "a.txt").write_text("later")
    done = kept("branch", run_id, "--at", "2")
    new = done.stdout.strip()
    assert f"agentexec resume {new}" in done.stderr
    server.replies = {"coder": ["```python\nprint(open('a.txt').read() + 'again')\n```", "FINAL ANSWER: otherwise"]}
    server.forget()
    went = kept("resume", new, "--memory", "256M")
    assert (went.returncode, went.stdout) == (0, "otherwise\n"), went.stderr
    assert "one again" in went.stderr
    told = json.dumps(server.requests[-1])
    assert "use 256 MiB of memory" in told
    assert "1024 MiB" not in told
    assert (kept.directory / "store/workspaces" / run_id / "a.txt").read_text() == "later"
    difference = kept("diff", run_id, new)
    assert difference.returncode == 1
    assert "-done" in difference.stdout
    assert "+otherwise" in difference.stdout
    assert kept("diff", run_id, run_id).returncode == 0
    refused = kept("rm", run_id)
    assert refused.returncode == 5
    assert f"{new} branched off" in refused.stderr
    assert kept("rm", run_id, new).returncode == 0


def test_a_workspace_that_cannot_be_saved_is_told_and_copied(kept: Cli, server: OpenAIServer) -> None:
    """The copy leaves out what would keep us waiting."""
    in_the_way = kept.directory / "store/snapshots"
    in_the_way.parent.mkdir()
    in_the_way.touch()
    done = kept("solve", "x", *ALONE)
    assert done.returncode == 0
    assert "the workspace was not saved, so that no branch can begin with it: cannot keep snapshots in" in done.stderr
    run_id = only_run(kept)
    assert "! the workspace was not saved" in kept("show", run_id).stdout
    os.mkfifo(kept.directory / "store/workspaces" / run_id / "pipe")
    new = kept("branch", run_id, "--at", "2").stdout.strip()
    server.replies = {"coder": [READ, DONE]}
    server.forget()
    went = kept("resume", new)
    assert went.returncode == 0, went.stderr
    assert re.search(r"the branch begins with a copy of .+ as it is now, since it was not saved", went.stderr)
    assert [path.name for path in (kept.directory / "store/workspaces" / new).iterdir()] == ["a.txt"]


def test_an_older_workspace_is_not_put_back_over_what_was_not_saved(kept: Cli, server: OpenAIServer) -> None:
    """A block was interrupted, and what the one before it had done could not be saved."""
    with store_of(kept) as store:
        workspace = store.workspace("r")
        workspace.mkdir(parents=True)
        (workspace / "a.txt").write_text("of turn 1")
        recorder = store.record("r", settings={"plan": False, "review": False}, place={"workspace": str(workspace)})
        for event in (
            started("r"),
            message(0, "x", "task"),
            WorkspaceSaved(snapshot="0" * 64),
            *turn(1),
            WorkspaceNotSaved(reason="the store is full"),
            message(2, "done", "executor"),
            message(3, READ),
            BlockStarted(turn=3, index=0, block=CodeBlock("print(open('a.txt').read())")),
        ):
            recorder(event)
        recorder.close()
    server.replies = {"coder": [DONE]}
    went = kept("resume", "r")
    assert went.returncode == 0, went.stderr
    assert "runs again on what it left; the workspace cannot be put back: what was done from turn 1 on" in went.stderr
    assert "| of turn 1" in went.stderr


def test_a_message_is_changed(kept: Cli, server: OpenAIServer) -> None:
    assert kept("solve", "x", *ALONE).returncode == 0
    server.replies = {"coder": [DONE]}
    server.forget()
    new = kept("branch", "last", "--at", "1", "--message", "```python\nprint('by a person')\n```").stdout.strip()
    done = kept("resume", new)
    assert done.returncode == 0, done.stderr
    assert "by a person" in done.stderr
    kept.write("coder.md", "You are the coder.\nBe brief.")
    other = kept("branch", "last", "--at", "1").stdout.strip()
    assert kept("resume", other, "--prompt", "coder=coder.md", "-m", "another-model").returncode == 0
    assert server.requests[-1]["messages"][0]["content"].startswith("You are the coder.\nBe brief.")
    assert server.requests[-1]["model"] == "another-model"
    assert "write AGENT=FILE" in kept("resume", other, "--prompt", "cook=coder.md").stderr
    third = kept("branch", "last", "--at", "1").stdout.strip()
    (kept.directory / "coder.md").unlink()
    gone = kept("resume", third)
    assert gone.returncode == 2
    assert "coder.md: No such file or directory; name another with --prompt coder=FILE" in gone.stderr
    kept.write("coder.md", "You are the coder.\nBe brief.")
    other = kept("branch", "last", "--at", "0", "--message", "Another task").stdout.strip()
    assert kept("resume", other).returncode == 0
    assert "# The task\n\nAnother task" in json.dumps(server.requests[-1]).replace("\\n", "\n")


# People


def test_a_run_that_waits_is_answered_from_another_process(kept: Cli) -> None:
    waits = kept("solve", "x", *ALONE, "--approve", "always")
    run_id = only_run(kept)
    assert waits.returncode == 4, waits.stderr
    assert f"agentexec approve {run_id}" in waits.stderr
    assert "waiting" in kept("runs").stdout
    assert kept("resume", "last").returncode == 4, "nobody has answered"
    assert kept("approve", "last").returncode == 0
    assert "answered already" in kept("approve", "last").stderr
    again = kept("resume", "last")
    assert again.returncode == 4
    assert "written" in again.stderr, "the first block ran"
    assert kept("reject", "last", "--reason", "too curious").returncode == 0
    done = kept("resume", "last")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "too curious" in kept("show", "last").stdout


def test_a_process_that_waits_goes_on_at_once(kept: Cli) -> None:
    process = kept.start("solve", "x", *ALONE, "--approve", "always", "--answer-timeout", "40")
    for word in ("one", "two"):
        deadline = time.monotonic() + 30
        while (done := kept("reply", "last", f"text {word}")).returncode and time.monotonic() < deadline:
            time.sleep(0.1)
        assert done.returncode == 0, done.stderr
        assert "goes on by itself" in done.stderr
    output, error = process.communicate(timeout=40)
    assert (process.returncode, output) == (0, b"done\n"), error
    assert b"text two" in error


def test_on_a_terminal_the_first_answer_counts(kept: Cli) -> None:
    status, shown = on_terminal(kept, "solve", "x", *ALONE, "--approve", "always", typed=b"y\ny\n")
    assert status == 0, shown
    assert b"written" in shown


# Killed


def test_killed_runs_survive(tmp_path: Path) -> None:
    """The short version of `tests/kill_runs.py`."""
    tally = Tally()
    kill_one(tmp_path, 6, tally, random.Random())
    assert tally.runs == 1


def test_what_a_killed_run_had_shown_is_stored(kept: Cli) -> None:
    mark = f"sleeps-{os.getpid()}-{time.monotonic_ns()}"
    kept.env["MARK"] = mark
    process = kept.start("solve", "x", *ALONE)
    assert process.stderr is not None
    shown = b""
    while b"| written" not in shown:
        shown += process.stderr.readline()
    process.kill()
    process.communicate()
    assert_gone(mark)
    run_id = only_run(kept)
    with store_of(kept) as store:
        assert store.summary(run_id).status == "interrupted"
        kinds = {type(event) for event in store.events(run_id)}
    assert {MessageAdded, BlockStarted, WorkspaceSaved} <= kinds
    done = kept("resume", "last")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    with store_of(kept) as store:
        assert any(isinstance(event, RunResumed) for event in store.events(run_id))


def test_the_example_runs(tmp_path: Path) -> None:
    program = Path(__file__).parents[2] / "examples/kept_runs.py"
    done = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nThe sum is 60.\n") >= 2
    assert "interrupted" in done.stdout
    assert done.stdout.endswith("wrote run.ipynb run.md\n")
    assert list(tmp_path.iterdir()) == []


def test_a_removal_that_is_interrupted_can_be_repeated(kept: Cli) -> None:
    assert kept("solve", "x", *ALONE).returncode == 0
    workspace = kept.directory / "store/workspaces" / only_run(kept)
    for number in range(40_000):
        (workspace / f"{number}").touch()
    with subprocess.Popen(
        [*COMMAND, "rm", "last"], cwd=kept.directory, env=kept.env, stderr=subprocess.PIPE
    ) as process:
        while len(os.listdir(workspace)) > 39_000:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert (process.communicate()[1], process.returncode) == (b"", 130)
    assert workspace.is_dir(), "it was too late"
    assert kept("rm", only_run(kept)).returncode == 0
    assert not workspace.exists()


def test_old_runs_are_cleaned_away(kept: Cli) -> None:
    assert kept("solve", "x", *ALONE).returncode == 0
    run_id = only_run(kept)
    assert "run " not in kept("clean", "--older-than", "1d").stdout
    with store_of(kept) as store:
        store.db.execute("UPDATE runs SET updated = updated - 200000")
    assert f"removed run {run_id}" in kept("clean", "--older-than", "2d").stdout
    assert kept("runs").stdout == ""
    assert not (kept.directory / "store/workspaces" / run_id).exists()
