"""`agentexec solve`, as a process, against a real HTTP server and the real local sandbox."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, Cli, assert_gone, on_terminal
from tests.openai_server import Fault, OpenAIServer, error_body

pytestmark = pytest.mark.usefixtures("local")

BROKEN = "I add them up.\n\n```python\nprint(sum(numbers))\n```\n"
REPAIRED = """Repaired.

```python filename=add.py
import csv, sys
total = sum(int(row["n"]) for row in csv.DictReader(open("numbers.csv")))
print("total", total)
print("to stderr", file=sys.stderr)
open("total.txt", "w").write(str(total))
```
"""
REPLIES = {
    "planner": ["1. Read the numbers.\n2. Add them up."],
    "coder": [BROKEN, REPAIRED, "FINAL ANSWER: The total is 60."],
    "reviewer": ["APPROVE"],
}


@pytest.fixture
def scripted(cli: Cli, server: OpenAIServer) -> OpenAIServer:
    cli.write("numbers.csv", "n\n10\n20\n30\n")
    server.replies = {role: list(replies) for role, replies in REPLIES.items()}
    return server


def coder(server: OpenAIServer, *replies: str) -> None:
    server.replies = {"coder": list(replies)}


SOLVE = ("solve", "Add the numbers up.", "--file", "numbers.csv")
ALONE = ("--no-plan", "--no-review")


def test_failing_block_is_repaired_and_the_answer_is_all_of_stdout(cli: Cli, scripted: OpenAIServer) -> None:
    done = cli(*SOLVE, "--workspace", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The total is 60.\n"
    assert (cli.directory / "out/total.txt").read_text() == "60"
    assert (cli.directory / "out/add.py").exists()
    for shown in (
        "model gpt-4o-mini",
        "Read the numbers.",
        "NameError",
        "failed",
        "  | total 60",
        "  | to stderr",
        "wrote add.py, total.txt",
        "tokens in",
        "$0.0",
        "solved",
    ):
        assert shown in done.stderr
    assert "\x1b" not in done.stderr
    assert "sk-test" not in done.stderr


def test_coder_is_told_what_went_wrong(cli: Cli, scripted: OpenAIServer) -> None:
    cli(*SOLVE)
    conversations = ["\n".join(m["content"] for m in r["messages"]) for r in scripted.requests]
    assert any("NameError" in text for text in conversations)
    assert all(request["stream"] for request in scripted.requests)


def test_json_is_one_object(cli: Cli, scripted: OpenAIServer) -> None:
    done = cli(*SOLVE, "--json")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    keys = {
        "status",
        "answer",
        "stop_reason",
        "turns",
        "blocks",
        "usage",
        "cost",
        "agents",
        "files",
        "run_id",
        "message",
    }
    assert result.keys() == keys
    assert result["status"] == "solved"
    assert result["answer"] == "The total is 60."
    assert [block["result"]["verdict"] for block in result["blocks"]] == ["failed", "ok"]
    assert set(result["blocks"][1]) == {"turn", "language", "filename", "code", "result"}
    assert "total.txt" in result["files"]
    assert result["usage"]["input_tokens"] == 100 * len(scripted.requests)
    assert result["cost"] > 0


def test_workspace_is_kept_and_its_path_printed(cli: Cli, scripted: OpenAIServer) -> None:
    done = cli(*SOLVE)
    path = re.search(r"workspace kept in (.+)$", done.stderr, re.MULTILINE)
    assert path
    assert (Path(path[1]) / "total.txt").read_text() == "60"
    assert (Path(path[1]) / "numbers.csv").exists()


def test_limits_reach_the_blocks(cli: Cli, server: OpenAIServer) -> None:
    coder(server, "```python\nimport time; time.sleep(60)\n```", "FINAL ANSWER: It took too long.")
    done = cli("solve", "Wait.", *ALONE, "--timeout", "0.5", "--json")
    assert json.loads(done.stdout)["blocks"][0]["result"]["verdict"] == "timeout"


def test_isolation_reaches_the_sandbox(cli: Cli, server: OpenAIServer) -> None:
    coder(server, "```python\nprint(1)\n```", "FINAL ANSWER: 1")
    done = cli("solve", "Print 1.", *ALONE, "--isolation", "none", "--json")
    assert json.loads(done.stdout)["blocks"][0]["result"]["isolation"]["tier"] == "none"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--max-turns", "3"], "max_turns"),
        (["--max-tokens", "150"], "max_tokens"),
        (["--max-cost", "0.00001"], "max_cost"),
        (["--deadline", "1.5"], "deadline"),
    ],
)
def test_unsolved_is_status_1_and_says_which_stop_condition(
    cli: Cli, server: OpenAIServer, flags: list[str], reason: str
) -> None:
    coder(server, "```python\nimport time; time.sleep(0.3)\n```")
    done = cli("solve", "Never ends.", *ALONE, *flags)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert f"not_solved: {reason}" in done.stderr
    assert json.loads(cli("solve", "x", *ALONE, *flags, "--json").stdout)["stop_reason"] == reason


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (["solve", "x"], {"AGENTEXEC_MODEL": ""}, "AGENTEXEC_MODEL.*OPENAI_API_KEY.*OPENAI_BASE_URL"),
        (["solve", "x"], {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}, "OPENAI_API_KEY"),
        (["solve", "x"], {"OPENAI_BASE_URL": "localhost"}, "OPENAI_BASE_URL"),
        (["solve", " "], {}, "task is empty"),
        (["solve"], {}, "TASK"),
        (["solve", "x", "--file", "missing.csv"], {}, "missing.csv"),
        (["solve", "x", "--file", "a/n.csv", "--file", "b/n.csv"], {}, "n.csv"),
        (
            ["solve", "x", "--no-store", "--approve", "risky"],
            {},
            "--approve risky with --no-store asks on the terminal",
        ),
        (["solve", "x", "--no-store", "--review-plan"], {}, "--review-plan with --no-store asks on the terminal"),
        (["solve", "x", "--no-store", "--approve", "always"], {}, "terminal"),
        (["solve", "x", "--approve", "maybe"], {}, "--approve"),
        (["solve", "x", "--max-turns", "0"], {}, "--max-turns: max_turns cannot be 0"),
        (["solve", "x", "--max-cost", "much"], {}, "--max-cost"),
        (["solve", "x", "--memory", "much"], {}, "--memory.*512M"),
        (["solve", "x", "-s", "nowhere"], {}, "no executor is called 'nowhere'"),
        (["solve", "x", "-s", "nowhere", "--isolation", "none"], {}, "no executor is called 'nowhere'"),
        (["solve", "x", "-m", "replay:missing.jsonl"], {}, "missing.jsonl"),
        (["solve", "x", "--record", "missing/run.jsonl"], {}, "missing/run.jsonl"),
        (["solve", "x"], {"AGENTEXEC_APPROVE": "maybe"}, "AGENTEXEC_APPROVE.*'never', 'always' or 'risky'"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_to_set(
    cli: Cli, server: OpenAIServer, args: list[str], env: dict[str, str], said: str
) -> None:
    for directory in ("a", "b"):
        (cli.directory / directory).mkdir()
        cli.write(f"{directory}/n.csv", "1")
    done = cli(*args, env=env)
    assert done.returncode == 2
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert server.requests == []
    assert list(Path(cli.env["TMPDIR"]).iterdir()) == []


def test_model_failure_is_status_3_and_what_was_done_is_kept(cli: Cli, scripted: OpenAIServer) -> None:
    scripted.key = "another"
    done = cli(*SOLVE)
    assert done.returncode == 3
    assert "OPENAI_API_KEY" in done.stderr
    assert "sk-test-0123456789" not in done.stderr
    result = json.loads(cli(*SOLVE, "--json").stdout)
    assert result["status"] == "model_failed"


LASTING = [
    ("wrong key", 401, "OPENAI_API_KEY"),
    ("unknown model", 404, "does not know the model 'gpt-4o-mini'.*-m or AGENTEXEC_MODEL"),
    ("context overflow", 400, "no longer fits 'gpt-4o-mini'"),
    ("rate limit", 429, "Slow down.*asks to wait 3600 s"),
    ("broken stream", 200, "broke off.*tried 5 times"),
    ("unreachable", 0, "cannot reach the model server at http://127.0.0.1:9/v1.*OPENAI_BASE_URL.*tried 5 times"),
]


@pytest.mark.parametrize(("failure", "http_status", "said"), LASTING)
def test_each_model_failure_is_status_3_with_one_line_and_one_object(
    cli: Cli, scripted: OpenAIServer, failure: str, http_status: int, said: str
) -> None:
    if failure == "wrong key":
        scripted.key = "another"
    elif failure == "unknown model":
        scripted.models = {"other"}
    elif failure == "context overflow":
        scripted.faults = [Fault("status", 400, error_body("too long", "context_length_exceeded"))]
    elif failure == "rate limit":
        scripted.faults = [Fault("status", 429, error_body("Slow down"), {"Retry-After": "3600"})]
    elif failure == "broken stream":
        scripted.faults = [Fault("drop") for _ in range(5)]
    else:
        cli.env["OPENAI_BASE_URL"] = "http://127.0.0.1:9/v1"
    done = cli(*SOLVE, "--json")
    assert done.returncode == 3
    assert re.search(rf"^agentexec: model_failed: (?!model_failed).*{said}", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["answer"], result["blocks"]) == ("model_failed", None, [])


def test_what_is_unknown_is_null_and_called_unknown(cli: Cli, server: OpenAIServer) -> None:
    coder(server, "FINAL ANSWER: 1")
    server.usage = None
    done = cli("solve", "x", *ALONE, "--json")
    result = json.loads(done.stdout)
    assert (result["usage"], result["cost"]) == (None, None)
    assert "tokens unknown · cost unknown" in done.stderr


def test_retry_is_shown_and_the_run_goes_on(cli: Cli, scripted: OpenAIServer) -> None:
    scripted.faults = [
        Fault("drop"),
        Fault("status", status=429, body=error_body("Slow down"), headers={"Retry-After": "0.1"}),
    ]
    done = cli(*SOLVE)
    assert done.returncode == 0
    assert "planner: the reply from" in done.stderr
    assert "Slow down; trying again in 0.1 s" in done.stderr


@pytest.mark.usefixtures("plugin")
def test_sandbox_failure_is_status_125(cli: Cli, scripted: OpenAIServer) -> None:
    done = cli(*SOLVE, "-s", "broken")
    assert done.returncode == 125
    assert "apt install engine" in done.stderr
    assert json.loads(cli(*SOLVE, "-s", "broken", "--json").stdout)["status"] == "sandbox_failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_keeps_the_run_so_far(cli: Cli, server: OpenAIServer, number: signal.Signals) -> None:
    mark = f"sleep 547{int(number)}.25"
    coder(server, f"```sh\ntrap '' INT TERM\ntouch ready\n{mark} &\necho up\n{mark}\n```")
    with cli.start("solve", "x", *ALONE, "--json", "--workspace", "w") as process:
        assert process.stderr is not None
        while b"| up" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    result = json.loads(out)
    assert result["status"] == "interrupted"
    assert result["blocks"][0]["result"]["verdict"] == "cancelled"
    assert b"Traceback" not in err
    assert (cli.directory / "w/ready").exists()
    assert_gone(mark)


def test_interrupt_while_the_model_writes(cli: Cli, server: OpenAIServer) -> None:
    server.faults = [Fault("stall")]
    with cli.start("solve", "x", *ALONE) as process:
        while not server.requests:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"interrupted" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize("flags", [(), ("--isolation", "auto")])
def test_interrupt_at_the_very_start_is_one_object_too(cli: Cli, server: OpenAIServer, flags: tuple[str, ...]) -> None:
    server.slow = 30
    # From the first moment at which the workspace is there, handlers are put in place soon.
    with cli.start("solve", "x", *ALONE, "--json", *flags) as process:
        while not list(Path(cli.env["HOME"]).glob(".local/share/agentexec/workspaces/*")):
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert json.loads(out)["status"] == "interrupted"
    assert b"Traceback" not in err


def test_second_interrupt_ends_it_too(cli: Cli, server: OpenAIServer) -> None:
    mark = "sleep 5478.25"
    coder(server, f"```sh\ntrap '' INT TERM\necho up\n{mark}\n```")
    with cli.start("solve", "x", *ALONE, "--workspace", "w") as process:
        assert process.stderr is not None
        while b"| up" not in process.stderr.readline():
            assert process.poll() is None
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert_gone(mark)


class TestStreams:
    """What the answer and the view are written to may be closed, full or unable to show a character."""

    @pytest.fixture(autouse=True)
    def _answer(self, server: OpenAIServer) -> None:
        coder(server, "```python\nprint(1)\n```", "FINAL ANSWER: caf\u00e9")

    def test_view_that_nobody_reads_does_not_cost_the_answer(self, cli: Cli) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        with cli.start("solve", "x", *ALONE, stderr=writer) as process:
            os.close(writer)
            out, _ = process.communicate(timeout=20)
        assert (process.returncode, out.decode()) == (0, "caf\u00e9\n")

    def test_full_disk_is_said_and_is_no_success(self, cli: Cli) -> None:
        with Path("/dev/full").open("wb") as full, cli.start("solve", "x", *ALONE, stdout=full) as process:
            _, err = process.communicate(timeout=20)
        assert process.returncode == 1
        assert b"agentexec: cannot write the output: No space left on device\n" in err
        assert b"Traceback" not in err

    def test_encoding_that_lacks_a_character(self, cli: Cli) -> None:
        done = cli("solve", "x", *ALONE, env={"PYTHONIOENCODING": "ascii"})
        assert (done.returncode, done.stdout) == (0, "caf\\xe9\n")

    def test_task_that_is_no_text_is_wrong_usage(self, cli: Cli) -> None:
        done = cli("solve", os.fsdecode(b"x\xff"), *ALONE)
        assert done.returncode == 2
        assert "the task is not text" in done.stderr

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
    def test_closed_stream_is_as_dev_null(self, cli: Cli, closed: str) -> None:
        command = f"{shlex.join([*COMMAND, 'solve', 'x', *ALONE])} {closed}"
        done = subprocess.run(["sh", "-c", command], cwd=cli.directory, env=cli.env, capture_output=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr


def left_over(session: int, mark: str) -> list[str]:
    """Return the processes of a session, and those whose mounts hold `mark`, which also a new session keeps."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, of_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if state != "Z" and (int(of_session) == session or mark in (entry / "mountinfo").read_text()):
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes()!r}")
            except OSError:
                continue
    return found


