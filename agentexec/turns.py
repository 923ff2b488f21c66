"""Who speaks next, as functions of the conversation: round robin, selector, hand-off, graph, and the cycle of `solve`.

Each returns a `NextSpeaker`; all it goes by is in the conversation, so a run that is resumed goes on the same way.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from agentexec.agents.base import ModelAgent, Shape, load_prompt
from agentexec.agents.report import all_failed
from agentexec.agents.reviewer import read_review
from agentexec.conversation import TASK, Agent, Conversation, NextSpeaker
from agentexec.markdown import handed_to, read_reply
from agentexec.models.base import Model, ReplyFormat

Condition = Callable[[Conversation], bool]
"""A condition on a conversation."""


def answered(conversation: Conversation) -> bool:
    """Whether the last message ends with a final answer (and holds no code to run)."""
    last = conversation[-1]
    return last.sender != TASK and read_reply(last.content, cut=last.cut).answer is not None


def has_code(conversation: Conversation) -> bool:
    """Whether the last message holds code to run."""
    return bool(read_reply(conversation[-1].content, cut=conversation[-1].cut).blocks)


def approved(conversation: Conversation) -> bool:
    """Whether the last message begins with `APPROVE`."""
    return read_review(conversation[-1].content).approved


def says(text: str) -> Condition:
    """Return whether the last message contains `text`."""
    return lambda conversation: text in conversation[-1].content


def negated(condition: Condition) -> Condition:
    """Return the opposite of a condition."""
    return lambda conversation: not condition(conversation)


def by_name(agents: Sequence[Agent]) -> dict[str, Agent]:
    """Return agents by their names.

    Raises:
        ValueError: there is none, or two have one name.
    """
    named = {agent.name: agent for agent in agents}
    if not named or len(named) < len(agents) or TASK in named:
        raise ValueError(f"agents need names of their own, other than {TASK!r}: {[a.name for a in agents]}")
    return named


def round_robin(agents: Sequence[Agent], *, done: Condition = answered) -> NextSpeaker:
    """Agents speak in turn, over and over, until `done`. With two of them: a two-agent chat."""
    order = {name: number for number, name in enumerate(by_name(agents))}

    def next_speaker(conversation: Conversation) -> Agent | None:
        return None if done(conversation) else agents[(order.get(conversation[-1].sender, -1) + 1) % len(agents)]

    return next_speaker


def sequential(agents: Sequence[Agent]) -> NextSpeaker:
    """Each agent speaks once, in order; the last message is what came of it."""
    order = {name: number for number, name in enumerate(by_name(agents))}

    def next_speaker(conversation: Conversation) -> Agent | None:
        number = order.get(conversation[-1].sender, -1) + 1
        return agents[number] if number < len(agents) else None

    return next_speaker


@dataclass(frozen=True, slots=True)
class Edge:
    """From one agent to the next, under a condition.

    Attributes:
        source: Who has spoken.
        target: Who speaks then; None ends the conversation.
        when: Whether to go this way; the first edge of which this holds is taken.
    """

    source: Agent
    target: Agent | None
    when: Condition | None = None


def graph(start: Agent, edges: Sequence[Edge]) -> NextSpeaker:
    """Follow edges from agent to agent; cycles are fine. Where no edge leads on, the conversation ends.

    Raises:
        ValueError: two agents have one name.
    """
    ends = [start, *(end for edge in edges for end in (edge.source, edge.target) if end is not None)]
    by_name([*{id(end): end for end in ends}.values()])
    out: dict[str, list[Edge]] = {}
    for edge in edges:
        out.setdefault(edge.source.name, []).append(edge)

    def next_speaker(conversation: Conversation) -> Agent | None:
        last = conversation[-1].sender
        if last == TASK:
            return start
        return next((e.target for e in out.get(last, ()) if e.when is None or e.when(conversation)), None)

    return next_speaker


def handoff(agents: Sequence[Agent], *, executor: Agent | None = None, done: Condition = answered) -> NextSpeaker:
    """Whoever speaks hands over with a line `HANDOFF: name`; without one, the same agent goes on.

    Args:
        agents: The first one begins.
        executor: Runs code in a message at once, and the word goes back to its author, who may then hand over.
        done: Condition the conversation ends.
    """
    named = by_name(agents)

    def next_speaker(conversation: Conversation) -> Agent | None:
        last = conversation[-1]
        if executor is not None and last.sender == executor.name:
            return named[conversation[-2].sender]
        if done(conversation):
            return None
        if executor is not None and last.sender == getattr(executor, "author", None) and has_code(conversation):
            return executor
        return named.get(handed_to(last.content) or last.sender, named.get(last.sender, agents[0]))

    return next_speaker


def described(agents: Sequence[Agent]) -> str:
    """Return a list of agents, and what each is for, for a model."""
    return "\n".join(f"- {agent.name}: {getattr(agent, 'description', '') or 'an agent'}" for agent in agents)


def filled(prompt: str, **fields: str) -> str:
    """Return a prompt with its fields, such as `{name}`, filled in; all other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda match: fields.get(match[1], match[0]), prompt)


