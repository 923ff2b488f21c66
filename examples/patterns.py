"""Every pattern of conversation, each in a few lines, with a scripted model: `python patterns.py [NAME]`.

A custom agent is a function of the conversation (`agent("name", function)`); who speaks next is one, too.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence

from agentexec import (
    Agent,
    Answer,
    ChatMessage,
    Completion,
    Concurrent,
    Conversation,
    Edge,
    EventLog,
    ExecutorAgent,
    MaxTurns,
    Model,
    Question,
    Team,
    agent,
    approved,
    converse,
    graph,
    handoff,
    managed,
    read_team,
    round_robin,
    selector,
    sequential,
    solve,
)
from agentexec.events import MessageAdded
from agentexec.models.base import CallOptions, OnRetry, OnText
from sandboxes import FakeExecutor

CODE = "```python\nprint(6 * 7)\n```"


class Scripted(Model):
    """Says its lines one after the other, whoever asks."""

    name = "scripted"

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        return Completion(self.lines.pop(0))


def says(name: str, *lines: str) -> Agent:
    """Return an agent that says its lines one after the other."""
    return agent(name, lambda conversation: lines[sum(message.sender == name for message in conversation)])


async def talk(team: Team) -> None:
    """Let a team talk, and show who said what."""
    log = EventLog()
    conversation = Conversation("What is 6 times 7?", log)
    await converse(conversation, team.next_speaker, lambda: None)
    print(" > ".join(message.sender for message in conversation), "=>", team.answer(conversation))


async def solve_cycle() -> None:
    """Planner, coder, reviewer and executor: what `solve` does."""
    model = Scripted("1. Multiply.", CODE, "APPROVE", "FINAL ANSWER: 42", "APPROVE")
    result = await solve("What is 6 times 7?", model=model, executor=FakeExecutor(["42\n"]))
    print(result.status, result.answer)


async def two_agent_chat() -> None:
    """Two agents in turn, until one gives the final answer."""
    await talk(Team("chat", round_robin([says("ann", "Is it 41?", "FINAL ANSWER: 42"), says("bob", "One more.")])))


async def all_in_turn() -> None:
    """Three agents, round and round."""
    agents = [says("ann", "40", "FINAL ANSWER: 42"), says("bob", "41"), says("eve", "42")]
    await talk(Team("rounds", round_robin(agents)))


async def model_selects() -> None:
    """A model chooses who speaks; after the writer it has no choice."""
    agents = [says("writer", "40 + 2", "FINAL ANSWER: 42"), says("checker", "Add it up."), says("poet", "O number!")]
    chooser = Scripted("the writer", "writer")
    await talk(Team("chosen", selector(chooser, agents, transitions={"writer": ["checker"]})))


async def hand_off() -> None:
    """Whoever speaks names the next one; code runs as soon as it is written."""
    coder = says("coder", CODE, "It printed 42.\n\nHANDOFF: clerk")
    clerk = says("clerk", "HANDOFF: coder", "FINAL ANSWER: 42")
    async with FakeExecutor(["42\n"]) as place:
        await talk(Team("desk", handoff([clerk, coder], executor=ExecutorAgent(place))))


async def graph_with_a_cycle() -> None:
    """Edges with conditions: back to the writer until the judge approves."""
    writer, judge = says("writer", "41", "42"), says("judge", "REVISE: one more", "APPROVE")
    printer = agent("printer", lambda conversation: conversation[-2].content)
    edges = [Edge(writer, judge), Edge(judge, printer, approved), Edge(judge, writer)]
    await talk(Team("graph", graph(writer, edges)))


async def one_after_the_other() -> None:
    """Each agent once, and a team is an agent: the second is a team of two, stopped after three messages."""
    pair = Team("pair", round_robin([says("ann", "41?", "42!"), says("bob", "More.")]), stop=MaxTurns(3))
    await talk(Team("line", sequential([says("first", "I ask them."), pair])))


async def at_the_same_time() -> None:
    """Agents who answer at once, joined to one message."""
    votes = Concurrent(
        "votes",
        [says("ann", "42"), says("bob", "41"), says("eve", "42")],
        join=lambda replies: max(said := [reply.content for reply in replies], key=said.count),
    )
    await talk(Team("poll", sequential([votes])))


async def manager_with_a_ledger() -> None:
    """A manager leads, notices that nothing comes of it, and writes a new plan."""
    entry = "SATISFIED: no\nLOOP: {}\nPROGRESS: {}\nNEXT: worker\nINSTRUCTION: {}"
    model = Scripted(
        entry.format("no", "yes", "Guess."),
        entry.format("yes", "no", "Guess again."),
        entry.format("no", "yes", "Compute it."),
        "SATISFIED: yes\nFINAL ANSWER: 42",
    )
    await talk(managed(model, [says("worker", "40", "40", "6 * 7 = 42")], stalls=1))


async def human_in_the_loop() -> None:
    """A person approves the plan, and edits the code before it runs."""

    def ask(question: Question) -> Answer | bool:
        return Answer(decision="edit", text="print(6 * 7)") if question.kind == "block" else True

    result = await solve(
        "What is 6 times 7?",
        model=Scripted("1. Add them.", "```python\nprint(6 + 7)\n```", "FINAL ANSWER: 42"),
        executor=FakeExecutor({"print(6 * 7)\n": "42\n"}),
        review=False,
        review_plan=True,
        approve="always",
        human=ask,
    )
    print(result.blocks[0].code.strip(), result.blocks[0].result.stdout.strip(), "=>", result.answer)


TEAM = """
pattern = "graph"
edges = [
    {source = "coder", target = "executor", when = "has_code"},
    {source = "executor", target = "coder"},
]
stop = {max_turns = 9}

[[agents]]
name = "coder"

[[agents]]
name = "executor"
"""


async def team_as_data() -> None:
    """A team that is written down; `load_team` reads one from a file, `dump_team` writes it."""
    model, place = Scripted(CODE, "FINAL ANSWER: 42"), FakeExecutor(["42\n"])
    result = await solve("What is 6 times 7?", model=model, executor=place, team=read_team(TEAM))
    senders = [event.message.sender for event in result.events if isinstance(event, MessageAdded)]
    print(" > ".join(senders), "=>", result.answer)


EXAMPLES: Sequence[Callable[[], Coroutine[None, None, None]]] = (
    solve_cycle,
    two_agent_chat,
    all_in_turn,
    model_selects,
    hand_off,
    graph_with_a_cycle,
    one_after_the_other,
    at_the_same_time,
    manager_with_a_ledger,
    human_in_the_loop,
    team_as_data,
)


async def main() -> None:
    for example in EXAMPLES:
        if len(sys.argv) == 1 or example.__name__ in sys.argv[1:]:
            print(f"{example.__name__}: ", end="", flush=True)
            await example()


if __name__ == "__main__":
    asyncio.run(main())