@pytest.mark.timeout(180)
def test_killed_at_any_moment_leaves_nothing(cli: Cli, server: OpenAIServer) -> None:
    coder(server, "```sh\nsetsid sleep 5479 &\n(setsid sleep 5479 &)\necho up\nsleep 5479\n```")
    server.delay = 0.02  # so that a good part of the time is the model's
    mark = f"killed-{uuid.uuid4().hex}"

    def start() -> subprocess.Popen[bytes]:
        return cli.start("solve", "x", *ALONE, "--workspace", mark, start_new_session=True)

    def end(process: subprocess.Popen[bytes], when: str) -> None:
        process.kill()
        process.wait(10)
        until = time.monotonic() + 5
        while (left := left_over(process.pid, mark)) and time.monotonic() < until:
            time.sleep(0.02)
        assert left == [], f"killed {when}"

    began = time.monotonic()
    with start() as process:
        assert process.stderr is not None
        while b"| up" not in process.stderr.readline():
            assert process.poll() is None
        whole = time.monotonic() - began
        assert len(left_over(process.pid, mark)) >= 4  # the command, its sandbox, and what the block started
        end(process, "in the block")
    for number in range(15):
        delay = whole * (number + random.random()) / 14
        with start() as process:
            time.sleep(delay)
            end(process, f"after {delay:.3f} of {whole:.3f} s")