def selector(
    model: Model,
    agents: Sequence[Agent],
    *,
    transitions: Mapping[str, Sequence[str]] | None = None,
    done: Condition = answered,
    prompt: str | None = None,
    name: str = "selector",
) -> NextSpeaker:
    """Let a model choose who speaks next. Where only one agent may, the model is not asked.

    If its reply does not name exactly one candidate, it is asked once more; after that the next candidate in the order
    of `agents` speaks.

    Args:
        model: Who chooses.
        agents: The candidates; their `description`, where they have one, is shown to the model.
        transitions: Speaker to those who may follow; a speaker that is not named may be followed by anybody else.
        done: Condition the conversation ends.
        prompt: System prompt, with the fields `{name}`, `{agents}` and `{rules}`; None takes the package's own.
        name: What the chooser is called in events.

    Raises:
        ValueError: a name in `transitions` is no agent's.
    """
    named, allowed = by_name(agents), dict(transitions or {})
    for other in {*allowed, *(follower for followers in allowed.values() for follower in followers)} - {TASK}:
        if other not in named:
            raise ValueError(f"transitions name {other!r}, which is none of {sorted(named)}")
    rules = "".join(f"\nAfter {source} speaks: {' or '.join(targets)}." for source, targets in allowed.items())
    fields = {"name": name, "agents": described(agents), "rules": rules and rules + "\n"}
    system = filled(prompt or load_prompt("selector"), **fields)
    chooser = ModelAgent(name, model, system, shape=_choice(named))

    async def choose(conversation: Conversation, candidates: Sequence[str]) -> Agent:
        note = f"Who speaks next: {', '.join(candidates)}?"
        for _ in range(2):
            chosen = (await chooser.reply(conversation, note)).content
            found = [each for each in candidates if re.search(rf"(?<![\w-]){re.escape(each)}(?![\w-])", chosen)]
            if len(found) == 1:
                return named[found[0]]
            note = (
                f"{chosen[:200]!r} names nobody who may speak now, or several. "
                f"Answer with one of: {', '.join(candidates)}"
            )
        return named[candidates[0]]

    def next_speaker(conversation: Conversation) -> Agent | Awaitable[Agent] | None:
        if done(conversation):
            return None
        last = conversation[-1].sender
        at = list(named).index(last) + 1 if last in named else 0
        others = [other for other in [*named][at:] + [*named][:at] if other != last] or [last]
        candidates = allowed.get(last, others)
        if not candidates:
            return None
        return named[candidates[0]] if len(candidates) == 1 else choose(conversation, candidates)

    return next_speaker


def _choice(names: Iterable[str]) -> Shape:
    """Return how a choice is asked for as JSON, where the server can hold a model to it."""
    one = {"type": "string", "enum": list(names)}
    schema = {"type": "object", "properties": {"next": one}, "required": ["next"], "additionalProperties": False}
    return Shape(ReplyFormat("choice", schema), lambda choice: str(choice["next"]))


def solve_cycle(
    *,
    coder: Agent,
    executor: Agent,
    planner: Agent | None = None,
    human: Agent | None = None,
    reviewer: Agent | None = None,
    replan_after: int = 3,
) -> NextSpeaker:
    """Return the order of turns of `solve`.

    The planner speaks once, or, if a human reviews the plan, until that is approved; and again when the plan seems
    stuck. Then the coder writes, the reviewer approves or sends back, the executor runs, and the coder is told. A
    message of the coder with neither code nor an answer goes to the executor, who says so. The end is a final answer
    of the coder that the reviewer, if there is one, approves.

    Args:
        coder: Writes code.
        executor: Runs it.
        planner: Writes the plan; None goes without.
        human: Reviews the plan (`PlanReview`); None goes without.
        reviewer: Judges code before it runs and the answer before it counts; None goes without.
        replan_after: So many failures of the executor in a row, and the planner writes a new plan.
    """

    def next_speaker(conversation: Conversation) -> Agent | None:
        last = conversation[-1]
        if planner is not None and last.sender in (TASK, planner.name, human and human.name):
            if last.sender == planner.name:
                return human or coder
            return coder if human is not None and last.sender == human.name and approved(conversation) else planner
        written = conversation.latest(coder.name)
        if written is None:
            return coder
        reply = read_reply(written.content, cut=written.cut)
        takes_effect = executor if reply.answer is None else None
        if last.sender == coder.name:
            return takes_effect if reviewer is None or reply.idle else reviewer
        if reviewer is not None and last.sender == reviewer.name and approved(conversation):
            return takes_effect
        stuck = planner is not None and last.sender == executor.name and _failures(conversation) >= replan_after
        return planner if stuck else coder

    def _failures(conversation: Conversation) -> int:
        """Count the executor's failures since anything ended well or the planner spoke, up to `replan_after`."""
        count = 0
        assert planner is not None
        for message in islice(reversed(conversation), 4 * replan_after):
            if message.sender == planner.name or (message.sender == executor.name and not all_failed(message.content)):
                break
            count += message.sender == executor.name
        return count

    return next_speaker


def accepted_answer(conversation: Conversation, author: str = "coder") -> str | None:
    """Return the final answer in the author's last message, or None if that holds none."""
    written = conversation.latest(author)
    return None if written is None else read_reply(written.content, cut=written.cut).answer
