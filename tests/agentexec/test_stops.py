"""Stop conditions."""

from __future__ import annotations

import pickle
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentexec import solve, solve_sync
from agentexec.events import (
    BlockFinished,
    BlockRefused,
    BlockStarted,
    Event,
    Message,
    MessageAdded,
    ModelCalled,
    TurnStarted,
)
from agentexec.models.base import Usage
from agentexec.stops import (
    AllOf,
    AnyOf,
    AnyStop,
    ConsecutiveFailures,
    Deadline,
    ExternalStop,
    HandedTo,
    MaxCost,
    MaxMessages,
    MaxTokens,
    MaxTurns,
    RepeatedCode,
    RepeatedError,
    SourceSpoke,
    Stall,
    Stop,
    StopCondition,
    StopWatch,
    StopWhen,
    TextSeen,
)
from sandboxes.fake import FakeExecutor
from sandboxes.types import CodeBlock, Result, Verdict
from tests.agentexec.doubles import ScriptedModel, run

CODE = "```python\nx\n```"


def said(content: str, sender: str = "coder", turn: int = 1) -> Event:
    return MessageAdded(message=Message(sender=sender, content=content, turn=turn))


def called(tokens: int | None = 10, cost: str | None = "0.1") -> Event:
    usage = None if tokens is None else Usage(input_tokens=tokens - 1, output_tokens=1)
    return ModelCalled(agent="coder", model="m", usage=usage, cost=None if cost is None else Decimal(cost))


def ran(verdict: Verdict) -> Event:
    return BlockFinished(turn=1, index=0, block=CodeBlock("x"), result=Result(verdict=verdict))


REFUSED = BlockRefused(turn=1, index=0, block=CodeBlock("x"), reason="unsafe")


def after(condition: AnyStop, *events: Event, elapsed: float = 0.0) -> str | None:
    watch = StopWatch(condition, clock=lambda: 0.0)
    for event in events:
        watch(event)
    stop = watch.stopped(at_least=elapsed)
    assert stop is None or stop.message
    return None if stop is None else stop.reason


def test_turns() -> None:
    assert after(MaxTurns(2), said("", turn=1)) is None
    assert after(MaxTurns(2), said("", turn=1), said("", turn=2)) == "max_turns"


def test_deadline() -> None:
    assert after(Deadline(5), elapsed=4.9) is None
    assert after(Deadline(5), elapsed=5) == "deadline"


def test_the_clock_starts_with_the_watch() -> None:
    now = 100.0
    watch = StopWatch(Deadline(5), clock=lambda: now)
    assert watch.stopped() is None
    now = 105.0
    assert watch.stopped() is not None


def test_tokens() -> None:
    assert after(MaxTokens(20), called(10), called(9)) is None
    assert after(MaxTokens(20), called(10), called(10)) == "max_tokens"


def test_tokens_that_nobody_counts_stop_at_once() -> None:
    assert after(MaxTokens(10**9), called(10), called(None), called(10)) == "max_tokens"


def test_cost_is_exact() -> None:
    assert after(MaxCost(Decimal("0.3")), called(), called()) is None
    assert after(MaxCost(Decimal("0.3")), called(), called(), called()) == "max_cost"
    assert MaxCost(0.1) == MaxCost(Decimal("0.1"))  # type: ignore[arg-type]


def test_an_unknown_price_stops_at_once_and_says_so() -> None:
    watch = StopWatch(MaxCost(Decimal(100)))
    watch(called(cost=None))
    stop = watch.stopped()
    assert stop is not None
    assert stop.reason == "max_cost"
    assert "price of model 'm' is unknown" in stop.message


def test_stall_counts_idle_replies_of_the_coder_in_a_row() -> None:
    idle, other = said("Hello."), said("Hello.", sender="planner")
    assert after(Stall(), idle, other, other) is None
    assert after(Stall(), idle, other, idle) == "stall"
    assert after(Stall(), idle, said(CODE), idle) is None
    assert after(Stall(), idle, said("FINAL ANSWER: 1"), idle) is None
    assert after(Stall(), said(""), said("")) == "stall"
    assert after(Stall(nudges=2), idle, idle) is None


def test_consecutive_failures() -> None:
    assert after(ConsecutiveFailures(2), ran("failed"), ran("ok"), ran("timeout")) is None
    assert after(ConsecutiveFailures(2), ran("failed"), ran("timeout")) == "consecutive_failures"
    assert after(ConsecutiveFailures(2), ran("memory"), REFUSED) == "consecutive_failures"