def test_recorded_run_replays_without_a_network(cli: Cli, scripted: OpenAIServer) -> None:
    first = cli(*SOLVE, "--record", "run.jsonl", "--json")
    assert first.returncode == 0
    asked = len(scripted.requests)
    offline = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": ""}
    again = cli(*SOLVE, "-m", "replay:run.jsonl", "--json", env=offline)
    assert again.returncode == 0, again.stderr
    assert len(scripted.requests) == asked
    for name in ("answer", "turns", "usage", "cost"):
        assert json.loads(again.stdout)[name] == json.loads(first.stdout)[name]
    assert "replayed model (recorded run run.jsonl)" in again.stderr
    assert "sk-test" not in (cli.directory / "run.jsonl").read_text()


def test_replay_that_runs_out_is_status_3(cli: Cli, scripted: OpenAIServer) -> None:
    cli(*SOLVE, "--record", "run.jsonl")
    lines = (cli.directory / "run.jsonl").read_text().splitlines(keepends=True)
    cli.write("short.jsonl", "".join(lines[:-2]))
    done = cli(*SOLVE, "-m", "replay:short.jsonl")
    assert done.returncode == 3
    assert "record it again" in done.stderr


# --- on a terminal

ATTACK = (
    r"""```python
print("\x1b]52;c;bGV0bWVpbg==\x07 [bold red]not markup[/bold red] \u202eevil\u200b \r:smile:")
```
Prose with [red]markup[/red], a raw escape """
    + "\x1b]0;title\x07"
    + " and \u202e.\n"
)


