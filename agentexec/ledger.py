"""A manager who keeps a ledger: is the task done, do we go in circles, who is next, with what instruction?

The manager speaks after every agent. Its message is its ledger; all state is in the messages, so a run can go on from
them. After `stalls` entries in a row without progress it writes a new plan; after `replans` of those it is at an end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, ClassVar

from agentexec.agents.base import ModelAgent, Shape, load_prompt
from agentexec.conversation import Agent, Conversation
from agentexec.events import Event, Message, MessageAdded
from agentexec.log import Kinds
from agentexec.markdown import FINAL_ANSWER
from agentexec.models.base import Model, ReplyFormat
from agentexec.stops import AnyStop, Stop, StopCondition
from agentexec.team import Team
from agentexec.turns import by_name, described, filled, has_code

UNCLEAR = (
    "Your last message held no complete ledger: {why}. Write it again: SATISFIED, LOOP, PROGRESS, NEXT, INSTRUCTION, "
    "or, if the task is done, SATISFIED and FINAL ANSWER."
)
STUCK = (
    "The team is stuck. Write down what is known, what went wrong and why, and a new plan that goes another way. "
    "Then write your ledger for its first step."
)
REPLANNED = "# New plan"

MANAGER = "manager"
"""What the manager is called, unless told."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """One entry.

    Attributes:
        satisfied: Whether the task is done.
        stalled: Whether the team goes in circles, or has made no progress.
        next: Who is to go on; empty if nobody was named.
        instruction: With what.
    """

    satisfied: bool
    stalled: bool
    next: str = ""
    instruction: str = ""


_FIELD = re.compile(
    r"^[\s*_`#>\"{-]*(SATISFIED|LOOP|PROGRESS|NEXT|INSTRUCTION|FINAL ANSWER)[*_`\"]*\s*:\s*", re.M | re.I
)


def read_ledger(text: str) -> Ledger | None:
    """Read a manager's message; None if it holds no ledger, or one that is satisfied and gives no answer.

    Case, emphasis and order do not matter; of a line that comes twice, the last counts.
    """
    parts = _FIELD.split(text)
    fields = {name.lower(): value.strip(' \t\n*_`",}') for name, value in zip(parts[1::2], parts[2::2], strict=True)}
    if not ({"satisfied", "next", "final answer"} & fields.keys()):
        return None
    satisfied = _yes(fields.get("satisfied", "yes" if "final answer" in fields else "no"))
    if satisfied and not fields.get("final answer"):
        return None
    return Ledger(
        satisfied=satisfied,
        stalled=_yes(fields.get("loop", "no")) or not _yes(fields.get("progress", "yes")),
        next=(re.findall(r"[\w-]+", fields.get("next", "")) or [""])[0],
        instruction=fields.get("instruction", ""),
    )


def _yes(text: str) -> bool:
    return text.lower().startswith(("yes", "true"))


def _shape(names: Iterable[str]) -> Shape:
    """Return how an entry is asked for as JSON; in the conversation it is the lines of the prompt."""

    def text(description: str, **more: Any) -> dict[str, Any]:
        return {"type": "string", "description": description, **more}

    def truth(description: str) -> dict[str, str]:
        return {"type": "boolean", "description": description}

    fields = {
        "plan": text("The plan, where it is written for the first time or anew; else empty"),
        "satisfied": truth("Whether the task is done and the results that were reported prove it"),
        "loop": truth("Whether the same is being done again without anything new"),
        "progress": truth("Whether the last step brought the task forward"),
        "next": text("Who goes on; empty if the task is done", enum=[*names, ""]),
        "instruction": text("What exactly it should do; empty if the task is done"),
        "answer": text("The complete answer if the task is done; else empty"),
    }
    schema = {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}
    return Shape(ReplyFormat("ledger", schema), _words)


def _words(entry: Mapping[str, Any]) -> str:
    marks = {name: {True: "yes", False: "no"}[entry[name]] for name in ("satisfied", "loop", "progress")}
    plan, answer = entry["plan"].strip(), entry["answer"].strip()
    lines = [f"{name.upper()}: {mark}" for name, mark in marks.items()]
    if entry["satisfied"]:
        lines += [f"{FINAL_ANSWER} {answer}"] if answer else []
    else:
        lines += [f"NEXT: {entry['next'].strip()}", f"INSTRUCTION: {entry['instruction'].strip()}"]
    return "\n\n".join(filter(None, [plan, "\n".join(lines)]))


@dataclass(frozen=True, slots=True)
class LedgerStall(StopCondition[int]):
    """Reached after `limit` entries of the manager's ledger in a row without progress. Reason `stall`."""

    limit: int
    manager: str = MANAGER
    start: ClassVar[int] = 0
    hears: ClassVar[Kinds] = (MessageAdded,)

    def step(self, state: int, event: Event) -> int:
        if not isinstance(event, MessageAdded) or event.message.sender != self.manager:
            return state
        return _stalled(event.message, state)

    def check(self, state: int, elapsed: float) -> Stop | None:
        return Stop("stall", f"no progress in {state} steps, new plans included") if state >= self.limit else None


