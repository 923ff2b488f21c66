"""`agentexec solve --best-of N --check CMD`, with a scripted server and the local sandbox."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.openai_server import OpenAIServer, Said

pytestmark = pytest.mark.usefixtures("local")

ALONE = ("--no-plan", "--no-review")


def block(code: str) -> str:
    return f"I try.\n\n```python\n{code}\n```\n"


@pytest.fixture
def task(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    def reply_to(body: dict[str, Any]) -> Said:
        """Answer by what was said in this conversation, since several go on at the same time."""
        if any(message["role"] == "assistant" for message in body["messages"]):
            return Said("FINAL ANSWER: 42")
        return Said(block("open('answer', 'w').write('42')"))

    monkeypatch.setattr(server, "reply_to", reply_to)
    return "solve", "What is 6 * 7?", *ALONE


def test_the_best_is_kept_and_told(cli: Cli, task: tuple[str, ...]) -> None:
    (cli.directory / "work").mkdir()
    (cli.directory / "work/given").write_text("given")
    done = cli(*task, "--workspace", "work", "--best-of", "3", "--check", "cat given answer; echo; echo 0.5", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["best"] == 1
    assert found["stop_reason"] == "exhausted"
    assert found["result"]["answer"] == "42"
    assert [each["score"] for each in found["candidates"]] == [0.5, 0.5, 0.5]
    assert len({each["run_id"] for each in found["candidates"]}) == 3
    assert (cli.directory / "work/answer").read_text() == "42"
    assert "candidate 1 of 3 is the best, with score 0.5" in done.stderr
    # each is a run in the store
    listed = json.loads(cli("runs", "--json").stdout)
    assert {each["run_id"] for each in listed} == {each["run_id"] for each in found["candidates"]}
    assert "- sandbox: local\n" in cli("export", "last", "--md").stdout
    assert Path(cli.env["TMPDIR"]).exists()
    assert [name for name in os.listdir(cli.env["TMPDIR"]) if "agentexec" in name] == []


def test_the_first_that_passes_ends_it(cli: Cli, task: tuple[str, ...]) -> None:
    done = cli(*task, "--best-of", "2", "--check", "test -f answer", "--no-store")
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    (kept,) = [line.rsplit(" ", 1)[1] for line in done.stderr.splitlines() if "workspace kept in" in line]
    assert (Path(kept) / "answer").read_text() == "42"
    assert os.listdir(cli.env["TMPDIR"]) == [Path(kept).name]


def test_none_passes(cli: Cli, task: tuple[str, ...]) -> None:
    done = cli(*task, "--best-of", "2", "--check", "exit 7", "--no-store")
    assert (done.returncode, done.stdout) == (1, "")
    assert "none of 2 candidates passes" in done.stderr
    assert os.listdir(cli.env["TMPDIR"]) == []


def test_candidates_are_runs_that_can_be_resumed(cli: Cli, server: OpenAIServer) -> None:
    """With the sandbox, the model and the limits that they had, and the workspace that was thrown away."""
    write = block("open('a', 'w').write('of its own')")
    server.replies.update(coder=[write, write])
    flags = ["--best-of", "2", "--max-turns", "2", "--check", "exit 1", "--memory", "300M"]
    lost = cli("solve", "x", *ALONE, "-m", "first-model", *flags)
    assert lost.returncode == 1, lost.stderr
    assert "'agentexec resume RUN' goes on with one" in lost.stderr
    assert os.listdir(cli.env["TMPDIR"]) == []
    lines = cli("runs").stdout.splitlines()
    # Both may begin in the same millisecond.
    assert sorted(line.rsplit("  ", 1)[1].split(" of ")[0] for line in lines) == ["(candidate 1", "(candidate 2"]
    for run in json.loads(cli("runs", "--json").stdout):
        assert (run["status"], run["executor"], run["settings"]["memory"]) == ("not_solved", "local", 300 << 20)
        server.replies.update(coder=[block("print(open('a').read())"), "FINAL ANSWER: read"])
        server.forget()
        done = cli("resume", run["run_id"], "--max-turns", "9")
        assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr
        assert "of its own" in done.stderr
        assert server.requests[-1]["model"] == "first-model"
    assert "(candidate 2 of" in cli("runs").stdout


def test_all_models_fail(cli: Cli, task: tuple[str, ...], server: OpenAIServer) -> None:
    server.key = "another"
    done = cli(*task, "--best-of", "2", "--check", "true", "--no-store")
    assert done.returncode == 3
    assert "model_failed" in done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--check", "true"], "go with --best-of"),
        (["--best-of", "2"], "needs --check CMD"),
        (["--best-of", "0", "--check", "true"], "at least 1"),
        (["--best-of", "2", "--check", " "], "needs --check CMD"),
        (["--best-of", "2", "--check", "true", "--approve", "always"], "asks nobody"),
        (["--best-of", "2", "--check", "true", "--record", "x"], "records one run"),
    ],
)
def test_flags_that_make_no_sense(cli: Cli, task: tuple[str, ...], flags: list[str], said: str) -> None:
    done = cli(*task, *flags)
    assert done.returncode == 2
    assert said in done.stderr


def test_ctrl_c_removes_all_candidates(cli: Cli, server: OpenAIServer) -> None:
    server.replies.update(coder=[block("import time; time.sleep(60)")])
    process = cli.start("solve", "x", *ALONE, "--best-of", "2", "--check", "true", "--no-store")
    assert process.stderr is not None
    for line in process.stderr:
        if b"run " in line and b"candidate 2" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == 130
    assert b"interrupted" in errors
    assert os.listdir(cli.env["TMPDIR"]) == []


def test_kept_answers_would_make_all_alike(cli: Cli, task: tuple[str, ...]) -> None:
    done = cli(*task, "--best-of", "2", "--check", "true", "--cache", "answers")
    assert done.returncode == 2
    assert "--cache" in done.stderr


def test_a_team_of_ones_own_competes(cli: Cli, task: tuple[str, ...], server: OpenAIServer) -> None:
    agents = "".join(f'[[agents]]\nname = "{name}"\n' for name in ("coder", "executor"))
    cli.write("team.toml", f'pattern = "solve"\n{agents}[stop]\nmax_turns = 7\n')
    done = cli(*task, "--team", "team.toml", "--best-of", "2", "--check", "test -f answer")
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    cli.write("team.toml", "pattern = 1")
    assert cli(*task, "--team", "team.toml", "--best-of", "2", "--check", "true").returncode == 2