def test_live_view_on_a_terminal(cli: Cli, scripted: OpenAIServer) -> None:
    cli.env["TERM"] = "xterm-256color"
    status, shown = on_terminal(cli, *SOLVE)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert status == 0
    for part in ("1 planner", "Read the numbers.", "2 coder", "▶ python", "NameError", "■ failed", "■ ok"):
        assert part in text
    assert "The total is 60." in text
    assert "$0.0" in text
    assert shown.endswith(b"\r\n")
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")  # the cursor is back


def test_long_output_is_indented_on_a_terminal_wherever_it_wraps(cli: Cli, server: OpenAIServer) -> None:
    server.replies = {"coder": ["```python\nprint('word ' * 60)\n```", "FINAL ANSWER: done"]}
    cli.env |= {"TERM": "xterm-256color", "COLUMNS": "80"}
    status, shown = on_terminal(cli, "solve", "x", "-m", "m", "--no-plan", "--no-review")
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).splitlines() if "word word" in line]
    assert status == 0
    wrapped = [line for line in lines if "print" not in line]
    assert len(wrapped) > 3
    assert all(line.startswith("  word") and len(line) <= 80 for line in wrapped)


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_terminal_cannot_be_attacked(cli: Cli, server: OpenAIServer, term: str) -> None:
    coder(server, ATTACK, "FINAL ANSWER: \x1b]52;c;eA==\x07 [blink]x[/blink] \u202e")
    cli.env["TERM"] = term
    status, shown = on_terminal(cli, "solve", "x", *ALONE)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())  # what the view itself uses
    assert status == 0
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\u200b" not in text
    assert "\x07" not in text
    for literal in ("[bold red]not markup[/bold red]", "[red]markup[/red]", "[blink]x[/blink]", ":smile:"):
        assert literal in text
    assert r"\x1b]52" in text


