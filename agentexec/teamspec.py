"""Teams as data: who takes part, who speaks when, and when it ends, as TOML or JSON.

    result = await solve(task, model="gpt-5-mini", team=load_team("team.toml"))

A file names parts, it brings no code: built-in ones, or those that an installed distribution offers as an entry point
in group `agentexec.parts`. Read such a file only from where you would take settings, never from a sandbox's workspace.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentexec import stops, turns
from agentexec.agents.human import PlanReview
from agentexec.conversation import Agent, NextSpeaker
from agentexec.errors import SettingsError
from agentexec.ledger import MANAGER, managed
from agentexec.parts import Parts
from agentexec.team import Concurrent, Team

GROUP = "agentexec.parts"
"""Entry points: an agent is a function of `Parts` and `AgentSpec`, a condition of an edge one of the conversation."""

CONDITIONS: Mapping[str, turns.Condition] = {
    "answered": turns.answered,
    "approved": turns.approved,
    "has_code": turns.has_code,
    "not_answered": turns.negated(turns.answered),
    "not_approved": turns.negated(turns.approved),
    "no_code": turns.negated(turns.has_code),
}
KINDS = ("coder", "executor", "human", "model", "plan_review", "planner", "reviewer", "team")

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z_][\w-]*$")]
Count = Annotated[int, Field(gt=0)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StopSpec(_Spec):
    """When to stop: at any of what is set; see `agentexec.stops`.

    `max_messages` is a table of agents' names and numbers. `all` is reached while all of its tables are.
    """

    max_turns: Count | None = None
    max_messages: dict[Name, Count] = {}
    max_tokens: Count | None = None
    max_cost: Annotated[Decimal, Field(gt=0)] | None = None
    deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_failures: Count | None = None
    max_repeats: Count | None = None
    max_same_errors: Count | None = None
    nudges: Annotated[int, Field(ge=0)] | None = None
    text: Annotated[str, Field(min_length=1)] | None = None
    handoff: Name | None = None
    source: tuple[Name, ...] | None = None
    all: tuple[StopSpec, ...] = ()

    def names(self) -> set[str]:
        """Return the agents whose messages matter."""
        return {*self.max_messages, *(self.source or ()), *(name for part in self.all for name in part.names())}

    def build(self) -> stops.AnyStop | None:
        """Return the condition, or None if nothing is set."""
        makers: dict[str, Callable[[Any], stops.AnyStop]] = {
            "max_turns": stops.MaxTurns,
            "max_tokens": stops.MaxTokens,
            "max_cost": stops.MaxCost,
            "deadline": stops.Deadline,
            "max_failures": stops.ConsecutiveFailures,
            "max_repeats": stops.RepeatedCode,
            "max_same_errors": stops.RepeatedError,
            "nudges": stops.Stall,
            "text": stops.TextSeen,
            "handoff": stops.HandedTo,
            "source": stops.SourceSpoke,
        }
        any_of = [make(value) for name, make in makers.items() if (value := getattr(self, name)) is not None]
        any_of += [stops.MaxMessages(count, sender) for sender, count in self.max_messages.items()]
        every = [condition for part in self.all if (condition := part.build()) is not None]
        if every:
            both = every[0]
            for condition in every[1:]:
                both = both & condition
            any_of.append(both)
        result: stops.AnyStop | None = None
        for condition in any_of:
            result = condition if result is None else result | condition
        return result


class AgentSpec(_Spec):
    """One agent.

    Attributes:
        name: Sender of its messages.
        kind: What it is: one of `KINDS`, or the name of an entry point. None takes `name` if that is a kind, else
            `model`.
        prompt: System prompt; None takes that of the role (`planner`, `coder`, `reviewer`).
        model: Name of its model, as for `--model`; None takes the run's.
        description: What it is for, for a model that selects.
        author: `executor`: whose code it runs.
        team: `team`: the nested team.
        options: For a part by entry point.
    """

    name: Name
    kind: Name | None = None
    prompt: str | None = None
    model: Annotated[str, Field(min_length=1)] | None = None
    description: str = ""
    author: Name = "coder"
    team: TeamSpec | None = None
    options: dict[str, str | int | float | bool] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.what == "team") != (self.team is not None):
            raise ValueError("kind 'team' needs a table 'team', and no other kind has one")
        if self.what == "model" and not self.prompt:
            raise ValueError(f"agent {self.name!r} needs a prompt, or a kind: {', '.join(KINDS)}, or an entry point")
        return self

    @property
    def what(self) -> str:
        """The kind."""
        return self.kind or (self.name if self.name in KINDS else "model")

    def build(self, parts: Parts) -> Agent:
        """Make the agent."""
        made: Agent
        if self.what == "executor":
            made = parts.executor(self.author, self.name)
        elif self.what == "human":
            made = parts.human(self.name)
        elif self.what == "plan_review":
            made = PlanReview(parts.human(self.name).human, self.name)
        elif self.team is not None:
            made = self.team.build(parts, self.name, self.description)
        elif self.what in ("model", *parts.prompts):
            role = next((role for role in parts.prompts if role == self.what), None)
            made = parts.agent(self.name, self.prompt, model=self.model, role=role)
            made.description = self.description
        else:
            made = _custom(self.what, "kind")(parts, self)
        return made


class EdgeSpec(_Spec):
    """From one agent to the next; without `target`, the conversation ends there.

    Attributes:
        when: One of `CONDITIONS`, `says:TEXT`, or an entry point; None is always.
    """

    source: Name
    target: Name | None = None
    when: str | None = None

    def build(self, named: Mapping[str, Agent]) -> turns.Edge:
        """Make the edge."""
        return turns.Edge(named[self.source], named[self.target] if self.target else None, _condition(self.when))


class TeamSpec(_Spec):
    """A team as a value. It is what `solve(team=...)` takes.

    Attributes:
        name: The team's.
        pattern: Who speaks when. `concurrent` asks all at once, `ledger` has a manager lead.
        agents: Who takes part; the first begins, where the pattern does not say.
        transitions: `selector`: speaker to those who may follow.
        edges: `graph`: the edges; the first agent begins.
        done: When the conversation ends: a condition, as in edges. For `round_robin`, `selector`, `handoff`.
        model: `selector`, `ledger`: name of the model that chooses or manages; None takes the run's.
        stalls: `ledger`: entries without progress before a new plan.
        replans: `ledger`: new plans before the end.
        stop: When it is stopped.
    """

    name: Name = "team"
    pattern: Literal["solve", "round_robin", "sequential", "selector", "handoff", "graph", "ledger", "concurrent"]
    agents: Annotated[tuple[AgentSpec, ...], Field(min_length=1, max_length=64)]
    transitions: dict[Name, tuple[Name, ...]] = {}
    edges: tuple[EdgeSpec, ...] = ()
    done: str = "answered"
    model: Annotated[str, Field(min_length=1)] | None = None
    stalls: Count = 3
    replans: Annotated[int, Field(ge=0)] = 2
    stop: StopSpec = StopSpec()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [agent.name for agent in self.agents]
        if len(set(names)) < len(names) or "task" in names:
            raise ValueError(f"agents: names must differ from each other and from 'task': {', '.join(names)}")
        for edge in self.edges:
            for end in {edge.source, edge.target} - {None}:
                if end not in names:
                    raise ValueError(f"edges: {end!r} is none of the agents {', '.join(names)}")
        for other in {*self.transitions, *(name for follow in self.transitions.values() for name in follow)}:
            if other not in (*names, "task"):
                raise ValueError(f"transitions: {other!r} is none of the agents {', '.join(names)}")
        if (self.pattern == "graph") != bool(self.edges):
            raise ValueError("edges: the pattern 'graph' needs some, and no other has them")
        if self.transitions and self.pattern != "selector":
            raise ValueError("transitions: only for the pattern 'selector'")
        kinds = {agent.what for agent in self.agents}
        if self.pattern == "solve" and not {"coder", "executor"} <= kinds:
            raise ValueError("agents: the pattern 'solve' needs a coder and an executor")
        if self.pattern in ("handoff", "ledger") and kinds == {"executor"}:
            raise ValueError(f"agents: the pattern {self.pattern!r} needs more than an executor")
        if self.pattern == "ledger" and MANAGER in names:
            raise ValueError(f"agents: {MANAGER!r} is who leads the pattern 'ledger'; call the agent something else")
        for agent in self.agents:
            # Of what is asked all at once, each hears the conversation around the team, where others may write code.
            if agent.what == "executor" and self.pattern != "concurrent" and agent.author not in names:
                others = ", ".join(name for name in names if name != agent.name)
                raise ValueError(
                    f"agents: {agent.name!r} runs the code of {agent.author!r}; set author to one of {others}"
                )
        everybody = {*self._names()}
        for name in self.stop.names():
            if name not in everybody:
                raise ValueError(f"stop: {name!r} is none of the agents {', '.join(sorted(everybody))}")
        return self

    def _names(self) -> Iterator[str]:
        """Yield who speaks in the team and within those nested in it."""
        yield from [MANAGER] if self.pattern == "ledger" else []
        for agent in self.agents:
            yield agent.name
            if agent.team is not None:
                yield from agent.team._names()

    def __call__(self, parts: Parts) -> Team:
        """Make the team of a run's parts.

        Raises:
            SettingsError: a part that it names is not installed.
            ValueError: it has a human, and there is nobody to ask.
        """
        made = self.build(parts, self.name)
        return made if isinstance(made, Team) else Team(self.name, turns.sequential([made]))

    def build(self, parts: Parts, name: str, description: str = "") -> Team | Concurrent:
        """Make the team as an agent of this name."""
        agents = [spec.build(parts) for spec in self.agents]
        if self.pattern == "concurrent":
            return Concurrent(name, agents, description=description)
        stop = self.stop.build()
        if self.pattern == "ledger":
            executor = self._kind("executor", agents)
            workers = [agent for agent in agents if agent is not executor]
            model, stalls, replans = parts.model(self.model), self.stalls, self.replans
            team = managed(model, workers, executor=executor, stalls=stalls, replans=replans, stop=stop)
            return replace(team, name=name, description=description)
        return Team(name, self._order(parts, agents), stop=stop, description=description)

    def _order(self, parts: Parts, agents: list[Agent]) -> NextSpeaker:
        done = _condition(self.done) or turns.answered
        if self.pattern == "round_robin":
            return turns.round_robin(agents, done=done)
        if self.pattern == "sequential":
            return turns.sequential(agents)
        if self.pattern == "selector":
            return turns.selector(parts.model(self.model), agents, transitions=self.transitions, done=done)
        if self.pattern == "graph":
            named = turns.by_name(agents)
            return turns.graph(agents[0], [edge.build(named) for edge in self.edges])
        executor = self._kind("executor", agents)
        if self.pattern == "handoff":
            return turns.handoff([agent for agent in agents if agent is not executor], executor=executor, done=done)
        coder = self._kind("coder", agents)
        assert coder is not None
        assert executor is not None
        planner, human, reviewer = (self._kind(what, agents) for what in ("planner", "plan_review", "reviewer"))
        return turns.solve_cycle(coder=coder, executor=executor, planner=planner, human=human, reviewer=reviewer)

    def _kind(self, what: str, agents: list[Agent]) -> Agent | None:
        return next((agent for spec, agent in zip(self.agents, agents, strict=True) if spec.what == what), None)


def _condition(name: str | None) -> turns.Condition | None:
    if name is None:
        return None
    if name.startswith("says:"):
        return turns.says(name.removeprefix("says:"))
    return CONDITIONS[name] if name in CONDITIONS else _custom(name, "condition")


def _custom(name: str, what: str) -> Callable[..., Any]:
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        known = ", ".join(sorted([*(KINDS if what == "kind" else CONDITIONS), *entry_points(group=GROUP).names]))
        raise SettingsError(f"no {what} is called {name!r}; there are {known} (more come by entry points in {GROUP!r})")
    part: Callable[..., Any] = found[0].load()
    return part


def read_team(text: str, *, json_text: bool = False, source: str = "the team") -> TeamSpec:
    """Read a team from TOML or JSON.

    Raises:
        SettingsError: it is neither, or no team; the message names the key.
    """
    try:
        return TeamSpec.model_validate(json.loads(text) if json_text else tomllib.loads(text))
    except ValidationError as error:
        raise SettingsError(f"{source}: {'; '.join(_explain(error.errors()))}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{source} is not valid {'JSON' if json_text else 'TOML'}: {error}") from None


_TABLES: Mapping[str, type[_Spec]] = {
    "agents": AgentSpec,
    "edges": EdgeSpec,
    "stop": StopSpec,
    "all": StopSpec,
    "team": TeamSpec,
}


def _explain(problems: Sequence[Any]) -> Iterator[str]:
    """Yield a line for each problem: which key, and what to write."""
    for problem in problems:
        place, kind, value = problem["loc"], problem["type"], problem["input"]
        key = ".".join(str(part) for part in place)
        if kind == "too_short" and any(other["loc"][: len(place)] == place != other["loc"] for other in problems):
            continue  # what is wrong within it is told already
        if kind == "extra_forbidden":
            table = next((_TABLES[part] for part in reversed(place[:-1]) if part in _TABLES), TeamSpec)
            close = difflib.get_close_matches(str(place[-1]), table.model_fields, 1)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(table.model_fields)}"
            yield f"{key}: there is no such key; {meant}"
        elif kind == "missing":
            allowed = TeamSpec.model_fields["pattern"].annotation
            choice = f", one of {', '.join(get_args(allowed))}" if place[-1] == "pattern" else ""
            yield f"{key} is missing{choice}"
        elif kind == "literal_error":
            yield f"{key}: {value!r} is none of {problem['ctx']['expected']}"
        elif kind == "string_pattern_mismatch":
            yield f"{key}: {value!r} is no name; write letters, digits, _ and -, a letter first"
        elif kind == "tuple_type" and place[-1] in _TABLES:
            yield f"{key}: is a list of tables; write [[{key}]]"
        else:
            message = str(problem["msg"]).removeprefix("Value error, ")
            message = message.replace("Input should be", "has to be")
            yield f"{key}: {message}" if key else message


def load_team(path: str | Path) -> TeamSpec:
    """Read a team from a file: JSON if its name ends in `.json`, else TOML.

    Raises:
        SettingsError: it cannot be read, or is no team; the message names the key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the team {path}: {getattr(error, 'strerror', None) or error}") from error
    return read_team(text, json_text=Path(path).suffix == ".json", source=str(path))


def dump_team(team: TeamSpec) -> str:
    """Return a team as TOML that `read_team` reads back to an equal one; for JSON there is `model_dump_json`."""
    values = team.model_dump(mode="json", exclude_defaults=True)
    simple = {
        key: value for key, value in values.items() if not isinstance(value, dict) and key not in ("agents", "edges")
    }
    parts = ["".join(f"{key} = {_toml(value)}\n" for key, value in simple.items())]
    for key, value in values.items():
        for table in value if key in ("agents", "edges") else []:
            parts.append(f"[[{key}]]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in table.items()))
        if isinstance(value, dict):
            parts.append(f"[{key}]\n" + "".join(f"{_toml(str(k))} = {_toml(v)}\n" for k, v in value.items()))
    return "\n".join(parts)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # A JSON string is a TOML string, apart from DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
