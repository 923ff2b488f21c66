"""Models of the command line: one for each agent, Responses, tool calls, windows."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Cli
from tests.openai_server import Fault, OpenAIServer, Said, error_body

pytestmark = pytest.mark.usefixtures("local")

CODE = Said("", (("c1", "execute_code", json.dumps({"language": "python", "code": "print(6 * 7)"})),))


@pytest.fixture
def asked(cli: Cli, server: OpenAIServer) -> OpenAIServer:
    server.replies.update(
        planner=["1. Multiply."], coder=[CODE, "FINAL ANSWER: 42"], reviewer=['{"reason": "ok", "verdict": "APPROVE"}']
    )
    cli.env |= {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-test-0123456789"}
    return server


def test_each_agent_has_its_model_and_a_recording_plays_them_all(cli: Cli, asked: OpenAIServer) -> None:
    models = ["-m", "one", "--coder-model", "two", "--reviewer-model", "responses:three"]
    done = cli("solve", "6 * 7?", *models, "--code-mode", "tools", "--record", "run.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["answer"], result["blocks"][0]["result"]["stdout"]) == ("42", "42\n")
    assert list(result["agents"]) == ["planner", "coder", "reviewer"]
    assert [request["model"] for request in asked.requests] == ["one", "two", "three", "two", "three"]
    assert ["input" in request for request in asked.requests] == [False, False, True, False, True]
    again = cli("solve", "6 * 7?", "-m", "replay:run.jsonl", "--code-mode", "tools")
    assert (again.returncode, again.stdout) == (0, "42\n")
    assert len(asked.requests) == 5


def test_agents_that_do_not_take_part_need_no_model(cli: Cli, asked: OpenAIServer) -> None:
    cli.env.pop("AGENTEXEC_MODEL", None)
    done = cli("solve", "6 * 7?", "--coder-model", "two", "--no-plan", "--no-review", "--code-mode", "tools")
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    done = cli("solve", "6 * 7?", "--coder-model", "two", "--no-plan")
    assert done.returncode == 2
    assert "no model" in done.stderr


def test_a_window_is_a_number_of_tokens(cli: Cli, asked: OpenAIServer) -> None:
    done = cli("solve", "6 * 7?", "-m", "one", "--context-window", "0")
    assert done.returncode == 2
    assert "--context-window" in done.stderr


def test_a_trimmed_conversation_is_shown(cli: Cli, asked: OpenAIServer) -> None:
    code = json.dumps({"language": "python", "code": "print('x' * 7000)"})
    steps = [Said("", ((f"c{number}", "execute_code", code),)) for number in range(6)]
    asked.replies["coder"] = [*steps, "FINAL ANSWER: 42"]
    asked.usage = None
    done = cli("solve", "6 * 7?", "-m", "one", "--code-mode", "tools", "--no-review", "--context-window", "9000")
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert "coder: conversation trimmed for the model, from about" in done.stderr


FAST = ("--no-plan", "--no-review", "--code-mode", "tools")


def test_answers_are_kept_and_nothing_is_asked_twice(cli: Cli, asked: OpenAIServer) -> None:
    first = cli("solve", "6 * 7?", "-m", "one", "--cache", "kept/answers", "--json")
    count = len(asked.requests)
    again = cli("solve", "6 * 7?", "-m", "one", "--cache", "kept/answers", "--json")
    assert (first.returncode, again.returncode) == (0, 0), again.stderr
    assert len(asked.requests) == count == 5
    assert json.loads(again.stdout)["answer"] == "42"
    assert (json.loads(first.stdout)["cost"], json.loads(again.stdout)["cost"]) == (None, 0)


@pytest.mark.parametrize("command", [("solve", "6 * 7?"), ("resume", "last")])
def test_answers_are_not_kept_where_code_can_write_them(
    cli: Cli, asked: OpenAIServer, command: tuple[str, ...]
) -> None:
    asked.replies["coder"] = [CODE]
    cli("solve", "6 * 7?", *FAST, "--max-turns", "2", "--workspace", "work")
    done = cli(*command, "--workspace", "work", "--cache", "work/answers")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--cache work/answers lies in the workspace" in done.stderr


def test_a_place_that_can_hold_no_answers_is_refused(cli: Cli, asked: OpenAIServer) -> None:
    cli.write("file", "in the way")
    done = cli("solve", "6 * 7?", "--cache", "file")
    assert (done.returncode, len(asked.requests)) == (2, 0)
    assert "--cache file: " in done.stderr


def test_a_file_may_not_say_where_answers_are_kept(cli: Cli, asked: OpenAIServer) -> None:
    cli.write("agentexec.toml", 'cache = "answers"\n')
    done = cli("solve", "6 * 7?")
    assert done.returncode == 2
    assert "AGENTEXEC_CACHE" in done.stderr


def test_another_model_is_asked_where_one_fails(cli: Cli, asked: OpenAIServer) -> None:
    asked.models = {"two"}
    done = cli("solve", "6 * 7?", "-m", "one", "--fallback-model", "two", *FAST)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert "two is asked instead" in done.stderr
    assert [request["model"] for request in asked.requests] == ["one", "two", "two"]


def test_so_many_retries_and_no_more(cli: Cli, asked: OpenAIServer) -> None:
    asked.faults = [Fault("status", status=500, body=error_body("down")) for _ in range(4)]
    done = cli("solve", "6 * 7?", *FAST, "--model-retries", "1")
    assert done.returncode == 3
    assert "tried 2 times" in done.stderr
    assert len(asked.requests) == 2
    assert cli("solve", "6 * 7?", *FAST, "--model-retries", "-1").returncode == 2


def test_a_silent_server_is_given_up_after_so_long(cli: Cli, asked: OpenAIServer) -> None:
    asked.faults = [Fault("silent")]
    done = cli("solve", "6 * 7?", *FAST, "--model-retries", "0", "--model-timeout", "0.5")
    assert done.returncode == 3
    assert len(asked.requests) == 1


def test_models_together_are_asked_no_faster_than_so_attempts_included(cli: Cli, asked: OpenAIServer) -> None:
    asked.faults = [Fault("status", status=500, body=error_body("down"))]
    asked.replies["coder"] = [CODE] * 9
    limits = ("--requests-per-minute", "3", "--deadline", "18")
    done = cli("solve", "6 * 7?", "-m", "one", "--coder-model", "two", "--no-plan", "--code-mode", "tools", *limits)
    assert done.returncode == 1
    assert "deadline" in done.stderr
    # The third goes at once, as a minute's worth may; the fourth would have to wait for 20 s.
    assert [request["model"] for request in asked.requests] == ["two", "two", "one"]


def test_a_model_that_a_team_names_is_made_as_the_flags_say(cli: Cli, asked: OpenAIServer) -> None:
    asked.replies |= {"ann": ["FINAL ANSWER: 42"]}
    agent = '[[agents]]\nname = "ann"\nprompt = "You are the ann."\nmodel = "mine"\n'
    cli.write("team.toml", f'pattern = "round_robin"\n{agent}')
    command = ("solve", "6 * 7?", "-m", "one", "--team", "team.toml")
    for _ in range(2):
        done = cli(*command, "--cache", "answers")
        assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert [request["model"] for request in asked.requests] == ["mine"]
    done = cli(*command, "--record", "run.jsonl")
    assert (done.returncode, len(asked.requests)) == (0, 2)
    assert "FINAL ANSWER: 42" in (cli.directory / "run.jsonl").read_text()


def test_a_run_goes_on_with_other_models_and_what_is_around_them(cli: Cli, asked: OpenAIServer) -> None:
    asked.replies["coder"] = [CODE]
    stopped = cli("solve", "6 * 7?", "-m", "one", *FAST, "--max-turns", "2")
    assert stopped.returncode == 1
    asked.replies["coder"] = [CODE, "FINAL ANSWER: 42"]
    asked.models = {"three"}
    options = ["--coder-model", "two", "--fallback-model", "three", "--cache", "answers", "--max-turns", "9"]
    done = cli("resume", "last", *options)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert [request["model"] for request in asked.requests] == ["one", "two", "three"]
    assert len(list((cli.directory / "answers").iterdir())) == 1


def test_config_knows_the_flags_of_models(cli: Cli) -> None:
    flags = ["--cache", "answers", "--fallback-model", "two", "--model-retries", "2", "--requests-per-minute", "30"]
    done = cli("config", *flags, "--json", env={"AGENTEXEC_TOKENS_PER_MINUTE": "5000"})
    assert done.returncode == 0, done.stderr
    shown = {name: (each["value"], each["source"]) for name, each in json.loads(done.stdout).items()}
    assert shown["cache"] == ("answers", "flag")
    assert shown["fallback_model"] == ("two", "flag")
    assert shown["model_retries"] == (2, "flag")
    assert shown["requests_per_minute"] == (30, "flag")
    assert shown["tokens_per_minute"] == (5000, "variable")
    assert cli("config", "--requests-per-minute", "0").returncode == 2


def test_every_setting_that_is_a_flag_is_one_of_solve_and_of_resume() -> None:
    from agentexec.cli import flags as f
    from agentexec.settings import Settings

    every = {name for group in (f.MODEL, f.SANDBOX, f.BOUNDS, f.HUMAN, f.MODELS, f.LIMITS) for name in group}
    elsewhere = {"review_plan", "team", "plan", "review", "store"}  # flags of `solve` alone
    assert set(Settings.model_fields) == every | elsewhere | {"api_key", "base_url", "image"}