def test_no_color(cli: Cli, scripted: OpenAIServer) -> None:
    cli.env.update(TERM="xterm-256color", NO_COLOR="1")
    _, shown = on_terminal(cli, *SOLVE)
    colours = re.findall(rb"\x1b\[([0-9;]*)m", shown)
    numbers = {int(number) for colour in colours for number in colour.split(b";") if number}
    assert not [number for number in numbers if 30 <= number <= 48 or 90 <= number <= 107]


def test_flood_is_not_shown_whole(cli: Cli, server: OpenAIServer) -> None:
    coder(server, "```python\nfor i in range(300_000): print('line', i)\n```", "FINAL ANSWER: done")
    done = cli("solve", "x", *ALONE)
    assert done.returncode == 0
    assert len(done.stderr) < 20_000
    assert "bytes more, not shown" in done.stderr


def test_approval_is_asked_on_the_terminal(cli: Cli, server: OpenAIServer) -> None:
    run = "```python\nopen('ran.txt', 'a').write('x')\n```"
    coder(server, run, run, "FINAL ANSWER: done")
    cli.env["TERM"] = "xterm-256color"
    status, shown = on_terminal(
        cli, "solve", "x", *ALONE, "--approve", "always", "--workspace", "w", typed=b"what\nn\ny\n"
    )
    assert status == 0
    assert shown.count(b"Run this python block? [y/n/e/a/always/never]") == 3
    assert (cli.directory / "w/ran.txt").read_text() == "x"
    assert b"the user said no" in shown


