"""`agentexec run`, as a process, with the real local sandbox."""

from __future__ import annotations

import array
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, Cli, assert_gone, on_terminal
from tests.sandboxes.backends import require_engine

pytestmark = pytest.mark.usefixtures("local")


def test_output_and_exit_status_are_the_programs_own(cli: Cli) -> None:
    cli.write("p.py", "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)\n")
    done = cli("run", "p.py")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_success_says_nothing_of_its_own(cli: Cli) -> None:
    done = cli("run", cli.write("p.py", "print(1)"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_language_by_ending_and_by_flag(cli: Cli) -> None:
    assert cli("run", cli.write("p.sh", "echo from $0 | cut -c 1-4")).stdout == "from\n"
    assert cli("run", "--language", "bash", cli.write("script", 'echo "${BASH_VERSION:+bash}"')).stdout == "bash\n"


@pytest.mark.parametrize("args", [("-",), ()])
def test_program_from_standard_input(cli: Cli, args: tuple[str, ...]) -> None:
    assert cli("run", *args, stdin="print('piped')").stdout == "piped\n"
    assert cli("run", *args, "-l", "sh", stdin="echo shell").stdout == "shell\n"


def test_output_arrives_while_the_program_runs(cli: Cli) -> None:
    cli.write("p.py", "import time\nprint('first', flush=True)\ntime.sleep(20)\n")
    with cli.start("run", "p.py") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        process.terminate()
        assert process.wait(10) == 130


def test_bytes_pass_unchanged_into_a_pipe(cli: Cli) -> None:
    raw = bytes(range(256)) + "é\u202e\u200b".encode()
    cli.write("p.py", f"import sys\nsys.stdout.buffer.write({raw!r})\n")
    process = subprocess.run([*COMMAND, "run", "p.py"], cwd=cli.directory, env=cli.env, capture_output=True, timeout=30)
    assert process.stdout == raw


STATUSES = [
    ("import time; time.sleep(60)", ["--timeout", "0.5"], 124, "timeout"),
    ("while True: pass", ["--cpu-time", "1"], 124, "cpu_time"),
    ("x = bytearray(500 << 20)\nprint(len(x))", ["--memory", "100M"], 137, "memory"),
    ("open('big', 'wb').write(b'x' * (20 << 20))", ["--file-size", "1M"], 137, "disk"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", [], 139, "failed"),
    ("import sys; sys.exit(124)", [], 124, "failed"),
    ("import os; os._exit(1)", [], 1, "failed"),
]


@pytest.mark.parametrize(("code", "flags", "status", "verdict"), STATUSES)
def test_exit_status_and_json_of_each_verdict(cli: Cli, code: str, flags: list[str], status: int, verdict: str) -> None:
    cli.write("p.py", code)
    plain = cli("run", "p.py", *flags)
    assert plain.returncode == status, plain.stderr
    if verdict != "failed":
        assert re.search(rf"^agentexec: {verdict}: .+$", plain.stderr, re.MULTILINE)
    as_json = cli("run", "p.py", "--json", *flags)
    assert as_json.returncode == status
    assert json.loads(as_json.stdout)["verdict"] == verdict


def test_json_is_exactly_one_result(cli: Cli) -> None:
    cli.write("p.py", "open('made.txt', 'w').write('hi')\nprint('to stdout')\n")
    done = cli("run", "p.py", "--json")
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert result["stdout"] == "to stdout\n"
    assert [file["path"] for file in result["files"]] == ["made.txt"]
    assert {"verdict", "exit_code", "signal", "duration", "peak_memory", "isolation"} <= result.keys()


def test_workspace_is_used_and_made_if_missing(cli: Cli) -> None:
    cli.write("p.py", "import os; open('made.txt', 'w').write(' '.join(sorted(os.listdir())))")
    assert cli("run", "p.py", "--workspace", "new/place").returncode == 0
    place = cli.directory / "new/place"
    assert [path.name for path in place.iterdir()] == ["made.txt"]
    assert cli("run", "p.py", "--workspace", "new/place").returncode == 0


def test_nothing_is_left_without_a_workspace(cli: Cli) -> None:
    cli("run", cli.write("p.py", "open('made.txt', 'w').write('x')"))
    assert [path.name for path in cli.directory.iterdir()] == ["p.py"]
    assert list(Path(cli.env["TMPDIR"]).iterdir()) == []


USAGE = [
    (["run", "missing.py"], "missing.py"),
    (["run", "p.xyz"], "known endings are"),
    (["run", "p.py", "-l", "cobol"], "known are python"),
    (["run", "p.py", "--memory", "much"], "--memory: not a size: 'much' \\(write bytes, or like \"512M\""),
    (["run", "p.py", "--timeout", "-1"], "--timeout: .*greater than 0"),
    (["run", "p.py", "--processes", "0"], "--processes: "),
    (["run", "p.py", "--network", "maybe"], "--network"),
    (["run", "p.py", "--isolation", "magic"], "--isolation"),
    (["run", "p.py", "-s", "nowhere"], "--sandbox: no executor is called 'nowhere'; known are .*local"),
    (["run", "p.py", "-s", "fake", "--isolation", "none"], "--isolation is not for the sandbox 'fake'"),
    (["run", "p.py", "--workspace", "p.py"], "--workspace p.py: this is a file, not a directory"),
    (["run", "."], r"\. is a directory; give a program in it, and the directory with --workspace"),
    (["p.py"], "To run this file, type 'agentexec run p.py'"),
    (["run", "latin.py"], "not UTF-8"),
    (["run", "--no-such-flag"], "no-such-flag"),
    (["no-such-command"], "no-such-command"),
]


@pytest.mark.parametrize(("args", "said"), USAGE)
def test_wrong_usage_is_status_2_and_says_what_to_type(cli: Cli, args: list[str], said: str) -> None:
    cli.write("p.py", "print('ran')")
    cli.write("p.xyz", "print('ran')")
    cli.write("latin.py", b"print('\xe9')")
    done = cli(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(("sandbox", "said"), [("broken", "apt install engine"), ("lost", "engine went away")])
def test_sandbox_that_fails_is_status_125(cli: Cli, sandbox: str, said: str) -> None:
    cli.write("p.py", "print('ran')")
    for flags in ([], ["--json"]):
        done = cli("run", "p.py", "-s", sandbox, *flags)
        assert (done.returncode, done.stdout) == (125, "")
        assert done.stderr.count("\n") == 1
        assert said in done.stderr


def test_missing_interpreter_is_status_125(cli: Cli) -> None:
    done = cli("run", "-l", "r", "-", stdin="1")
    if done.returncode == 0:
        pytest.skip("R is installed")
    assert done.returncode == 125
    assert "Traceback" not in done.stderr


def test_settings_come_from_environment_file_and_flags_in_that_order(cli: Cli) -> None:
    cli.write("p.py", "import time; time.sleep(30)")
    cli.write("agentexec.toml", "timeout = 0.4\n")
    assert cli("run", "p.py").returncode == 124
    cli.write("agentexec.toml", "timeout = 60\n")
    assert cli("run", "p.py", env={"AGENTEXEC_TIMEOUT": "0.4"}).returncode == 124
    slow = {"AGENTEXEC_TIMEOUT": "60"}
    assert cli("run", "p.py", "--timeout", "0.4", env=slow).returncode == 124


def test_file_that_the_workspace_holds_is_no_configuration(cli: Cli) -> None:
    cli.write("agentexec.toml", "sandbox = 'nowhere'\n")
    cli.write("p.py", "print('ran')")
    assert cli("run", "p.py").returncode == 2
    assert cli("run", "p.py", "--workspace", ".").stdout == "ran\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_everything_with_status_130(cli: Cli, number: signal.Signals) -> None:
    mark = f"sleep 54{int(number)}.25"
    cli.write("p.sh", f"trap '' INT TERM HUP\necho up\n({mark}) &\n{mark}\n")
    with cli.start("run", "p.sh") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert_gone(mark)


def test_interrupted_json_keeps_what_there_is(cli: Cli) -> None:
    ready = cli.directory / "workspace" / "ready"
    cli.write("p.py", "import time\nprint('so far', flush=True)\nopen('ready', 'w')\ntime.sleep(60)\n")
    with cli.start("run", "p.py", "--json", "--workspace", "workspace") as process:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    result = json.loads(out)
    assert result["verdict"] == "cancelled"
    assert result["stdout"] == "so far\n"


@pytest.mark.usefixtures("plugin")
def test_interrupt_while_the_sandbox_starts_is_one_result_too(cli: Cli) -> None:
    cli.write("p.py", "print('ran')")
    with cli.start("run", "p.py", "-s", "slow", "--json") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"starting\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"")
    assert json.loads(out)["verdict"] == "cancelled"


def test_reader_that_leaves_ends_the_program_quietly(cli: Cli) -> None:
    mark = "sleep 5433.5"
    cli.write("p.sh", f"{mark} &\nwhile true; do echo line; done\n")
    with cli.start("run", "p.sh") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(10) == 141
    assert_gone(mark)


def test_second_signal_does_not_wait_for_the_result(cli: Cli) -> None:
    mark = "sleep 5434.5"
    cli.write("p.sh", f"trap '' INT TERM\necho up\n{mark}\n")
    with cli.start("run", "p.sh") as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert_gone(mark)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("flags", ["", " --json"])
def test_closed_stream_is_as_dev_null(cli: Cli, closed: str, flags: str) -> None:
    cli.write("p.py", "import sys\nprint(1)\nprint(2, file=sys.stderr)\n")
    command = f"{shlex.join([*COMMAND, 'run', 'p.py'])}{flags} {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=cli.directory, env=cli.env, capture_output=True, timeout=30)
    assert done.returncode == 0
    if not flags:
        assert done.stdout == (b"" if ">&-" in closed.split() else b"1\n")
        assert done.stderr == (b"" if "2>&-" in closed else b"2\n")


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("config",), ("run", "--help")])
def test_a_full_disk_is_said_whatever_was_to_be_written(cli: Cli, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full, cli.start(*arguments, stdout=full) as process:
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (1, b"agentexec: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_full_disk_is_said_and_is_status_1(cli: Cli, flags: tuple[str, ...]) -> None:
    cli.write("p.py", "print(1)")
    with Path("/dev/full").open("wb") as full, cli.start("run", "p.py", *flags, stdout=full) as process:
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (1, b"agentexec: cannot write the output: No space left on device\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_workspace_is_said_and_left_as_it_was(cli: Cli) -> None:
    disk = cli.directory / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk], check=True)
    try:
        (disk / "there").write_bytes(b"x" * 8192)
        cli.write("p.py", "print(1)")
        done = cli("run", "--workspace", "disk", "p.py")
        said = "agentexec: the sandbox failed: the block cannot be put into the workspace: No space left on device\n"
        assert (done.returncode, done.stdout, done.stderr) == (125, "", said)
        assert os.listdir(disk) == ["there"]
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_json_is_utf_8_in_any_locale(cli: Cli) -> None:
    cli.write("p.py", "print('caf\\u00e9')")
    env = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert json.loads(cli("run", "p.py", "--json", env=env).stdout)["stdout"] == "caf\u00e9\n"


@pytest.mark.parametrize("env", [{}, {"AGENTEXEC_TIMEOUT": "30"}])
def test_current_directory_that_is_gone(cli: Cli, env: dict[str, str]) -> None:
    command = f"mkdir gone && cd gone && rmdir ../gone && echo 'print(1)' | {shlex.join(COMMAND)} run -"
    done = subprocess.run(
        ["sh", "-c", command], cwd=cli.directory, env={**cli.env, **env}, capture_output=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1\n", b"")


def test_environment_may_be_empty(cli: Cli) -> None:
    cli.env.clear()
    assert cli("run", cli.write("p.py", "print(1)")).stdout == "1\n"


def test_signal_reaches_a_command_whose_reader_does_not_read(cli: Cli) -> None:
    cli.write("p.sh", "echo up >&2\nwhile true; do echo line; done\n")
    with cli.start("run", "p.sh") as process:
        assert process.stderr is not None
        process.stderr.readline()
        assert process.stdout is not None
        waiting, before, still = array.array("i", [0]), 0, 0
        while still < 20:  # until the pipe is full, so that our write blocks
            time.sleep(0.01)
            before = waiting[0]
            fcntl.ioctl(process.stdout, termios.FIONREAD, waiting)
            still = still + 1 if waiting[0] == before > 0 else 0
        process.terminate()
        assert process.wait(10) == 130


def test_killed_command_leaves_nothing(cli: Cli) -> None:
    mark = "sleep 5455.75"
    cli.write("p.sh", f"setsid {mark} &\necho up\n{mark}\n")
    with cli.start("run", "p.sh") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert_gone(mark)


def test_terminal_cannot_be_attacked(cli: Cli) -> None:
    attack = "\x1b]52;c;bGV0bWVpbg==\x07\x1b[2J\rhidden\u202eevil\u200b\x9b31m\x08"
    cli.write("p.py", f"import sys\nprint({attack!r})\nprint({attack!r}, file=sys.stderr)\nprint('tab\\there é')\n")
    status, shown = on_terminal(cli, "run", "p.py")
    text = shown.decode()
    assert status == 0
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\u200b" not in text
    assert "\x9b" not in text
    assert text.count("\\x1b]52;c;") == 2
    assert "tab\there é\r\n" in text


def test_character_split_across_writes_is_whole_on_a_terminal(cli: Cli) -> None:
    cli.write(
        "p.py",
        "import sys, time\n"
        "for byte in 'é🙂'.encode():\n"
        "    sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush(); time.sleep(0.02)\n",
    )
    assert "é🙂" in on_terminal(cli, "run", "p.py")[1].decode()


def test_run_without_anything_on_a_terminal_says_what_to_give(cli: Cli) -> None:
    status, shown = on_terminal(cli, "run")
    assert status == 2
    assert b"give a FILE" in shown


def test_version_and_help(cli: Cli) -> None:
    assert re.fullmatch(r"agentexec \d+\.\d+.*\n", cli("--version").stdout)
    for command in ("run", "solve"):
        shown = cli(command, "--help").stdout
        for flag in ("--sandbox", "--timeout", "--cpu-time", "--file-size", "--open-files", "--isolation"):
            assert flag in shown


def test_cell_shows_its_value_and_its_error(cli: Cli) -> None:
    done = cli("run", "-s", "jupyter", cli.write("p.py", "print('said')\n6 * 7"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "said\n42\n", "")
    done = cli("run", "-s", "jupyter", cli.write("p.py", "1 / 0"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "ZeroDivisionError" in done.stderr
    done = cli("run", "-s", "jupyter", "--timeout", "1", cli.write("p.py", "while True: pass"))
    assert (done.returncode, done.stdout) == (124, "")
    assert "the state is kept" in done.stderr


def test_the_stand_in_for_tests_says_that_nothing_ran(cli: Cli) -> None:
    done = cli("run", cli.write("p.py", "raise SystemExit(3)"), "-s", "fake")
    assert (done.returncode, done.stdout) == (0, "")
    assert "the sandbox 'fake' runs nothing: it is a stand-in for tests" in done.stderr


def test_a_program_goes_by_its_own_name(cli: Cli) -> None:
    program = cli.write("my program.py", "open('made.txt', 'w').close()\nraise ValueError(__file__)")
    done = cli("run", program)
    assert done.returncode == 1
    assert re.search(r'File ".*/my program\.py", line 2, in <module>', done.stderr), done.stderr
    assert "/my program.py" in done.stderr.splitlines()[-1]
    assert [file["path"] for file in json.loads(cli("run", program, "--json").stdout)["files"]] == ["made.txt"]


def test_a_program_takes_the_place_of_no_file_of_the_workspace(cli: Cli) -> None:
    workspace = cli.directory / "work"
    workspace.mkdir()
    (workspace / "p.py").write_text("kept")
    assert cli("run", cli.write("p.py", "print(1)"), "--workspace", "work").stdout == "1\n"
    assert (workspace / "p.py").read_text() == "kept"


def test_the_language_that_was_said_counts_and_not_the_name(cli: Cli) -> None:
    require_engine(shutil.which("gcc") is not None, "gcc")
    done = cli("run", cli.write("p.txt", "int main(void) { return 7; }"), "-l", "c")
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize("name", ["a\nb.py", "caf\udce9.py", "-.py", " .py", "ü.py"])
def test_a_program_may_have_any_name(cli: Cli, name: str) -> None:
    cli.write(name, "print(1)")
    done = cli("run", f"./{name}")
    assert (done.stdout, done.stderr) == ("1\n", "")