def test_text_of_agents_counts_and_text_of_programs_does_not() -> None:
    assert after(TextSeen("DONE"), said("all DONE"), said("more")) == "text"
    assert after(TextSeen("DONE"), said("DONE", sender="executor"), said("DONE", sender="task")) is None
    assert after(TextSeen("DONE", sender="executor"), said("DONE", sender="executor")) == "text"
    assert after(TextSeen("DONE", sender="planner"), said("DONE")) is None


def test_external() -> None:
    stop = ExternalStop()
    watch = StopWatch(stop | MaxTurns(5))
    assert watch.stopped() is None
    stop.stop("enough")
    found = watch.stopped()
    assert found is not None
    assert (found.reason, found.message) == ("stopped", "enough")
    assert StopWatch(stop).stopped() is not None  # a run that begins later
    stop.reset()
    assert watch.stopped() is None


def test_or_gives_the_first_reason_from_the_left() -> None:
    both = MaxTurns(1) | Deadline(1)
    assert after(both) is None
    assert after(both, elapsed=1) == "deadline"
    assert after(both, said(""), elapsed=1) == "max_turns"


def test_and_needs_both_at_the_same_time() -> None:
    both = MaxTurns(2) & Stall(nudges=0)
    assert after(both, said(CODE), said(CODE)) is None
    assert after(both, said("Hm.")) is None
    assert after(both, said(CODE), said("Hm.")) == "max_turns+stall"
    assert after(both, said("Hm."), said(CODE)) is None


def test_certain_after() -> None:
    turns, soon, late = MaxTurns(1), Deadline(1), Deadline(2)
    assert (turns | late | soon).certain_after == 1
    assert (soon & late).certain_after == 2
    assert (soon & turns).certain_after is None
    assert (turns | (soon & turns)).certain_after is None
    assert turns.certain_after is None


def test_conditions_are_values() -> None:
    condition = MaxTurns(3) | (Deadline(5) & Stall())
    assert condition == MaxTurns(3) | (Deadline(5) & Stall())
    assert condition != MaxTurns(4) | (Deadline(5) & Stall())
    assert hash(condition) == hash(pickle.loads(pickle.dumps(condition)))
    assert "MaxTurns(limit=3)" in repr(condition)


def test_one_condition_serves_two_runs() -> None:
    condition = MaxTurns(1) | ConsecutiveFailures(1)
    first, second = StopWatch(condition), StopWatch(condition)
    first(ran("failed"))
    assert (first.stopped() is None, second.stopped() is None) == (False, True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MaxTurns(0),
        lambda: Deadline(-1),
        lambda: Deadline(float("nan")),
        lambda: MaxTokens(0),
        lambda: MaxCost(Decimal(0)),
        lambda: ConsecutiveFailures(0),
        lambda: TextSeen(""),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"must be more than 0|is empty"):
        make()


LEAVES: list[AnyStop] = [
    MaxTurns(1),
    Stall(nudges=0),
    ConsecutiveFailures(1),
    MaxTokens(1),
    TextSeen("x"),
    Deadline(1),
]
EVENTS = [said("x"), said(CODE), said("FINAL ANSWER: 1", turn=0), ran("ok"), ran("failed"), REFUSED, called()]


@given(
    tree=st.recursive(
        st.sampled_from(LEAVES),
        lambda inner: st.tuples(inner, st.booleans(), inner).map(
            lambda three: three[0] & three[2] if three[1] else three[0] | three[2]
        ),
    ),
    other=st.sampled_from(LEAVES),
    events=st.lists(st.sampled_from(EVENTS), max_size=6),
    elapsed=st.sampled_from([0.0, 1.0]),
)
def test_combinations_obey_logic(tree: AnyStop, other: AnyStop, events: list[Event], elapsed: float) -> None:
    def reached(condition: AnyStop) -> bool:
        return after(condition, *events, elapsed=elapsed) is not None

    assert reached(tree | other) == (reached(tree) or reached(other))
    assert reached(tree & other) == (reached(tree) and reached(other))
    if tree.certain_after is not None:
        assert after(tree, *events, elapsed=tree.certain_after) is not None


def block(code: str, verdict: Verdict = "failed", stderr: str = "") -> Event:
    return BlockFinished(turn=1, index=0, block=CodeBlock(code), result=Result(verdict=verdict, stderr=stderr))


def test_the_same_code_that_fails_again_and_again_whatever_runs_in_between() -> None:
    repeated = RepeatedCode(2)
    assert after(repeated, block("a"), block("b")) is None
    assert after(repeated, block("a"), block("b"), block("c", "ok"), block("a")) == "repeated_code"
    assert after(repeated, block("a"), block("a", "ok"), block("a")) is None
    many = [block(str(number)) for number in range(1000)]
    assert after(repeated, *many) is None
    assert after(repeated, *many, block("999")) == "repeated_code"