def test_a_person_edits_the_plan_and_a_block_answers_another_and_allows_the_rest(
    cli: Cli, server: OpenAIServer
) -> None:
    delete = "```python\nimport os\nos.remove('{}')\n```\n"
    server.replies = {
        "planner": ["1. Guess."],
        "coder": [delete.format("a"), delete.format("b"), delete.format("c"), delete.format("c"), "FINAL ANSWER: done"],
    }
    (cli.directory / "w").mkdir()
    for name in "abc":
        cli.write(f"w/{name}", "x")
    editor = cli.write("editor.sh", "case $1 in *.py) echo 'print(42)' > $1;; *) echo '1. Measure.' > $1;; esac\n")
    cli.env.update(TERM="dumb", EDITOR=f"sh {editor}")
    typed = b"huh\ne\n" + b"e\n" + b"a It was gone already.\n" + b"always\n"
    status, shown = on_terminal(
        cli, "solve", "x", "--no-review", "--review-plan", "--approve", "risky", "--workspace", "w", typed=typed
    )
    assert status == 0, shown
    assert sorted(path.name for path in (cli.directory / "w").iterdir()) == ["a", "b"]
    assert shown.count(b"It seems to: delete files. [y/n/e/a/always/never]") == 3
    told = [request["messages"][-1]["content"] for request in server.requests]
    assert "1. Measure." in told[1]
    assert "42" in told[2]
    assert "It was gone already." in told[3]
    assert "FileNotFoundError" in told[5]  # the last block ran unasked


def test_a_person_without_an_editor_types_the_new_code(cli: Cli, server: OpenAIServer) -> None:
    coder(server, "```python\nprint(1)\n```\n", "FINAL ANSWER: done")
    cli.env["TERM"] = "dumb"
    status, shown = on_terminal(
        cli, "solve", "x", *ALONE, "--approve", "always", "--workspace", "w", typed=b"e\nprint(6 * 7)\n.\n"
    )
    assert status == 0, shown
    assert "42" in server.requests[-1]["messages"][-1]["content"]


def test_a_person_who_does_not_answer_ends_the_run(cli: Cli, server: OpenAIServer) -> None:
    coder(server, "```python\nprint(1)\n```\n", "FINAL ANSWER: done")
    options = ("--approve", "always", "--answer-timeout", "0.1", "--workspace", "w")
    status, shown = on_terminal(cli, "solve", "x", *ALONE, *options)
    assert status == 1
    assert b"not_solved: human: nobody answered within 0.1 s" in shown


TEAM = 'pattern = "sequential"\n[[agents]]\nname = "ann"\nprompt = "You are the ann."\n'


def test_a_team_from_a_file(cli: Cli, server: OpenAIServer) -> None:
    server.replies = {"ann": ["Fine."]}
    done = cli("solve", "x", "--team", cli.write("team.toml", TEAM), "--workspace", "w")
    assert (done.returncode, done.stdout) == (0, "Fine.\n"), done.stderr
    (cli.directory / "w/team.toml").write_text(TEAM)
    done = cli("solve", "x", "--team", "w/team.toml", "--workspace", "w")
    assert done.returncode == 2
    assert "lies in the workspace, where code can write" in done.stderr
    done = cli("solve", "x", "--team", cli.write("bad.toml", TEAM + 'kind = "nowhere"'))
    assert done.returncode == 2
    assert "no kind is called 'nowhere'" in done.stderr
    done = cli("solve", "x", "--team", cli.write("worse.toml", "patern = 1"))
    assert done.returncode == 2
    assert "worse.toml: " in done.stderr
    assert "patern" in done.stderr
