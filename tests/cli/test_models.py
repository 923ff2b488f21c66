"""Models of the command line: one for each agent, Responses, tool calls, windows."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Cli
from tests.openai_server import OpenAIServer, Said

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
