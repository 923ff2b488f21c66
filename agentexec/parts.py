"""What a team is made of: a run's model, executor, human and prompts, from which its agents are built."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from agentexec.agents import ExecutorAgent, HumanAgent, ModelAgent, PlanReview, load_prompt
from agentexec.agents.calls import EXECUTE_CODE
from agentexec.agents.coder import CodeMode, prompt_name
from agentexec.agents.planner import SHAPE as PLAN
from agentexec.agents.reviewer import SHAPE as REVIEW
from agentexec.context import Context
from agentexec.events import Event, RunResumed, RunStarted
from agentexec.human import Gate, Human
from agentexec.models import Model, make_model
from agentexec.stops import Stall
from agentexec.team import Team
from agentexec.turns import accepted_answer, solve_cycle
from agentexec.visible import visible
from sandboxes.executor import Executor
from sandboxes.paths import workspace_path
from sandboxes.types import expect

InputFiles = Mapping[str, bytes] | Iterable[str | Path]
"""Names and contents, or paths on this machine, each copied in under its last component."""

Role = Literal["planner", "coder", "reviewer"]
ROLES: tuple[Role, ...] = ("planner", "coder", "reviewer")


_SHAPES = {"planner": PLAN, "reviewer": REVIEW}


@dataclass(frozen=True)
class Parts:
    """A run's parts, and the agents made of them.

    Attributes:
        speakers: Role to model; the coder's is also that of all others.
        place: Where code runs.
        gate: Decides about blocks before they run.
        person: Who is asked, or None.
        note: What agents are told about the computer.
        prompts: System prompts of planner, coder and reviewer.
        code_mode: How coders send code.
        context: How conversations are kept within the models' windows.
        models: Further models, by name; closed with the run.
        make: Makes those.
    """

    speakers: Mapping[Role, Model]
    place: Executor
    gate: Gate
    person: Human | None
    note: str
    prompts: Mapping[Role, str]
    code_mode: CodeMode = "fences"
    context: Context | None = None
    models: dict[str, Model] = field(default_factory=dict)
    make: Callable[[str], Model] = make_model

    def model(self, name: str | None = None, role: Role = "coder") -> Model:
        """Return a model by name, made at first use; for None the run's for a role."""
        if name is None:
            return self.speakers[role]
        if name not in self.models:
            self.models[name] = self.make(name)
        return self.models[name]

    def agent(
        self, name: str, prompt: str | None = None, *, model: str | None = None, role: Role | None = None
    ) -> ModelAgent:
        """Return an agent whose words come from a model.

        Args:
            name: Sender of its messages.
            prompt: Its system prompt, to which the note on the computer is added; None takes the role's.
            model: Name of its model; None takes the run's.
            role: What it is, if not what it is called.

        Raises:
            ValueError: there is neither a prompt nor a role of that name.
        """
        known: Role | None = role or next((known for known in ROLES if known == name), None)
        text = self.prompts[known] if prompt is None and known else prompt
        if text is None:
            raise ValueError(f"agent {name!r} has no prompt, and is none of {', '.join(ROLES)}")
        return ModelAgent(
            name,
            self.model(model, known or "coder"),
            text + self.note,
            # A prompt of one's own may want something else than the role's form.
            shape=_SHAPES.get(known or "") if prompt is None else None,
            tools=(EXECUTE_CODE,) if known == "coder" and self.code_mode == "tools" else (),
            context=self.context,
        )

    def executor(self, author: str = "coder", name: str = "executor") -> ExecutorAgent:
        """Return the agent that runs the code of `author`."""
        return ExecutorAgent(self.place, author=author, gate=self.gate, name=name)

    def human(self, name: str = "human") -> HumanAgent:
        """Return the human as an agent.

        Raises:
            ValueError: there is nobody to ask.
        """
        if self.person is None:
            raise ValueError(f"agent {name!r} is a human, and there is nobody to ask: give human=")
        return HumanAgent(self.person, name)


Compose = Callable[[Parts], Team]
"""Makes a run's team of its parts."""


def solve_team(parts: Parts, *, plan: bool = True, review: bool = True, review_plan: bool = False) -> Team:
    """Return the team of `solve`: planner, coder, reviewer, executor."""
    cycle = solve_cycle(
        planner=parts.agent("planner") if plan else None,
        human=PlanReview(parts.human().human) if plan and review_plan else None,
        coder=parts.agent("coder"),
        reviewer=parts.agent("reviewer") if review else None,
        executor=parts.executor(),
    )
    return Team("solve", cycle, stop=Stall(), answer=accepted_answer)