def _stalled(message: Message, count: int) -> int:
    ledger = read_ledger(message.content)
    return count + 1 if ledger is None or ledger.stalled else 0


class Manager:
    """Writes the ledger, and a new plan when the team is stuck.

    Args:
        model: Who answers.
        agents: Whom it leads.
        stalls: Entries in a row without progress before a new plan.
        prompt: System prompt, with the fields `{name}` and `{agents}`; None takes the package's own.
        name: Sender of its messages.
    """

    def __init__(
        self,
        model: Model,
        agents: Sequence[Agent],
        *,
        stalls: int = 3,
        prompt: str | None = None,
        name: str = MANAGER,
    ) -> None:
        self.name, self._names, self._stalls = name, [*by_name(agents)], stalls
        system = filled(prompt or load_prompt("manager"), name=name, agents=described(agents))
        self._model = ModelAgent(name, model, system, shape=_shape(self._names))

    async def reply(self, conversation: Conversation) -> Message:
        """Write the next entry; what is no ledger is asked for once more.

        Raises:
            ModelError: the model could not answer.
        """
        mine = (message for message in reversed(conversation) if message.sender == self.name)
        stalled = sum(1 for _ in takewhile(lambda message: _stalled(message, 0), mine))
        stuck = stalled > 0 and stalled % self._stalls == 0
        said = await self._model.reply(conversation, STUCK if stuck else "")
        if why := self._unclear(said):
            said = await self._model.reply(conversation, UNCLEAR.format(why=why))
        return said.model_copy(update={"content": f"{REPLANNED}\n\n{said.content}"}) if stuck else said

    def _unclear(self, said: Message) -> str:
        ledger = read_ledger(said.content)
        if ledger is None:
            return f"it has none of its lines, or SATISFIED: yes without a line that starts with {FINAL_ANSWER}"
        if ledger.satisfied:
            return ""
        return "" if ledger.next in self._names else f"NEXT has to be one of {', '.join(self._names)}"


def managed(
    model: Model,
    agents: Sequence[Agent],
    *,
    executor: Agent | None = None,
    stalls: int = 3,
    replans: int = 2,
    stop: AnyStop | None = None,
    prompt: str | None = None,
    name: str = MANAGER,
) -> Team:
    """Return a team that is led by a manager with a ledger.

    Args:
        model: Who speaks for the manager.
        agents: Who works; `description` tells the manager what each is for.
        executor: Runs the code of its author before the manager speaks again.
        stalls: Entries in a row without progress before a new plan.
        replans: New plans before the end, which has stop reason `stall`.
        stop: A further stop condition.
        prompt: System prompt of the manager, with the fields `{name}` and `{agents}`; None takes the package's own.
        name: The manager's and the team's.

    Raises:
        ValueError: two have one name.
    """
    named, manager = by_name(agents), Manager(model, agents, stalls=stalls, prompt=prompt, name=name)
    if name in named:
        raise ValueError(f"an agent has the manager's name, {name!r}: give one of them another")

    def next_speaker(conversation: Conversation) -> Agent | None:
        last = conversation[-1]
        if last.sender != name:
            runs = executor is not None and last.sender == getattr(executor, "author", None) and has_code(conversation)
            return executor if runs else manager
        ledger = read_ledger(last.content)
        if ledger is None:  # twice in a row no ledger: the first agent goes on, and it counts as a stall
            return agents[0]
        return None if ledger.satisfied else named.get(ledger.next, agents[0])

    limit: AnyStop = LedgerStall(stalls * (replans + 1), name)
    return Team(name, next_speaker, stop=limit if stop is None else limit | stop)
