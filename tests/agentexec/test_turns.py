"""The patterns, with a real HTTP model server whose replies are scripted by role."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agentexec import solve
from agentexec.agents import ExecutorAgent, ModelAgent
from agentexec.agents.human import HumanAgent
from agentexec.conversation import Agent, Conversation, converse
from agentexec.errors import ModelError, Suspended
from agentexec.events import (
    Answer,
    Event,
    Message,
    MessageAdded,
    ModelCalled,
    Question,
    QuestionAnswered,
    QuestionAsked,
)
from agentexec.human import Human, later
from agentexec.ledger import LedgerStall, managed, read_ledger
from agentexec.log import EventLog
from agentexec.markdown import handed_to
from agentexec.models.openai import OpenAIModel
from agentexec.models.retries import Retries
from agentexec.plan import Plan, follow_plan, read_steps
from agentexec.stops import HandedTo, MaxMessages, MaxTurns, Stop, StopWatch
from agentexec.team import Concurrent, Team, agent
from agentexec.turns import (
    Edge,
    approved,
    graph,
    handoff,
    has_code,
    negated,
    round_robin,
    says,
    selector,
    sequential,
    solve_cycle,
)
from sandboxes.fake import FakeExecutor
from sandboxes.types import Result
from tests.openai_server import Fault, OpenAIServer, error_body

CODE = "```python\nprint(1)\n```"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture
async def model(server: OpenAIServer) -> AsyncIterator[OpenAIModel]:
    made = OpenAIModel("m", base_url=server.url, api_key="k")
    yield made
    await made.close()


def speaker(name: str, model: OpenAIModel) -> ModelAgent:
    return ModelAgent(name, model, f"You are the {name}.")


async def talk(team: Team, *, turns: int = 20, log: EventLog | None = None) -> tuple[str, Stop | None]:
    """Let a team talk; return who spoke, by first letters, and what stopped it."""
    log = EventLog() if log is None else log
    condition = MaxTurns(turns) if team.stop is None else MaxTurns(turns) | team.stop
    watch = StopWatch(condition, past=log)
    log.subscribe(watch)
    conversation = Conversation.restore(log) if len(log) else Conversation("Do it.", log)
    stop = await converse(conversation, team.next_speaker, watch.stopped)
    return " ".join(message.sender for message in conversation), stop


async def test_two_agents_chat_until_one_answers(server: OpenAIServer, model: OpenAIModel) -> None:
    server.replies = {"ann": ["Is it 41?", "FINAL ANSWER: 42"], "bob": ["One more."]}
    chat = Team("chat", round_robin([speaker("ann", model), speaker("bob", model)]))
    assert await talk(chat) == ("task ann bob ann", None)


async def test_round_robin_goes_round_until_stopped(server: OpenAIServer, model: OpenAIModel) -> None:
    server.replies = {"*": ["Hm."]}
    names, stop = await talk(Team("rounds", round_robin([speaker(name, model) for name in "abc"])), turns=4)
    assert names == "task a b c a"
    assert stop is not None
    assert stop.reason == "max_turns"


async def test_round_robin_with_a_condition_of_ones_own(server: OpenAIServer, model: OpenAIModel) -> None:
    server.replies = {"a": ["Hm."], "b": ["TERMINATE"]}
    agents = [speaker(name, model) for name in "ab"]
    assert await talk(Team("rounds", round_robin(agents, done=says("TERMINATE")))) == ("task a b", None)


async def test_sequential(server: OpenAIServer, model: OpenAIModel) -> None:
    server.replies = {"*": ["Hm."]}
    assert (await talk(Team("line", sequential([speaker(name, model) for name in "abc"]))))[0] == "task a b c"


@pytest.mark.parametrize("agents", [[], ["a", "a"], ["task"]])
def test_agents_need_names_of_their_own(agents: list[str]) -> None:
    with pytest.raises(ValueError, match="names of their own"):
        Concurrent("panel", [agent_named(name) for name in agents])
    for pattern in (round_robin, sequential):
        with pytest.raises(ValueError, match="names of their own"):
            pattern([agent_named(name) for name in agents])


def agent_named(name: str) -> Agent:
    class Named:
        async def reply(self, conversation: Conversation) -> str:
            return "Hm."

    named = Named()
    named.name = name  # type: ignore[attr-defined]
    return named  # type: ignore[return-value]


class TestSelector:
    async def test_a_model_chooses_and_its_calls_are_events(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {"selector": ["**cy**", '{"next": "ann"}'], "cy": ["Hm."], "ann": ["FINAL ANSWER: 1"]}
        agents = [speaker(name, model) for name in ("ann", "bob", "cy")]
        agents[1].description = "knows birds"
        log = EventLog()
        assert await talk(Team("t", selector(model, agents)), log=log) == ("task cy ann", None)
        assert [event.agent for event in log if isinstance(event, ModelCalled)] == ["selector", "cy", "selector", "ann"]
        schemas = [
            request.get("response_format", {}).get("json_schema", {}).get("schema") for request in server.requests
        ]
        assert [schema and "next" in schema["properties"] for schema in schemas] == [True, None, True, None]
        asked = server.requests[0]["messages"]
        assert "- bob: knows birds" in asked[0]["content"]
        assert "Who speaks next: ann, bob, cy?" in asked[-1]["content"]
        assert "Who speaks next: ann, bob?" in server.requests[2]["messages"][-1]["content"]

    async def test_transitions_narrow_the_choice_and_one_candidate_is_not_asked_about(
        self, server: OpenAIServer, model: OpenAIModel
    ) -> None:
        server.replies = {"selector": ["b"], "a": ["Hm."], "b": ["Hm."], "c": ["FINAL ANSWER: 1"]}
        agents = [speaker(name, model) for name in "abc"]
        pattern = selector(model, agents, transitions={"task": ["a"], "a": ["b", "c"], "b": ["c"]})
        assert (await talk(Team("t", pattern)))[0] == "task a b c"
        roles = [request["messages"][0]["content"][:15] for request in server.requests]
        assert roles.count("You are the sel") == 1

    async def test_nobody_may_follow_is_the_end(self, server: OpenAIServer, model: OpenAIModel) -> None:
        pattern = selector(model, [speaker("a", model), speaker("b", model)], transitions={"task": ["a"], "a": []})
        assert (await talk(Team("t", pattern)))[0] == "task a"

    @pytest.mark.parametrize("bad", ["nobody", "ann or cy", "joann"])
    async def test_a_bad_choice_is_asked_again_once_then_a_rule_decides(
        self, server: OpenAIServer, model: OpenAIModel, bad: str
    ) -> None:
        server.replies = {"selector": [bad, "bob", bad, bad], "bob": ["Hm."], "cy": ["FINAL ANSWER: 1"]}
        agents = [speaker(name, model) for name in ("ann", "bob", "cy")]
        assert (await talk(Team("t", selector(model, agents))))[0] == "task bob cy"
        assert len([r for r in server.requests if "selector" in r["messages"][0]["content"][:25]]) == 4
        assert f"{bad!r} names nobody who may speak now" in server.requests[1]["messages"][-1]["content"]

    async def test_a_limit_goes_before_the_question(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {"selector": ["a"], "a": ["Hm."]}
        await talk(Team("t", selector(model, [speaker("a", model), speaker("b", model)])), turns=1)
        assert len(server.requests) == 2

    def test_transitions_to_nobody_are_refused(self, model: OpenAIModel) -> None:
        with pytest.raises(ValueError, match="'x', which is none of"):
            selector(model, [speaker("a", model)], transitions={"a": ["x"]})


class TestHandoff:
    async def test_the_named_agent_goes_on_and_code_runs_at_once(
        self, server: OpenAIServer, model: OpenAIModel
    ) -> None:
        server.replies = {
            "clerk": ["I need a coder.\n\n**HANDOFF: coder**", "FINAL ANSWER: 1"],
            "coder": [CODE, "It printed 1.\nHANDOFF: clerk"],
        }
        async with FakeExecutor(["1\n"]) as place:
            agents = [speaker("clerk", model), speaker("coder", model)]
            pattern = handoff(agents, executor=ExecutorAgent(place))
            assert await talk(Team("t", pattern)) == ("task clerk coder executor coder clerk", None)

    async def test_without_or_to_nobody_the_same_agent_goes_on(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {"a": ["Hm.", "HANDOFF: nobody", "FINAL ANSWER: 1"]}
        assert (await talk(Team("t", handoff([speaker("a", model), speaker("b", model)]))))[0] == "task a a a"

    @pytest.mark.parametrize(
        ("text", "name"),
        [("HANDOFF: a", "a"), ("x\n> HANDOFF: a-b\n", "a-b"), ("HANDOFF: a\nHANDOFF: b", "b"), ("no HANDOFF: a", None)],
    )
    def test_reading(self, text: str, name: str | None) -> None:
        assert handed_to(text) == name

    async def test_a_circle_is_stopped(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {"a": ["HANDOFF: b"], "b": ["HANDOFF: a"]}
        team = Team("t", handoff([speaker("a", model), speaker("b", model)]), stop=MaxMessages(2, "b"))
        names, stop = await talk(team)
        assert names == "task a b a b"
        assert stop is not None
        assert stop.reason == "max_messages"

    def test_what_is_fenced_or_thought_hands_over_nothing(self) -> None:
        text = "<think>\nHANDOFF: x\n</think>\nHANDOFF: bob\n\n```text\nHANDOFF: eve\n```"
        assert handed_to(text) == "bob"
        assert handed_to("```python\nHANDOFF: eve\n```") is None
        assert handed_to("HANDOFF: ann\n\nHANDOFF: bob") == "bob"
        assert HandedTo("eve").step(False, MessageAdded(message=Message(sender="a", content=text))) is False


class TestExecutor:
    async def test_without_code_it_says_so_and_code_runs_once(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {"coder": [CODE], "critic": ["Hm."]}
        async with FakeExecutor(["1\n"]) as place:
            executor, log = ExecutorAgent(place), EventLog()
            order = sequential(
                [agent_of(executor, "before"), speaker("coder", model), executor, speaker("critic", model)]
            )
            await talk(Team("t", order), log=log)
            conversation = Conversation.restore(log)
            assert conversation[1].content == "Nothing was run: the coder has written nothing yet."
            assert "Nothing was run: the coder has written nothing new." in await said_by(executor, conversation)
            assert len(place.blocks) == 1


def agent_of(other: Agent, name: str) -> Agent:
    return agent(name, other.reply)


async def said_by(speaks: Agent, conversation: Conversation) -> str:
    reply = await speaks.reply(conversation)
    return reply if isinstance(reply, str) else reply.content


class TestGraph:
    async def test_conditions_and_a_cycle(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {"a": ["41", "42"], "judge": ["REVISE: one more", "APPROVE"], "printer": ["42"]}
        a, judge, printer = (speaker(name, model) for name in ("a", "judge", "printer"))
        edges = [Edge(a, judge), Edge(judge, printer, approved), Edge(judge, a, negated(approved))]
        assert await talk(Team("t", graph(a, edges))) == ("task a judge a judge printer", None)

    async def test_an_edge_to_nobody_ends_it(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {"a": ["Hm.", CODE]}
        a = speaker("a", model)
        assert (await talk(Team("t", graph(a, [Edge(a, None, has_code), Edge(a, a)]))))[0] == "task a a"

    async def test_agents_need_names_of_their_own(self) -> None:
        first, second = agent_named("a"), agent_named("a")
        with pytest.raises(ValueError, match="names of their own"):
            graph(first, [Edge(first, second)])
        graph(first, [Edge(first, first)])

    async def test_a_cycle_without_an_end_is_stopped(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {"*": ["Again."]}
        a, b = speaker("a", model), speaker("b", model)
        names, stop = await talk(Team("t", graph(a, [Edge(a, b), Edge(b, a)])), turns=5)
        assert names == "task a b a b a"
        assert stop is not None
        assert stop.reason == "max_turns"


class TestTeams:
    async def test_a_team_is_an_agent_with_a_conversation_and_limits_of_its_own(
        self, server: OpenAIServer, model: OpenAIModel
    ) -> None:
        server.replies = {"ann": ["a1", "a2", "a3", "a4"], "bob": ["b"], "first": ["Look."], "last": ["End."]}
        pair = Team("pair", round_robin([speaker("ann", model), speaker("bob", model)]), stop=MaxTurns(2))
        log = EventLog()
        line = sequential([speaker("first", model), pair, speaker("last", model)])
        assert (await talk(Team("t", line), log=log))[0] == "task first pair last"
        inner = [e for e in log if isinstance(e, MessageAdded) and e.team == "pair#2"]
        assert [e.message.sender for e in inner] == ["task", "ann", "bob"]
        assert inner[0].message.content == "Do it.\n\n# Message from the first\n\nLook."
        said = [e.message for e in log if isinstance(e, MessageAdded) and not e.team]
        assert said[2].content == "b\n\n(The team was stopped: no accepted answer after 2 turns (limit 2))"
        assert {e.team for e in log if isinstance(e, ModelCalled)} == {"", "pair#2"}
        turns = [e.message.turn for e in log if isinstance(e, MessageAdded)]
        assert sorted(turns) == list(range(len(turns)))

    async def test_its_limits_begin_anew_each_time_it_speaks(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {"*": ["Hm."]}
        pair = Team("pair", round_robin([speaker("a", model)]), stop=MaxTurns(2))
        log = EventLog()
        await talk(Team("t", round_robin([pair, speaker("z", model)])), log=log, turns=9)
        inner = [e.team for e in log if isinstance(e, MessageAdded) and e.team and e.message.sender == "a"]
        assert inner == ["pair#1"] * 2 + ["pair#3"] * 2 + ["pair#5"] * 2

    async def test_a_deadline_of_its_own(self, server: OpenAIServer, model: OpenAIModel) -> None:
        from agentexec.stops import Deadline

        server.slow = 5.0
        slow = Team("slow", round_robin([speaker("a", model)]), stop=Deadline(0.2))
        log = EventLog()
        assert (await talk(Team("t", sequential([slow])), log=log))[0] == "task slow"
        assert "(The team was stopped:" in [e.message.content for e in log if isinstance(e, MessageAdded)][-1]

    @pytest.mark.parametrize("kept", range(1, 16))
    async def test_goes_on_from_any_event_within_a_nested_team(
        self, server: OpenAIServer, model: OpenAIModel, kept: int
    ) -> None:
        replies = {"ann": ["a1", "a2"], "bob": ["b1"], "first": ["f"], "last": ["End."]}
        server.replies = {name: [*lines] for name, lines in replies.items()}

        def team() -> Team:
            pair = Team("pair", round_robin([speaker("ann", model), speaker("bob", model)]), stop=MaxTurns(3))
            return Team("t", sequential([speaker("first", model), pair, speaker("last", model)]))

        whole = EventLog()
        await talk(team(), log=whole)
        events = list(whole)[:kept]
        if not isinstance(events[-1], MessageAdded):
            events.pop()  # ModelCalled without its message: the model would be asked again
        said = [e.message for e in events if isinstance(e, MessageAdded)]
        for name, lines in replies.items():
            server.replies[name] = [*lines[sum(m.sender == name for m in said) :]] or [""]
        server._played.clear()
        again = EventLog(past=events)
        await talk(team(), log=again)
        assert [e.message for e in again if isinstance(e, MessageAdded)] == [
            e.message for e in whole if isinstance(e, MessageAdded)
        ]


class TestConcurrent:
    async def test_all_are_asked_at_once_and_joined(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.slow = 0.3
        server.replies = {name: [f"I am {name}."] for name in "abcd"}
        log = EventLog()
        panel = Concurrent("panel", [speaker(name, model) for name in "abcd"])
        await talk(Team("t", sequential([panel])), log=log)
        joined = [e.message.content for e in log if isinstance(e, MessageAdded)][-1]
        assert joined == "\n\n".join(f"# {name}\n\nI am {name}." for name in "abcd")
        assert max(server.times) - min(server.times) < 0.3  # the last was asked before the first was answered

    async def test_an_error_comes_once_all_have_ended_and_keeps_what_was_said(
        self, server: OpenAIServer, model: OpenAIModel
    ) -> None:
        def broken(conversation: Conversation) -> str:
            raise ModelError("down")

        async def wait(conversation: Conversation) -> str:
            raise Suspended("tomorrow")

        server.replies = {"a": ["Fine."]}
        log = EventLog()
        panel = Concurrent("panel", [agent("w", wait), agent("b", broken), speaker("a", model)])
        with pytest.raises(ModelError, match="down"):
            await talk(Team("t", sequential([panel])), log=log)
        assert [e.message.content for e in log if isinstance(e, MessageAdded) and e.team][-1] == "Fine."

    async def test_goes_on_with_those_who_had_not_answered(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {"a": ["Fine."]}
        human = HumanAgent(Human(later))
        panel = Team("t", sequential([Concurrent("panel", [speaker("a", model), human])]))
        log = EventLog()
        with pytest.raises(Suspended):
            await talk(panel, log=log)
        answer = QuestionAnswered(id="input-0", answer=Answer(decision="answer", text="Good."))
        again = EventLog(past=[*log, answer])
        await talk(panel, log=again)
        assert [e.message.content for e in again if isinstance(e, MessageAdded)][-1] == (
            "# a\n\nFine.\n\n# human\n\nGood."
        )
        assert len(server.requests) == 1

    async def test_two_people_are_told_apart(self) -> None:
        asked: list[str] = []

        def answers(name: str) -> HumanAgent:
            def ask(question: Question) -> str:
                asked.append(question.id)
                return f"I am {name}."

            return HumanAgent(Human(ask), name)

        log = EventLog()
        await talk(Team("t", sequential([Concurrent("panel", [answers("ann"), answers("bob")])])), log=log)
        assert asked == ["input-0-ann", "input-0-bob"]
        assert [event.question.id for event in log if isinstance(event, QuestionAsked)] == asked

    async def test_a_model_that_is_down_in_a_nested_team_ends_the_run_with_all_kept(self, server: OpenAIServer) -> None:
        server.replies = {"a": ["First."], "b": ["Second."]}
        model = OpenAIModel("m", base_url=server.url, api_key="k", retries=Retries(attempts=1))
        inner = Team("inner", sequential([speaker("a", model), speaker("b", model)]))
        outer = Team("outer", sequential([Concurrent("panel", [inner])]))

        def down_after_the_first(event: Event) -> None:
            if isinstance(event, MessageAdded) and event.message.sender == "a":
                server.faults.append(Fault("status", status=503, body=error_body("down")))

        async with FakeExecutor() as place:
            result = await solve(
                "T", model=model, executor=place, team=lambda parts: outer, on_event=down_after_the_first
            )
            assert (result.status, result.stop_reason) == ("model_failed", "model_failed")
            assert "down" in result.message
            kept = [(e.team, e.message.sender) for e in result.events if isinstance(e, MessageAdded)]
            assert kept[-1] == ("inner#1", "a")
            server.faults.clear()
            again = await solve("T", model=model, executor=place, team=lambda parts: outer, resume=result.events)
        await model.close()
        assert again.status == "solved"
        assert [request["messages"][0]["content"] for request in server.requests].count("You are the a.") == 1


def entry(
    satisfied: str = "no", loop: str = "no", progress: str = "yes", next_: str = "coder", do: str = "Go on."
) -> str:
    return f"SATISFIED: {satisfied}\nLOOP: {loop}\nPROGRESS: {progress}\nNEXT: {next_}\nINSTRUCTION: {do}"


class TestManager:
    async def test_leads_to_the_answer_and_code_runs_in_between(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {
            "manager": ["1. Compute.\n\n" + entry(), entry(next_="critic"), "SATISFIED: yes\nFINAL ANSWER: 1"],
            "coder": [CODE],
            "critic": ["Right."],
        }
        async with FakeExecutor(["1\n"]) as place:
            team = managed(model, [speaker("coder", model), speaker("critic", model)], executor=ExecutorAgent(place))
            log = EventLog()
            assert await talk(team, log=log) == ("task manager coder executor manager critic manager", None)
            assert team.answer(Conversation.restore(log)) == "1"

    async def test_a_loop_is_noticed_replanned_and_at_last_given_up(
        self, server: OpenAIServer, model: OpenAIModel
    ) -> None:
        server.replies = {"manager": [entry(), entry(loop="yes", progress="no")], "coder": ["Hm."]}
        log = EventLog()
        names, stop = await talk(managed(model, [speaker("coder", model)], stalls=2, replans=1), log=log, turns=50)
        assert stop is not None
        assert (stop.reason, names.count("manager")) == ("stall", 5)
        mine = [e.message.content for e in log if isinstance(e, MessageAdded) and e.message.sender == "manager"]
        assert [content.startswith("# New plan") for content in mine] == [False, False, False, True, False]
        asked = [r["messages"][-1]["content"] for r in server.requests if "manager" in r["messages"][0]["content"][:25]]
        assert ["The team is stuck" in text for text in asked] == [False, False, False, True, False]

    async def test_progress_forgets_the_stalls(self, server: OpenAIServer, model: OpenAIModel) -> None:
        stuck = entry(progress="no")
        server.replies = {"manager": [stuck, entry(), stuck, entry(), "FINAL ANSWER: 1"], "coder": ["Hm."]}
        assert (await talk(managed(model, [speaker("coder", model)], stalls=1, replans=1), turns=50))[1] is None

    @pytest.mark.parametrize("bad", ["I think we are fine.", entry(next_="nobody")])
    async def test_no_ledger_is_asked_for_once_more_then_a_rule_decides(
        self, server: OpenAIServer, model: OpenAIModel, bad: str
    ) -> None:
        server.replies = {
            "manager": [bad, bad, entry(next_="critic"), "FINAL ANSWER: 1"],
            "coder": ["Hm."],
            "critic": [""],
        }
        server.replies["critic"] = ["Fine."]
        team = managed(model, [speaker("coder", model), speaker("critic", model)])
        assert (await talk(team))[0] == "task manager coder manager critic manager"

    async def test_is_asked_for_json_and_speaks_in_words(self, server: OpenAIServer, model: OpenAIModel) -> None:
        step = {"plan": "1. Guess.", "satisfied": False, "loop": False, "progress": True}
        step |= {"next": "critic", "instruction": "Guess.", "answer": ""}
        done = step | {"plan": "", "satisfied": True, "next": "", "instruction": "", "answer": "It is 42.\nReally."}
        server.replies = {"manager": [json.dumps(step), json.dumps(done)], "critic": ["42?"]}
        team, log = managed(model, [speaker("coder", model), speaker("critic", model)]), EventLog()
        assert await talk(team, log=log) == ("task manager critic manager", None)
        conversation = Conversation.restore(log)
        assert conversation[1].content == (
            "1. Guess.\n\nSATISFIED: no\nLOOP: no\nPROGRESS: yes\nNEXT: critic\nINSTRUCTION: Guess."
        )
        assert team.answer(conversation) == "It is 42.\nReally."
        wanted = server.requests[0]["response_format"]["json_schema"]
        assert (wanted["name"], wanted["strict"]) == ("ledger", True)
        assert wanted["schema"]["properties"]["next"]["enum"] == ["coder", "critic", ""]
        assert sorted(wanted["schema"]["required"]) == sorted(wanted["schema"]["properties"])
        assert server.requests[2]["messages"][2]["content"] == conversation[1].content  # what it said, as it said it

    async def test_a_server_that_knows_no_formats_is_asked_in_words(
        self, server: OpenAIServer, model: OpenAIModel
    ) -> None:
        server.refuse_formats = True
        server.replies = {"manager": [entry(), "SATISFIED: yes\nFINAL ANSWER: 1"], "coder": ["Hm."]}
        assert (await talk(managed(model, [speaker("coder", model)])))[0] == "task manager coder manager"

    @pytest.mark.parametrize(
        "bad",
        [
            "{}",
            "[]",
            "null",
            '{"satisfied": true}',
            '{"plan": "", "satisfied": "perhaps", "loop": false, "progress": true, "next": "coder"}',
            '{"plan": 1, "satisfied": false, "loop": false, "progress": true, "next": "coder", "instruction": "", '
            '"answer": ""}',
            '{"plan": "", "satisfied": false, "loop": [], "progress": {}, "next": null, "instruction": 7, "answer": 0}',
            "SATISFIED: yes",
            '{"plan": "", "satisfied": true, "loop": false, "progress": true, "next": "", "instruction": "", '
            '"answer": " "}',
        ],
    )
    async def test_json_that_is_no_ledger_is_asked_for_once_more(
        self, server: OpenAIServer, model: OpenAIModel, bad: str
    ) -> None:
        server.replies = {"manager": [bad, "SATISFIED: yes\nFINAL ANSWER: 1"], "coder": ["Hm."]}
        team, log = managed(model, [speaker("coder", model)]), EventLog()
        assert await talk(team, log=log) == ("task manager", None)
        assert team.answer(Conversation.restore(log)) == "1"
        assert "Write it again" in server.requests[1]["messages"][-1]["content"]

    def test_the_managers_name_is_its_own(self, model: OpenAIModel) -> None:
        with pytest.raises(ValueError, match="the manager's name, 'manager'"):
            managed(model, [speaker("manager", model)])

    @pytest.mark.parametrize(
        "text",
        [
            entry(),
            entry().replace(": ", ":** ").replace("\n", "\n**"),
            '{"satisfied": "no", "loop": "no",\n"progress": "yes",\n"next": "coder",\n"instruction": "Go on."}',
            "Notes: PROGRESS was made.\n" + entry(),
            entry().lower(),
        ],
    )
    def test_reading_a_ledger(self, text: str) -> None:
        ledger = read_ledger(text)
        assert ledger is not None
        assert (ledger.satisfied, ledger.stalled, ledger.next) == (False, False, "coder")

    async def test_a_manager_that_never_gives_the_answer_comes_to_an_end_without_one(
        self, server: OpenAIServer, model: OpenAIModel
    ) -> None:
        server.replies = {"manager": ["SATISFIED: yes"], "coder": ["Hm."]}
        names, stop = await talk(managed(model, [speaker("coder", model)], stalls=1, replans=1))
        assert names == "task manager coder manager"
        assert stop is not None
        assert stop.reason == "stall"

    def test_what_is_no_ledger(self) -> None:
        assert read_ledger("We are making progress.") is None
        ended = read_ledger("FINAL ANSWER: 1")
        assert ended is not None
        assert ended.satisfied
        assert LedgerStall(1).check(0, 0.0) is None


class TestSolveCycle:
    async def test_a_plan_that_is_stuck_is_written_anew(self, server: OpenAIServer, model: OpenAIModel) -> None:
        server.replies = {
            "planner": ["1. Guess.", "1. Compute."],
            "coder": ["```python\n1\n```", "```python\n2\n```", "```python\n3\n```", "FINAL ANSWER: 1"],
        }
        async with FakeExecutor([Result(verdict="failed", exit_code=1)] * 3) as place:
            cycle = solve_cycle(
                planner=speaker("planner", model),
                coder=speaker("coder", model),
                executor=ExecutorAgent(place),
                replan_after=3,
            )
            names, _ = await talk(Team("t", cycle))
        assert names == f"task planner{' coder executor' * 3} planner coder"


class TestPlan:
    def test_reading_lists(self) -> None:
        assert [s.text for s in read_steps("Plan:\n\n1. Look.\n2) **Count** them.\n\nGood luck.")] == [
            "Look.",
            "**Count** them.",
        ]
        assert [(s.text, s.done) for s in read_steps("- [x] Look.\n* [ ] Count.\n- note")] == [
            ("Look.", True),
            ("Count.", False),
        ]
        assert [s.text for s in read_steps("- Look.\n- Count.")] == ["Look.", "Count."]
        assert read_steps("No list.\n\n```\n1. code\n```") == ()

    def test_is_ticked_off_and_replaced(self) -> None:
        log = EventLog()
        seen: list[list[tuple[str, bool]]] = []

        def listen(event: Event) -> None:
            if event.__class__.__name__ == "PlanUpdated":
                seen.append([(step.text, step.done) for step in event.steps])  # type: ignore[attr-defined]

        follow_plan(log)
        log.subscribe(listen)
        conversation = Conversation("1. A task\n2. of lines", log)
        conversation.add("planner", "1. Look.\n2. Count.\n3. Answer.")
        conversation.add("coder", "I look.")
        conversation.add("executor", "DONE: 3")
        conversation.add("coder", "DONE: 1\n\n```python\n# DONE: 3\n```")
        conversation.add("coder", "- [x] Count.\n- [ ] Answer.")
        conversation.add("planner", "1. look\n2. Guess.")
        assert seen == [
            [("Look.", False), ("Count.", False), ("Answer.", False)],
            [("Look.", True), ("Count.", False), ("Answer.", False)],
            [("Look.", True), ("Count.", True), ("Answer.", False)],
            [("look", True), ("Guess.", False)],
        ]
        folded = Plan()
        for event in log:
            folded = folded.after(event)
        assert [(step.text, step.done) for step in folded.steps] == seen[-1]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("solve_cycle", "solved 42"),
        ("two_agent_chat", "task > ann > bob > ann => 42"),
        ("all_in_turn", "task > ann > bob > eve > ann => 42"),
        ("model_selects", "task > writer > checker > writer => 42"),
        ("hand_off", "task > clerk > coder > executor > coder > clerk => 42"),
        ("graph_with_a_cycle", "task > writer > judge > writer > judge > printer => 42"),
        ("one_after_the_other", "task > first > pair => 42!"),
        ("at_the_same_time", "task > votes => 42"),
        ("human_in_the_loop", "print(6 * 7) 42 => 42"),
        ("team_as_data", "task > coder > executor > coder => 42"),
        ("manager_with_a_ledger", "task > manager > worker > manager > worker > manager > worker > manager => 42"),
    ],
)
def test_examples(name: str, shown: str, examples: dict[str, str]) -> None:
    assert examples[name].startswith(shown)


@pytest.fixture(scope="module")
def examples() -> dict[str, str]:
    """What each example prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples/patterns.py"], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