def test_the_same_error_in_a_row() -> None:
    repeated = RepeatedError(2)
    assert after(repeated, block("a", stderr="x\nE: 1\n"), block("b", stderr="y\nE: 1")) == "repeated_error"
    assert after(repeated, block("a", stderr="E: 1"), block("b", stderr="E: 2")) is None
    assert after(repeated, block("a", stderr="E: 1"), block("b", "ok"), block("c", stderr="E: 1")) is None
    assert after(repeated, block("a", "timeout"), block("b", "memory")) is None


def test_who_spoke_and_how_often() -> None:
    assert after(MaxMessages(2, "ann"), said("", "ann"), said("", "bob")) is None
    assert after(MaxMessages(2, "ann"), said("", "ann"), said("", "bob"), said("", "ann")) == "max_messages"
    assert after(SourceSpoke(("ann",)), said("", "bob")) is None
    assert after(SourceSpoke(("ann", "cy")), said("", "bob"), said("", "ann")) == "source"
    assert after(SourceSpoke(("ann",)), said("", "ann"), said("", "bob")) is None


def test_handed_over() -> None:
    assert after(HandedTo("user"), said("HANDOFF: user")) == "handoff"
    assert after(HandedTo("user"), said("HANDOFF: other")) is None


def test_a_function() -> None:
    assert after(StopWhen(lambda event: isinstance(event, BlockRefused)), said("")) is None
    assert after(StopWhen(lambda event: isinstance(event, BlockRefused), "mine"), REFUSED, said("")) == "mine"


async def test_a_run_does_not_go_round_on_the_same_failing_code() -> None:
    failing = FakeExecutor(lambda block: Result(verdict="failed", exit_code=1))
    model = ScriptedModel([run("same")] * 9)
    result = await solve("Do it.", model=model, executor=failing, plan=False, review=False)
    assert (result.status, result.stop_reason, len(result.blocks)) == ("not_solved", "repeated_code", 3)


EVERY_KIND = [
    said(CODE),
    said("HANDOFF: tester", "planner"),
    called(),
    called(None, None),
    ran("ok"),
    ran("failed"),
    REFUSED,
    TurnStarted(turn=1, agent="coder"),
    BlockStarted(turn=1, index=0, block=CodeBlock("x")),
]


CONDITIONS: list[AnyStop] = [
    *(MaxTurns(2), MaxMessages(2, "coder"), Deadline(1), MaxTokens(15), MaxCost(Decimal("0.15"))),
    *(Stall(), ConsecutiveFailures(2), RepeatedCode(2), RepeatedError(2)),
    *(TextSeen("x"), SourceSpoke(("planner",)), HandedTo("tester"), StopWhen(lambda event: True), ExternalStop()),
    (MaxTurns(2) & Stall()) | MaxTokens(15),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: type(condition).__name__)
def test_an_event_of_a_kind_that_a_condition_does_not_hear_changes_nothing(condition: AnyStop) -> None:
    for first in EVERY_KIND:
        state = condition.step(condition.start, first)
        for event in EVERY_KIND:
            assert isinstance(event, condition.hears) or condition.step(state, event) == state


def test_a_run_tells_a_condition_of_what_it_hears_and_of_nothing_else() -> None:
    heard: list[Event] = []

    class Hears(StopCondition[None]):
        start = None
        hears = (BlockFinished, ModelCalled)

        def step(self, state: None, event: Event) -> None:
            heard.append(event)

        def check(self, state: None, elapsed: float) -> Stop | None:
            return None

    model = ScriptedModel(["```python\nx\n```", "FINAL ANSWER: 1"])
    result = solve_sync(
        "T", model=model, executor=FakeExecutor(), plan=False, review=False, stop=Hears(), max_repeats=None
    )
    relevant = [event for event in result.events if isinstance(event, BlockFinished | ModelCalled | MessageAdded)]
    # What is combined with others hears what any of them does; what none hears, such as the start of a turn, nobody.
    assert [event for event in heard if not isinstance(event, BlockRefused)] == relevant


def test_three_alternatives_are_one_condition() -> None:
    first, second, third = MaxTurns(1), Stall(), Deadline(3)
    assert (first | second) | third == first | (second | third) == AnyOf((first, second, third))
    assert (first & second) & third == first & (second & third) == AllOf((first, second, third))
    assert (first & second) | third == AnyOf((AllOf((first, second)), third))
