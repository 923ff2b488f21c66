"""Teams as data."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentexec import solve
from agentexec.errors import SettingsError
from agentexec.events import MessageAdded, ModelCalled
from agentexec.models.openai import OpenAIModel
from agentexec.result import SolveResult
from agentexec.stops import Deadline, HandedTo, MaxMessages, MaxTurns, RepeatedCode, TextSeen
from agentexec.teamspec import AgentSpec, StopSpec, TeamSpec, dump_team, load_team, read_team
from sandboxes.fake import FakeExecutor
from tests.openai_server import OpenAIServer

TEAM = """
name = "desk"
pattern = "selector"

[[agents]]
name = "clerk"
prompt = "You are the clerk."
description = "asks"

[[agents]]
name = "coder"

[[agents]]
name = "executor"

[transitions]
task = ["clerk"]
clerk = ["coder"]
coder = ["executor", "clerk"]
executor = ["coder"]

[stop]
max_turns = 9
text = "ENOUGH"
"""
NESTED = """
pattern = "sequential"
[[agents]]
name = "panel"
kind = "team"
[agents.team]
pattern = "concurrent"
[[agents.team.agents]]
name = "ann"
prompt = "You are the ann."
[[agents.team.agents]]
name = "bob"
prompt = "You are the bob."
[[agents]]
name = "editor"
prompt = "You are the editor."
"""


async def run(spec: TeamSpec, server: OpenAIServer, **options: object) -> SolveResult:
    async with FakeExecutor(["1\n"]) as place:
        model = OpenAIModel("m", base_url=server.url, api_key="k")
        try:
            return await solve("Do it.", model=model, executor=place, team=spec, **options)  # type: ignore[arg-type]
        finally:
            await model.close()


def speakers(result: SolveResult) -> str:
    return " ".join(e.message.sender for e in result.events if isinstance(e, MessageAdded) and not e.team)


async def test_a_team_from_toml_solves(tmp_path: Path) -> None:
    (tmp_path / "team.toml").write_text(TEAM)
    with OpenAIServer() as server:
        server.replies = {
            "clerk": ["Please."],
            "coder": ["```python\nprint(1)\n```", "FINAL ANSWER: 1"],
            "selector": ["executor"],
        }
        result = await run(load_team(tmp_path / "team.toml"), server)
        assert (speakers(result), result.status, result.answer) == ("task clerk coder executor coder", "solved", "1")
        assert "- clerk: asks" in next(
            r["messages"][0]["content"] for r in server.requests if "selector" in r["messages"][0]["content"][:25]
        )
        assert "# The computer" in server.requests[0]["messages"][0]["content"]


async def test_nested_and_concurrent_from_json(tmp_path: Path) -> None:
    (tmp_path / "team.json").write_text(read_team(NESTED).model_dump_json())
    with OpenAIServer() as server:
        server.replies = {"ann": ["A."], "bob": ["B."], "editor": ["A and B."]}
        result = await run(load_team(tmp_path / "team.json"), server)
        assert (speakers(result), result.answer) == ("task panel editor", "A and B.")
        assert {e.agent for e in result.events if isinstance(e, ModelCalled)} == {"ann", "bob", "editor"}


async def test_a_nested_team_with_a_manager_has_its_own_name() -> None:
    inner = TeamSpec(pattern="ledger", agents=(AgentSpec(name="ann", prompt="You are the ann."),))
    outer = TeamSpec(pattern="sequential", agents=(AgentSpec(name="desk", kind="team", team=inner),))
    with OpenAIServer({"manager": ["SATISFIED: yes\nFINAL ANSWER: 1"]}) as server:
        result = await run(outer, server)
    assert (speakers(result), result.answer) == ("task desk", "1")


async def test_its_stop_conditions_hold() -> None:
    with OpenAIServer() as server:
        server.replies = {"ann": ["ENOUGH of this"]}
        spec = read_team(
            'pattern = "round_robin"\nstop = {text = "ENOUGH"}\nagents = [{name = "ann", prompt = "You are the ann."}]'
        )
        assert (await run(spec, server)).stop_reason == "text"


@pytest.mark.parametrize(
    ("pattern", "names", "extra", "said"),
    [
        ("solve", ["coder", "executor", "planner"], "", "task planner coder"),
        (
            "graph",
            ["coder", "executor"],
            '[[edges]]\nsource = "coder"\ntarget = "executor"\nwhen = "has_code"',
            "task coder",
        ),
        ("handoff", ["coder", "executor"], "", "task coder"),
        ("ledger", ["coder", "executor"], "", "task manager"),
    ],
)
async def test_other_patterns(pattern: str, names: list[str], extra: str, said: str) -> None:
    agents = "".join(f'[[agents]]\nname = "{name}"\n' for name in names)
    with OpenAIServer() as server:
        server.replies = {"*": ["FINAL ANSWER: 1"], "planner": ["1. Do it."]}
        server.replies["team"] = ["SATISFIED: yes\nFINAL ANSWER: 1"]
        result = await run(read_team(f'pattern = "{pattern}"\n{agents}{extra}'), server)
        assert speakers(result).replace("team", "manager") == said
        assert result.answer == "1"


def test_stop_conditions_as_data() -> None:
    spec = StopSpec(
        max_turns=5,
        max_messages={"ann": 3},
        handoff="user",
        max_repeats=2,
        all=(StopSpec(deadline=9), StopSpec(text="x", max_turns=3)),
    )
    both = Deadline(9) & (MaxTurns(3) | TextSeen("x"))
    assert spec.build() == MaxTurns(5) | RepeatedCode(2) | HandedTo("user") | MaxMessages(3, "ann") | both
    assert StopSpec().build() is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pattern =", "not valid TOML"),
        ('pattern = "chaos"\n[[agents]]\nname = "coder"', "pattern: .*'round_robin'"),
        ('pattern = "graph"\n[[agents]]\nname = "coder"', "edges: .*needs some"),
        ('pattern = "sequential"\nagents = []', "agents: .*at least 1"),
        ('pattern = "sequential"\n[[agents]]\nname = "ann"', r"agents\.0: agent 'ann' needs a prompt"),
        ('pattern = "sequential"\n[[agents]]\nname = "ann"\nprompt = "x"\nmodle = "y"', r"agents\.0\.modle: "),
        ('pattern = "sequential"\n[[agents]]\nname = "a b"\nprompt = "x"', r"agents\.0\.name: "),
        ('pattern = "sequential"\n[[agents]]\nname = "coder"\n[[agents]]\nname = "coder"', "names must differ"),
        (
            'pattern = "selector"\ntransitions = {x = ["coder"]}\n[[agents]]\nname = "coder"',
            "'x' is none of the agents",
        ),
        ('pattern = "sequential"\nstop = {max_turns = 0}\n[[agents]]\nname = "coder"', r"stop\.max_turns: "),
        ('pattern = "solve"\n[[agents]]\nname = "coder"', "needs a coder and an executor"),
        ('pattern = "sequential"\n[[agents]]\nname = "x"\nkind = "team"', "needs a table 'team'"),
        ("a = " + "[" * 5000, "not valid TOML"),
        (
            'patern = "sequential"\npattern = "sequential"\n[[agents]]\nname = "ann"\nprompt = "x"\n',
            "^the team: patern: there is no such key; did you mean pattern\\?$",
        ),
        (
            'pattern = "sequential"\n[[agents]]\nname = "ann"\nprompt = "x"\n[stop]\nnonsense = 1',
            "stop\\.nonsense: there is no such key; there are max_turns, ",
        ),
        ('[[agents]]\nname = "ann"\nprompt = "x"\n', "pattern is missing, one of solve, round_robin"),
        ('pattern = "sequential"\n[agents]\nname = "ann"', "agents: is a list of tables; write \\[\\[agents\\]\\]"),
        ('pattern = "sequential"\n[[agents]]\nname = "a b"\nprompt = "x"', "'a b' is no name; write letters[^;]*$"),
        (
            'pattern = "sequential"\n[[agents]]\nname = "ann"\nprompt = "x"\n[[agents]]\nname = "executor"',
            "runs the code of 'coder'; set author to one of ann",
        ),
        ('pattern = "ledger"\n[[agents]]\nname = "executor"', "needs more than an executor"),
        ('pattern = "ledger"\n[[agents]]\nname = "manager"\nprompt = "x"', "call the agent something else"),
        (
            'pattern = "sequential"\n[[agents]]\nname = "ann"\nprompt = "x"\n[stop]\nsource = ["bob"]',
            "stop: 'bob' is none of the agents ann",
        ),
        (
            'pattern = "sequential"\n[[agents]]\nname = "ann"\nprompt = "x"\n[stop]\ndeadline = inf',
            "deadline: has to be a finite number",
        ),
        (
            NESTED.replace("concurrent", "foo"),
            "agents\\.0\\.team\\.pattern: 'foo' is none of",
        ),
    ],
)
def test_errors_name_the_key(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_team(text)


async def test_a_part_that_is_not_installed_is_named_with_those_that_are() -> None:
    with OpenAIServer() as server:
        for team in (
            'pattern = "sequential"\n[[agents]]\nname = "x"\nkind = "nowhere"',
            'pattern = "round_robin"\ndone = "nowhere"\n[[agents]]\nname = "coder"',
        ):
            with pytest.raises(SettingsError, match=r"called 'nowhere'; there are .*agentexec\.parts"):
                await run(read_team(team), server)


async def test_parts_of_others_come_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (tmp_path / "my_parts.py").write_text(
        "from agentexec import agent\n"
        "def parrot(parts, spec):\n"
        "    return agent(spec.name, lambda c: c[-1].content * spec.options['times'])\n"
        "def long(conversation):\n    return len(conversation) > 2\n"
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[agentexec.parts]\nparrot = my_parts:parrot\nlong = my_parts:long\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = read_team(
        'pattern = "round_robin"\ndone = "long"\n'
        'agents = [{name = "polly", kind = "parrot", options = {times = 2}}, {name = "bob", kind = "parrot", '
        "options = {times = 1}}]"
    )
    with OpenAIServer() as server:
        result = await run(spec, server)
    assert (speakers(result), result.answer) == ("task polly bob", "Do it.Do it.")


async def test_a_human_needs_somebody_to_ask() -> None:
    with OpenAIServer() as server, pytest.raises(ValueError, match="give human="):
        await run(read_team('pattern = "sequential"\n[[agents]]\nname = "human"'), server)


@pytest.mark.parametrize("text", [TEAM, NESTED])
def test_round_trips(text: str) -> None:
    spec = read_team(text)
    assert read_team(dump_team(spec)) == spec
    assert read_team(spec.model_dump_json(), json_text=True) == spec


@given(
    prompt=st.text(min_size=1),
    options=st.dictionaries(
        st.text(max_size=5), st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans(), max_size=3
    ),
    cost=st.decimals("0.01", 100, places=2),
)
def test_whatever_a_prompt_holds_round_trips(prompt: str, options: dict[str, str | int | bool], cost: Decimal) -> None:
    spec = TeamSpec(
        pattern="sequential",
        agents=(AgentSpec(name="ann", prompt=prompt, options=options),),
        stop=StopSpec(max_cost=cost, all=(StopSpec(text="x"),)),
    )
    assert read_team(dump_team(spec)) == spec
