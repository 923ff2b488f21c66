"""`agentexec config` and what the shell completes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentexec.events import RunStarted
from agentexec.settings import Settings
from agentexec.store import Store
from sandboxes.types import Limits
from tests.cli.conftest import Cli

SECRET = "sk-secret-0123456789"


def settings(cli: Cli, *args: str, **env: str) -> dict[str, dict[str, Any]]:
    done = cli("config", "--json", *args, env=env)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def test_every_setting_is_shown_with_its_source(cli: Cli) -> None:
    (cli.directory / "agentexec.toml").write_text('model = "from-file"\nmemory = "1M"\ntimeout = 1\n')
    found = settings(cli, "--timeout", "3", "--no-plan", "-s", "docker", AGENTEXEC_MEMORY="2M", OPENAI_API_KEY=SECRET)
    assert set(found) == set(Settings.model_fields)
    path = str((cli.directory / "agentexec.toml").resolve())
    assert found["model"] == {"value": "from-file", "source": "file", "where": path}
    assert found["memory"] == {"value": 2 << 20, "source": "variable", "where": "AGENTEXEC_MEMORY"}
    assert found["timeout"] == {"value": 3.0, "source": "flag", "where": "--timeout"}
    assert found["plan"] == {"value": False, "source": "flag", "where": "--no-plan"}
    assert found["sandbox"] == {"value": "docker", "source": "flag", "where": "--sandbox"}
    assert found["review"] == {"value": True, "source": "default", "where": None}
    assert found["api_key"] == {"value": "**********", "source": "variable", "where": "OPENAI_API_KEY"}


@pytest.mark.parametrize("form", ["--json", "text"])
def test_secrets_are_masked(cli: Cli, form: str) -> None:
    env = {"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": f"https://user:{SECRET}@models.example/v1"}
    done = cli("config", *([form] if form == "--json" else []), env=env)
    assert done.returncode == 0
    assert "sk-" not in done.stdout + done.stderr
    assert "@models.example/v1" in done.stdout


def test_text_is_one_line_a_setting(cli: Cli) -> None:
    done = cli("config", env={"AGENTEXEC_MODEL": "gpt\x1b[2Jx\nmore"})
    lines = done.stdout.splitlines()
    assert len(lines) == len(Settings.model_fields)
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("env", "args", "said"),
    [
        ({"AGENTEXEC_MEMORY": "much"}, [], "AGENTEXEC_MEMORY: memory cannot be 'much'"),
        ({"AGENTEXEC_MODLE": "x"}, [], r"AGENTEXEC_MODLE is set, but .*: did you mean AGENTEXEC_MODEL\?"),
        ({"AGENTEXEC_TARGET_NAME": "x"}, [], "AGENTEXEC_TARGET_NAME is set, but there is no such setting"),
        ({}, ["--max-turns", "0"], "--max-turns: max_turns cannot be"),
        ({}, ["--mdoel", "x"], "--mdoel is no setting; there are"),
        ({}, ["--memory"], "--memory needs a value"),
        ({}, ["stray"], "stray is no setting"),
        ({"AGENTEXEC_SANDBOX": "lokal"}, [], "no executor is called 'lokal'; known are .*local"),
    ],
)
def test_what_makes_no_sense_is_named(cli: Cli, env: dict[str, str], args: list[str], said: str) -> None:
    done = cli("config", *args, env=env)
    assert done.returncode == 2
    assert re.search(said, done.stderr), done.stderr


def test_a_file_in_the_workspace_is_not_read_and_that_is_said(cli: Cli) -> None:
    (cli.directory / "agentexec.toml").write_text('model = "from-the-sandbox"\n')
    done = cli("config", "--workspace", ".")
    assert done.returncode == 0
    assert "from-the-sandbox" not in done.stdout
    assert "agentexec.toml is not read: it lies in the workspace" in done.stderr


def test_what_holds_where_nothing_is_set_is_shown(cli: Cli) -> None:
    found, limits = settings(cli), Limits()
    assert found["memory"] == {"value": limits.memory, "source": "default", "where": None}
    assert (found["timeout"]["value"], found["network"]["value"]) == (limits.wall_time, "off")
    assert (found["isolation"]["value"], found["max_turns"]["value"]) == ("auto", 50)
    shown = dict(line.split()[:2] for line in cli("config", "--disk", "1000001", "--memory", "3G").stdout.splitlines())
    assert (shown["file_size"], shown["output"], shown["disk"], shown["memory"]) == ("256M", "1M", "1000001", "3G")


@pytest.mark.parametrize("command", [["run", "p.py"], ["solve", "x", "-m", "replay:none"]])
def test_a_misspelt_variable_ends_the_command(cli: Cli, command: list[str]) -> None:
    (cli.directory / "p.py").write_text("print('ran')")
    done = cli(*command, env={"AGENTEXEC_MEMROY": "64M"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean AGENTEXEC_MEMORY? If it is not for agentexec, type 'unset AGENTEXEC_MEMROY'" in done.stderr


def test_keys_of_other_services_are_not_taken(cli: Cli) -> None:
    found = settings(cli, API_KEY=SECRET, BASE_URL="http://elsewhere")
    assert (found["api_key"]["value"], found["base_url"]["value"]) == (None, None)


BASH = """
PATH={bin}:$PATH
eval "$(agentexec --show-completion)"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_agentexec_completion agentexec
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("agentexec con", {"config"}),
        ("agentexec run -s jup", {"jupyter", "jupyter+docker"}),
        ("agentexec run -l ja", {"java", "javascript"}),
        ("agentexec solve x --approve a", {"always"}),
        ("agentexec run --mem", {"--memory"}),
    ],
)
def test_bash_completes(cli: Cli, words: str, expected: set[str]) -> None:
    script = BASH.format(bin=Path(sys.executable).parent, words=words)
    done = subprocess.run(
        ["bash", "-c", script], cwd=cli.directory, env=cli.env, capture_output=True, text=True, timeout=50
    )
    assert set(done.stdout.split()) >= expected, done.stderr
    assert all(word.startswith(words.split()[-1]) for word in done.stdout.split())