def read_prompts(paths: Mapping[Role, str | Path] | None, code_mode: CodeMode = "fences") -> dict[Role, str]:
    """Return the system prompts of the roles: the package's own, or from files.

    Raises:
        OSError: a file cannot be read.
        ValueError: there is no such role, or no such mode.
    """
    if code_mode not in get_args(CodeMode):
        raise ValueError(f"code_mode={code_mode!r}: choose from {', '.join(get_args(CodeMode))}")
    if unknown := set(paths or ()) - set(ROLES):
        raise ValueError(f"no agent is called {min(unknown)!r}; prompts may name {', '.join(ROLES)}")
    names = {role: prompt_name(code_mode) if role == "coder" else role for role in ROLES}
    return {role: load_prompt(names[role], (paths or {}).get(role)) for role in ROLES}


def read_inputs(files: InputFiles) -> dict[str, bytes]:
    """Return the input files of a run by their names in the workspace.

    Args:
        files: A mapping of names to bytes, or paths on this machine.

    Raises:
        ValueError: two files have one name.
        UnsafePath: a name leaves the workspace.
        OSError: a file cannot be read.
        TypeError: content is not bytes.
    """
    if isinstance(files, (str, bytes)):
        raise TypeError("files is a list of paths, or a mapping of names to bytes")
    if isinstance(files, Mapping):
        pairs: Iterable[tuple[str, bytes | Path]] = files.items()
    else:
        pairs = [(Path(path).name, Path(path)) for path in files]
    inputs: dict[str, bytes] = {}
    for given, content in pairs:
        expect(content, (bytes, bytearray, memoryview, Path), "files maps names to bytes, as in text.encode()")
        if isinstance(content, Path) and content.is_dir():
            raise IsADirectoryError(errno.EISDIR, "Is a directory; name the files in it", str(content))
        name = workspace_path(given)
        if name in inputs:
            raise ValueError(f"two input files are called {name!r}; rename one of them")
        inputs[name] = content.read_bytes() if isinstance(content, Path) else bytes(content)
    return inputs


_NEW_EACH_TIME = (
    "Every block is a new process that starts in the workspace. Variables are gone afterwards, files stay. So a block "
    "is a whole program, with its imports. There is no display; save pictures as files."
)
_KEPT = (
    "Blocks are cells of one kernel: variables, imports and the working directory stay from block to block. The value "
    "of a cell's last line is shown. Pictures that you show are saved as files in the workspace, and "
    "you see them if you can see pictures."
)


_FILES = "- The user put these files into the workspace:"


def environment(place: Executor, inputs: Mapping[str, bytes]) -> str:
    """Return what every agent should know about the computer. The same for the same run, so replays match."""
    limits = place.limits
    network = "on" if limits.network else "off: nothing can be downloaded or installed from it"
    lines = [
        "\n\n# The computer\n",
        f"- A block may run for {limits.wall_time:g} s and use {limits.memory >> 20} MiB of memory.",
        f"- The network is {network}.",
        f"- {_KEPT if place.keeps_state else _NEW_EACH_TIME}",
        "- Blocks read no input: stdin is empty.",
    ]
    names = "".join(f"\n  - {visible(name, keep='')} ({len(data):,} bytes)" for name, data in inputs.items())
    if names:
        lines.append(_FILES + names)
    return "\n".join(lines)


def going_on(past: Sequence[Event], place: Executor, executor: str) -> tuple[str, RunResumed]:
    """Return what agents are told about the computer where a run goes on, and the event that it does.

    The same as before, to the letter, unless the sandbox or its limits are others: then with what holds now.

    Args:
        past: The run's events so far, which begin with `RunStarted`.
        place: Where code will run.
        executor: What that is called in events.
    """
    told, was, limits = "", executor, place.limits
    for event in past:
        if isinstance(event, RunStarted | RunResumed):
            told = event.environment or told
            was, limits = event.executor or was, event.limits or limits
    if (was, limits) == (executor, place.limits):
        return told, RunResumed()
    _, mark, files = told.partition(f"\n{_FILES}")
    note = environment(place, {}) + mark + files
    return note, RunResumed(executor=executor, limits=place.limits, environment=note)
