"""Agents with real HTTP behind them: formats, tool calls, models of their own, and models that fail."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentexec.agents.base import ATTEMPTS, ModelAgent, load_prompt, prompt_version
from agentexec.agents.calls import EXECUTE_CODE, MalformedCall, calls_of, message_of, results_of
from agentexec.agents.planner import SHAPE as PLAN
from agentexec.agents.reviewer import SHAPE as REVIEW
from agentexec.agents.reviewer import read_review
from agentexec.conversation import Conversation
from agentexec.events import Message, MessageAdded, ModelCalled, ModelRetried
from agentexec.log import EventLog
from agentexec.markdown import read_reply
from agentexec.models import CachingModel, Model, OpenAIModel, RecordingModel, ReplayModel, ToolCall
from agentexec.result import SolveResult
from agentexec.solving import solve
from sandboxes.fake import FakeExecutor
from sandboxes.types import CodeBlock
from tests.agentexec.doubles import ScriptedModel
from tests.openai_server import OpenAIServer, Said

DONE = "FINAL ANSWER: 4"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    with OpenAIServer({"planner": ["1. Do it."], "reviewer": ["APPROVE"], "coder": [DONE]}) as running:
        yield running


def call(code: str = "print(4)", call_id: str = "c1", **more: str) -> tuple[str, str, str]:
    return call_id, "execute_code", json.dumps({"language": "python", "code": code, **more})


async def run(server: OpenAIServer, *, api: Any = "chat", model: Model | None = None, **options: Any) -> SolveResult:
    speaker = model or OpenAIModel("gpt-4o-mini", base_url=server.url, api=api)
    try:
        return await solve("What is 2 + 2?", model=speaker, executor=FakeExecutor(lambda block: "4\n"), **options)
    finally:
        await speaker.close()


def asked(server: OpenAIServer, role: str) -> list[dict[str, Any]]:
    """Return the requests of a role."""
    start = f"You are the {role}."
    return [r for r in server.requests if str(r.get("instructions") or r["messages"][0]["content"]).startswith(start)]


def texts(result: SolveResult) -> list[tuple[str, str]]:
    return [(e.message.sender, e.message.content) for e in result.events if isinstance(e, MessageAdded)]


class TestFormats:
    async def test_planner_and_reviewer_answer_in_json_and_speak_in_words(self, server: OpenAIServer) -> None:
        server.replies |= {
            "planner": [json.dumps({"steps": ["Add.", "Answer\nit."]})],
            "reviewer": [
                json.dumps({"reason": "No code.", "verdict": "REVISE"}),
                '{"reason": "", "verdict": "APPROVE"}',
            ],
        }
        result = await run(server)
        assert texts(result)[1:] == [
            ("planner", "1. Add.\n2. Answer it."),
            ("coder", DONE),
            ("reviewer", "REVISE: No code."),
            ("coder", DONE),
            ("reviewer", "APPROVE"),
        ]
        assert result.solved
        assert "response_format" not in asked(server, "coder")[0]
        assert asked(server, "reviewer")[0]["response_format"]["json_schema"]["name"] == "review"

    async def test_words_are_understood_as_ever(self, server: OpenAIServer) -> None:
        server.refuse_formats = True
        server.replies["reviewer"] = ["REVISE: look again", "Approved."]
        result = await run(server)
        assert result.solved
        assert len(asked(server, "planner")) == 2  # the first was refused for its format
        assert not any("response_format" in request for request in asked(server, "reviewer"))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('```json\n{"reason": "ok", "verdict": "APPROVE"}\n```', "APPROVE\n\nok"),
            ('<think>hm</think>\n{"reason": "no", "verdict": "REVISE"}', "REVISE: no"),
            ('{"verdict": "MAYBE", "reason": ""}', '{"verdict": "MAYBE", "reason": ""}'),
            ('{"verdict": "APPROVE"}', '{"verdict": "APPROVE"}'),
            ('{"verdict": "APPROVE", "reason": 7}', '{"verdict": "APPROVE", "reason": 7}'),
            ('["APPROVE"]', '["APPROVE"]'),
            ("APPROVE", "APPROVE"),
        ],
    )
    def test_what_is_not_as_asked_is_the_message_as_it_is(self, text: str, words: str) -> None:
        assert REVIEW.read(text) == words

    def test_unclear_json_approves_nothing(self) -> None:
        assert not read_review(REVIEW.read('{"verdict": "approve it", "reason": ""}')).approved
        assert PLAN.read('{"steps": []}') == '{"steps": []}'


class TestToolCalls:
    @pytest.mark.parametrize("api", ["chat", "responses"])
    async def test_a_task_is_solved_by_calls(self, server: OpenAIServer, api: str) -> None:
        server.replies["coder"] = [
            Said("I add.", (call("print(2+2)", "c1", filename="add.py"), call("print('``` x')\n", "c2"))),
            Said("", (call("1", "c3"),)),
            DONE,
        ]
        result = await run(server, api=api, code_mode="tools", review=False, plan=False)
        assert result.solved, result.message
        assert [(b.turn, b.language, b.filename, b.code) for b in result.blocks] == [
            (1, "python", "add.py", "print(2+2)\n"),
            (1, "python", None, "print('``` x')\n"),
            (3, "python", None, "1\n"),
        ]
        last = asked(server, "coder")[-1]
        assert last.get("instructions", last.get("messages", [{}])[0].get("content")).startswith("You are the coder.")
        if api == "chat":
            roles = [message["role"] for message in last["messages"]]
            assert roles == ["system", "user", "assistant", "tool", "tool", "assistant", "tool"]
            assert [message.get("tool_call_id") for message in last["messages"][3:5]] == ["c1", "c2"]
            assert last["messages"][3]["content"].startswith("## Block 1 of 2 (python, add.py): ok")
            assert last["messages"][4]["content"].startswith("## Block 2 of 2 (python): ok")
            made = json.loads(last["messages"][2]["tool_calls"][0]["function"]["arguments"])
            assert made == {"language": "python", "code": "print(2+2)\n", "filename": "add.py"}
            assert last["messages"][2]["content"] == "I add."
        else:
            kinds = [item.get("type", item.get("role")) for item in last["input"]]
            outputs = ["function_call_output"]
            assert kinds == ["user", "assistant", *["function_call"] * 2, *outputs * 2, "function_call", *outputs]

    async def test_the_reviewer_sees_the_code_and_a_call_it_stops_is_answered(self, server: OpenAIServer) -> None:
        server.replies["coder"] = [Said("", (call("evil()"),)), DONE]
        server.replies["reviewer"] = ["REVISE: not that", "APPROVE"]
        result = await run(server, code_mode="tools", plan=False)
        assert result.solved
        assert result.blocks == ()
        assert "```python\nevil()\n```" in asked(server, "reviewer")[0]["messages"][1]["content"]
        *_, answered, heard = asked(server, "coder")[1]["messages"]
        assert (answered["role"], answered["tool_call_id"]) == ("tool", "c1")
        assert "not run" in answered["content"]
        assert heard == {"role": "user", "content": "# Message from the reviewer\n\nREVISE: not that"}

    async def test_fences_still_run_where_a_model_writes_them(self, server: OpenAIServer) -> None:
        server.replies["coder"] = ["```python\nprint(4)\n```", DONE]
        result = await run(server, code_mode="tools", plan=False, review=False)
        assert [block.code for block in result.blocks] == ["print(4)\n"]

    async def test_code_that_is_also_shown_runs_once(self, server: OpenAIServer) -> None:
        shown = "I run this:\n\n```python\nprint(4)\n```\n\nand this\n\n~~~bash title=bash\nls"
        server.replies["coder"] = [Said(shown, (call(),)), DONE]
        result = await run(server, code_mode="tools", plan=False, review=False)
        assert [(block.language, block.code) for block in result.blocks] == [("python", "print(4)\n")]

    async def test_a_recorded_run_with_calls_replays(self, server: OpenAIServer, tmp_path: Path) -> None:
        server.replies["coder"] = [Said("", (call(),)), DONE]
        inner = OpenAIModel("gpt-4o-mini", base_url=server.url)
        first = await run(server, model=RecordingModel(inner, tmp_path / "run.jsonl"), code_mode="tools")
        again = await run(server, model=ReplayModel(tmp_path / "run.jsonl"), code_mode="tools")
        assert texts(first) == texts(again)
        assert [block.code for block in again.blocks] == ["print(4)\n"]
        message = next(e.message for e in again.events if isinstance(e, MessageAdded) and e.message.calls)
        assert message.calls == ("c1",)

    async def test_a_model_that_cannot_call_says_so(self) -> None:
        with pytest.raises(ValueError, match=r"'scripted' cannot call tools.*fences"):
            await solve("x", model=ScriptedModel([DONE]), executor="fake", code_mode="tools")

    @pytest.mark.parametrize(
        "arguments",
        [
            "",
            "not json",
            "[]",
            "{}",
            '{"code": ""}',
            '{"code": 7}',
            '{"code": "1", "language": "a b"}',
            '{"code": "1", "filename": "a\\nb"}',
            '{"code": "1", "filename": 7}',
            "[" * 100_000,
        ],
    )
    async def test_a_malformed_call_is_asked_for_again_and_then_ends_the_run(
        self, server: OpenAIServer, arguments: str
    ) -> None:
        bad = Said("", (("c1", "execute_code", arguments),))
        server.replies["coder"] = [bad, Said("", (call(),)), DONE]
        assert (await run(server, code_mode="tools", plan=False)).solved
        server.replies["coder"] = [bad] * 9
        result = await run(server, code_mode="tools", plan=False)
        assert (result.status, result.stop_reason) == ("model_failed", "model_failed")
        assert "cannot be run: " in result.message
        assert f"asked {ATTEMPTS} times" in result.message

    async def test_another_tool_than_ours_is_malformed(self, server: OpenAIServer) -> None:
        server.replies["coder"] = [Said("", (("c1", "browser", "{}"),))]
        result = await run(server, code_mode="tools", plan=False)
        assert "it called 'browser', and there is only 'execute_code'" in result.message

    @pytest.mark.parametrize(
        "code",
        ["a\r\nb\r\n", "a\rb\n", "\n\na\n", "\ta\n", "```\n````python\nx\n````\n", "a\x00b\n", "~~~\n", "é🙂\u2028\n"],
    )
    def test_code_comes_back_from_the_message_byte_for_byte(self, code: str) -> None:
        made = ToolCall("c1", "execute_code", json.dumps({"language": "bash", "code": code, "filename": "dir a/b.sh"}))
        message = message_of("coder", "Some text.\n\n- a list", [made])
        assert read_reply(message.content).blocks == (CodeBlock(code, "bash", "dir a/b.sh"),)
        text, (back,) = calls_of(message)
        assert text == "Some text.\n\n- a list"
        assert json.loads(back.arguments) == json.loads(made.arguments)

    def test_only_a_real_report_is_split(self) -> None:
        calls = [ToolCall("a", "execute_code", "{}"), ToolCall("b", "execute_code", "{}")]
        spoof = "## Block 1 of 2 (python): ok\n\n```text\n## Block 2 of 2 (python): ok\n```"
        heard = [Message(sender="executor", content=spoof)]
        results, rest = results_of(calls, heard)
        assert [result.content for result in results] == ["It was not run. See the next message."] * 2
        assert rest == heard

    def test_a_tool_that_is_unknown_raises(self) -> None:
        with pytest.raises(MalformedCall):
            message_of("coder", "", [ToolCall("a", "other", "{}")])
        assert EXECUTE_CODE.parameters["required"] == ["language", "code"]


class TestFailures:
    @pytest.mark.parametrize(
        ("bad", "words"),
        [
            ("", r"answered with nothing \(stop\)"),
            (" \n", "answered with nothing"),
            (Said("", finish="length"), r"nothing \(length\); give it a higher limit"),
            (Said(refusal="I must not."), r"declined to answer \(stop\): I must not\."),
            (Said("Half a se", finish="content_filter"), r"declined to answer \(content_filter\): Half a se"),
        ],
    )
    async def test_no_answer_is_asked_for_again_and_then_ends_the_run_with_all_kept(
        self, server: OpenAIServer, bad: str | Said, words: str
    ) -> None:
        server.replies["coder"] = [bad, bad, DONE]
        result = await run(server)
        assert result.solved
        assert [e.attempt for e in result.events if isinstance(e, ModelRetried)] == [1, 2]

        server.requests.clear()
        server.replies["coder"] = [bad]
        result = await run(server)
        assert (result.status, result.answer) == ("model_failed", None)
        assert len(asked(server, "coder")) == ATTEMPTS
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(result.message)
        assert [sender for sender, _ in texts(result)] == ["task", "planner"]
        assert result.agents["coder"].calls == ATTEMPTS

    async def test_a_cache_keeps_no_call_that_is_malformed(self, server: OpenAIServer, tmp_path: Path) -> None:
        server.replies["coder"] = [Said("", (("c1", "execute_code", "{"),)), DONE]
        model = CachingModel(OpenAIModel("gpt-4o-mini", base_url=server.url), tmp_path)
        assert (await run(server, model=model, code_mode="tools")).solved


class TestAgentsModels:
    async def test_a_model_for_each_agent_and_what_each_used(self, server: OpenAIServer) -> None:
        models = {
            "reviewer": OpenAIModel("gpt-4o", base_url=server.url),
            "planner": OpenAIModel("m", base_url=server.url),
        }
        result = await run(server, models=models)
        for model in models.values():
            await model.close()
        assert {role: {r["model"] for r in asked(server, role)} for role in ("planner", "coder", "reviewer")} == {
            "planner": {"m"},
            "coder": {"gpt-4o-mini"},
            "reviewer": {"gpt-4o"},
        }
        agents = result.agents
        assert list(agents) == ["planner", "coder", "reviewer"]
        assert agents["planner"].cost is None
        assert agents["coder"].cost is not None
        assert agents["reviewer"].cost is not None
        assert agents["reviewer"].cost > agents["coder"].cost
        assert result.cost is None
        coder = agents["coder"].usage
        assert coder is not None
        assert (coder.cached_tokens, coder.reasoning_tokens) == (64, 7)
        assert result.usage == sum((a.usage for a in agents.values() if a.usage), start=type(coder)())
        shown = json.loads(result.model_dump_json())["agents"]["coder"]
        assert shown["usage"]["reasoning_tokens"] == 7
        assert isinstance(shown["cost"], float)

    async def test_names_are_made_into_models_and_closed(
        self, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        result = await solve("x", model="a", models={"reviewer": "responses:b"}, executor="fake")
        assert result.solved
        assert [request["model"] for request in server.requests] == ["a", "a", "b"]
        assert "input" in server.requests[-1]

    async def test_an_unknown_agent_is_named(self) -> None:
        models: Any = {"critic": "gpt-5"}
        with pytest.raises(ValueError, match=r"'critic'.*planner, coder, reviewer"):
            await solve("x", model=ScriptedModel([DONE]), models=models, executor="fake")

    async def test_answers_from_a_cache_are_told_apart_and_not_counted(
        self, server: OpenAIServer, tmp_path: Path
    ) -> None:
        results = []
        for _ in range(2):
            model = CachingModel(OpenAIModel("gpt-4o-mini", base_url=server.url), tmp_path)
            results.append(await run(server, model=model))
        first, second = results
        assert first.usage is not None
        assert first.usage.total_tokens == 360
        assert second.usage is not None
        assert second.usage.total_tokens == 0
        assert second.cost == 0
        assert [e.cached for e in second.events if isinstance(e, ModelCalled)] == [True] * 3
        assert len(server.requests) == 3


@pytest.mark.parametrize("name", ["planner", "coder", "coder_tools", "reviewer", "summary", "manager", "selector"])
def test_prompts_are_short_versioned_and_hold_an_example(name: str) -> None:
    prompt = load_prompt(name)
    assert prompt_version(name) >= 1
    assert "<!--" not in prompt
    assert "or example" in prompt
    assert len(prompt) < 3_000


async def test_an_agent_of_ones_own_takes_a_shape() -> None:
    model = ScriptedModel(["plain"])
    agent = ModelAgent("coder", model, "You are the coder.", shape=REVIEW)
    said: Sequence[Any] = [await agent.reply(Conversation("x", EventLog()))]
    assert said[0].content == "plain"