def test_runs_complete_with_their_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentexec.cli.completing import complete_runs

    monkeypatch.setenv("AGENTEXEC_STORE", str(tmp_path / "store"))
    assert complete_runs("") == []
    assert not (tmp_path / "store").exists()
    with Store() as store:
        for run_id, task in (("20260101T000000-a", "First: this"), ("20260202T000000-b", "Second\nmore")):
            recorder = store.record(run_id)
            recorder(RunStarted(run_id=run_id, task=task, model="m", executor="local", limits=Limits()))
            recorder.close()
    assert complete_runs("2026") == [("20260202T000000-b", "Second"), ("20260101T000000-a", "First  this")]
    assert complete_runs("202601") == [("20260101T000000-a", "First  this")]
    assert complete_runs("x") == []


def test_a_command_that_completes_nothing_does_not_load_what_completes(cli: Cli) -> None:
    program = (
        "import sys; sys.argv = ['agentexec', 'run', 'x.py']; import agentexec.cli as c; "
        "print(c.app._add_completion, *{'sandboxes.registry', 'agentexec.store'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.stdout.split()[0] == "False"
    assert "agentexec.store" not in done.stdout


@pytest.mark.parametrize("command", [["--version"], ["runs"], ["runs", "--json"]])
def test_commands_that_only_read_the_store_load_nothing_that_is_slow(command: list[str], tmp_path: Path) -> None:
    """Pydantic alone takes as long as all of the rest; see the bound of typer in pyproject.toml."""
    with Store(tmp_path) as store:
        recorder = store.record("a")
        recorder(RunStarted(run_id="a", task="x", model="m", executor="local", limits=Limits()))
        recorder.close()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "agentexec", *command],
        env={**os.environ, "AGENTEXEC_STORE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr[-500:]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "agentexec.cli" in loaded
    slow = {"pydantic", "asyncio", "rich", "sandboxes.types", "markdown_it", "openai"}
    assert not slow & loaded


def test_help_of_every_command_fits_a_terminal_and_its_summary_is_whole(cli: Cli) -> None:
    shown = cli("--help", env={"COLUMNS": "80"}).stdout
    commands = re.findall(r"^  ([a-z]+) {2,}(.*)$", shown.partition("Commands:")[2], re.MULTILINE)
    assert [name for name, _ in commands][:3] == ["run", "solve", "runs"]
    assert cli("-h", env={"COLUMNS": "80"}).stdout == shown
    for name, summary in commands:
        assert summary.endswith("."), name
        assert not summary.endswith("..."), name
