"""The human in the loop: who is asked what, what the answers do, and runs that wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter

from agentexec import solve
from agentexec.conversation import Conversation
from agentexec.errors import Suspended
from agentexec.events import (
    Answer,
    AnyEvent,
    BlockFinished,
    BlockStarted,
    Event,
    MessageAdded,
    Question,
    QuestionAnswered,
    QuestionAsked,
    RunFinished,
    RunResumed,
    RunStarted,
)
from agentexec.human import ASK, Gate, Human, later
from agentexec.log import EventLog
from agentexec.result import SolveResult
from agentexec.stops import Deadline, MaxTurns, StopWatch
from sandboxes.fake import FakeExecutor
from sandboxes.types import CodeBlock, Result
from tests.agentexec.doubles import ScriptedModel, run
from tests.agentexec.test_solving import DONE, FAILED, attempt, messages, of_type, speakers

RISKY = "import os\nos.remove('x')"


def answering(*answers: Any) -> tuple[Callable[[Question], Any], list[Question]]:
    """Return a callback that gives these answers, and the questions it was asked."""
    asked: list[Question] = []

    def ask(question: Question) -> Any:
        asked.append(question)
        return answers[min(len(asked), len(answers)) - 1]

    return ask, asked


class TestApproval:
    async def test_never_asks_nobody(self) -> None:
        result = await attempt(run(RISKY), DONE, human=later)
        assert (result.status, of_type(result, QuestionAsked)) == ("solved", [])

    async def test_risky_asks_about_risky_blocks_and_says_why(self) -> None:
        ask, asked = answering(True)
        result = await attempt(run("print(1)") + run(RISKY), DONE, approve="risky", human=ask)
        [question] = asked
        assert (question.kind, question.turn, question.id) == ("block", 1, "block-1-1")
        assert question.block == CodeBlock(RISKY + "\n")
        assert question.risks == ("delete files",)
        assert "delete files" in question.text
        assert len(result.blocks) == 2

    async def test_an_edit_runs_the_other_code_and_the_coder_is_told(self) -> None:
        executor = FakeExecutor()
        ask, _ = answering(Answer(decision="edit", text="print(2)"))
        result = await attempt(run("print(1)"), DONE, executor=executor, approve="always", human=ask)
        assert [block.code for block in executor.blocks] == ["print(2)\n"]
        assert [block.code for block in result.blocks] == ["print(2)\n"]
        [report] = messages(result, "executor")
        assert "A human edited this block" in report
        assert "print(2)" in report

    async def test_an_answer_takes_the_place_of_the_result_and_ends_the_turn(self) -> None:
        executor = FakeExecutor()
        ask, asked = answering(Answer(decision="answer", text="The total is 60."))
        result = await attempt(run("x") + run("y"), DONE, executor=executor, approve="always", human=ask)
        assert (executor.blocks, len(asked)) == ([], 1)
        [report] = messages(result, "executor")
        assert "A human answers instead:\n\nThe total is 60." in report
        assert "Block 2 of 2 (python): not run" in report

    async def test_a_rejection_gives_its_reason(self) -> None:
        ask, _ = answering(Answer(decision="reject", text="wrong file"))
        result = await attempt(run("x"), DONE, approve="always", human=ask)
        assert "not approved: wrong file" in messages(result, "executor")[0]

    @pytest.mark.parametrize("decision", ["approve", "reject"])
    async def test_always_holds_for_blocks_of_the_kind_and_no_others(self, decision: Any) -> None:
        ask, asked = answering(Answer(decision=decision, always=True), True)
        code = [
            run(RISKY),
            run(RISKY + "\n"),
            run("import os\nos.remove('y')\nimport requests"),
            run("rm x", "bash"),
            DONE,
        ]
        result = await attempt(*code, approve="risky", human=ask)
        # A yes to deleting does not cover the network besides; a no to deleting covers deleting with whatever else.
        assert len(asked) == (3 if decision == "approve" else 2)
        assert len(result.blocks) == (4 if decision == "approve" else 1)

    async def test_always_does_not_outlive_the_run(self) -> None:
        ask, asked = answering(Answer(decision="approve", always=True))
        gate = Gate("always", Human(ask))
        for _ in range(2):
            conversation = Conversation("Do it.", EventLog())
            await gate.decide(CodeBlock("x"), 1, 0, conversation)
            await gate.decide(CodeBlock("x"), 2, 0, conversation)
        assert len(asked) == 2

    async def test_a_function_may_leave_the_decision_to_the_human(self) -> None:
        ask, asked = answering(True)
        await attempt(run("a") + run("b"), DONE, approve=lambda block: ASK if block.code == "b\n" else True, human=ask)
        assert [question.block.code for question in asked if question.block] == ["b\n"]

    async def test_ask_without_a_human_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="give human="):
            await attempt(run("a"), DONE, approve=lambda block: ASK)

    @pytest.mark.parametrize("options", [{"approve": "always"}, {"approve": "risky"}, {"review_plan": True}])
    async def test_asking_needs_somebody_to_ask(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="give human="):
            await attempt(DONE, **options)

    async def test_an_answer_that_is_no_option_is_an_error(self) -> None:
        ask, _ = answering(Answer(decision="answer", text="x"))
        with pytest.raises(ValueError, match="it may be: approve, edit"):
            await solve("Do it.", model=ScriptedModel([DONE]), executor=FakeExecutor(), review_plan=True, human=ask)

    async def test_an_edit_to_nothing_is_a_rejection(self) -> None:
        ask, _ = answering(Answer(decision="edit", text=" \n"))
        result = await attempt(run("x"), DONE, approve="always", human=ask)
        assert result.blocks == ()


class TestSilence:
    @staticmethod
    async def never(question: Question) -> bool:
        await asyncio.Event().wait()
        return True

    async def test_stops_the_run(self) -> None:
        result = await attempt(run("x"), DONE, approve="always", human=Human(self.never, 0.01))
        assert (result.status, result.stop_reason) == ("not_solved", "human")
        assert "0.01 s" in result.message
        assert result.blocks == ()

    async def test_or_counts_as_a_no(self) -> None:
        result = await attempt(run("x"), DONE, approve="always", human=Human(self.never, 0.01, "reject"))
        assert (result.status, result.blocks) == ("solved", ())
        assert "nobody answered" in messages(result, "executor")[0]

    async def test_ends_with_the_deadline(self) -> None:
        result = await attempt(run("x"), DONE, approve="always", human=Human(self.never, None), deadline=0.05)
        assert result.stop_reason == "deadline"

    async def test_a_timeout_of_the_callback_is_its_own(self) -> None:
        def ask(question: Question) -> bool:
            raise TimeoutError("mine")

        with pytest.raises(TimeoutError, match="mine"):
            await attempt(run("x"), DONE, approve="always", human=ask)

    def test_no_time_at_all_is_refused(self) -> None:
        with pytest.raises(ValueError, match="more than 0"):
            Human(later, 0)


class TestPlanReview:
    @staticmethod
    async def solved(*answers: Any) -> tuple[SolveResult, ScriptedModel, list[Question]]:
        ask, asked = answering(*answers)
        model = ScriptedModel([DONE], planner=["1. Guess.", "1. Look.\n2. Count."])
        result = await solve("Do it.", model=model, executor=FakeExecutor(), review=False, review_plan=True, human=ask)
        return result, model, asked

    async def test_approved(self) -> None:
        result, _, asked = await self.solved(True)
        assert speakers(result) == ["task", "planner", "human", "coder"]
        assert (asked[0].kind, asked[0].content) == ("plan", "1. Guess.")

    async def test_edited(self) -> None:
        result, model, _ = await self.solved(Answer(decision="edit", text="1. Measure."))
        assert speakers(result) == ["task", "planner", "human", "coder"]
        assert "1. Measure." in model.asked("coder")[0][-1].content

    async def test_rejected_with_a_reason_and_written_again(self) -> None:
        result, model, asked = await self.solved("do not guess", True)
        assert speakers(result) == ["task", "planner", "human", "planner", "human", "coder"]
        assert "do not guess" in model.asked("planner")[1][-1].content
        assert asked[1].content == "1. Look.\n2. Count."


def stored(result: SolveResult) -> list[Event]:
    """Return a run's events as a store gives them back."""
    adapter: TypeAdapter[Event] = TypeAdapter(AnyEvent)
    return [adapter.validate_json(event.model_dump_json()) for event in result.events]


async def go_on(events: list[Event], *lines: str, executor: FakeExecutor | None = None, **options: Any) -> SolveResult:
    model = ScriptedModel(list(lines))
    settings = {"plan": False, "review": False, **options}
    return await solve("Do it.", model=model, executor=executor or FakeExecutor(), resume=events, **settings)


class TestWaiting:
    async def test_a_run_waits_and_goes_on_with_the_answer_of_another_process(self) -> None:
        first = FakeExecutor()
        waiting = await attempt(run("x") + run("y"), executor=first, approve="always", human=later)
        assert (waiting.status, waiting.stop_reason) == ("waiting", "waiting")
        [asked] = of_type(waiting, QuestionAsked)
        assert asked.question.options == ("approve", "edit", "reject", "answer")
        events = stored(waiting)
        events.append(QuestionAnswered(id=asked.question.id, answer=Answer(decision="approve")))
        second, told = FakeExecutor(), list[Event]()
        again = await go_on(events, executor=second, approve="always", human=later, on_event=told.append)
        assert [block.code for block in second.blocks] == ["x\n"]
        assert again.status == "waiting"
        assert again.run_id == waiting.run_id
        assert isinstance(told[0], RunResumed)
        assert of_type(again, QuestionAsked)[-1].question.id == "block-1-1"
        events = [*stored(again), QuestionAnswered(id="block-1-1", answer=Answer(decision="reject", text="no"))]
        third = FakeExecutor()
        end = await go_on(events, DONE, executor=third, approve="always", human=later)
        assert third.blocks == []  # the first ran before, the second may not
        assert (end.status, end.answer, speakers(end)) == ("solved", "42", ["task", "coder", "executor", "coder"])
        assert [block.code for block in end.blocks] == ["x\n"]
        assert "Block 1 of 2 (python): ok" in messages(end, "executor")[0]
        assert "Block 2 of 2 (python): refused" in messages(end, "executor")[0]

    async def test_without_an_answer_it_asks_again(self) -> None:
        waiting = await attempt(run("x"), approve="always", human=later)
        ask, asked = answering(True)
        end = await go_on(stored(waiting), DONE, approve="always", human=ask)
        assert (end.solved, [question.id for question in asked]) == (True, ["block-1-0"])

    async def test_rules_hold_after_a_resumption(self) -> None:
        waiting = await attempt(run("x"), run("y"), DONE, approve="always", human=later)
        events = [
            *stored(waiting),
            QuestionAnswered(id="block-1-0", answer=Answer(decision="approve", always=True)),
        ]
        assert (await go_on(events, run("y"), DONE, approve="always", human=later)).solved

    async def test_plan_review_waits_too(self) -> None:
        model = ScriptedModel([DONE])
        options: dict[str, Any] = {"executor": FakeExecutor(), "review": False, "review_plan": True, "human": later}
        waiting = await solve("Do it.", model=model, **options)
        assert waiting.status == "waiting"
        events = [*stored(waiting), QuestionAnswered(id="plan-1", answer=Answer(decision="approve"))]
        end = await solve("Do it.", model=model, resume=events, **options)
        assert speakers(end) == ["task", "planner", "human", "coder"]

    async def test_suspended_in_a_function_that_decides(self) -> None:
        def decide(block: CodeBlock) -> bool:
            raise Suspended("ask me tomorrow")

        result = await attempt(run("x"), DONE, approve=decide)
        assert (result.status, result.message) == ("waiting", "ask me tomorrow")


class TestResume:
    async def test_blocks_that_ran_are_not_run_again_and_an_interrupted_one_is(self) -> None:
        class Slow(FakeExecutor):
            async def run(self, block: CodeBlock, **options: Any) -> Result:
                if block.code == "y\n":
                    await asyncio.Event().wait()
                return await super().run(block, **options)

        events: list[Event] = []
        task = asyncio.create_task(attempt(run("x") + run("y"), executor=Slow(), on_event=events.append))
        while not (events and isinstance(events[-1], BlockStarted) and events[-1].index == 1):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        executor = FakeExecutor()
        end = await go_on(events, DONE, executor=executor)
        assert [block.code for block in executor.blocks] == ["y\n"]
        assert "ran again from its beginning" in messages(end, "executor")[0]
        assert end.solved

    @pytest.mark.parametrize("kept", range(2, 16))
    async def test_from_every_event_on_to_the_same_end(self, kept: int) -> None:
        """A process may die anywhere: what the first `kept` events hold is not done again."""
        lines = [run("x") + run("y"), run("z"), DONE]
        whole = await attempt(*lines, files={"a.csv": b"1"})
        events = stored(whole)[:kept]
        spoken = sum(isinstance(e, MessageAdded) and e.message.sender == "coder" for e in events)
        executor = FakeExecutor()
        end = await go_on(events, *lines[spoken:], executor=executor, files={"a.csv": b"1"})
        assert (end.answer, end.turns) == ("42", whole.turns)
        if not isinstance(events[-1], BlockStarted):  # else the report says that the block ran twice
            said = [[m.message for m in of_type(run_, MessageAdded)] for run_ in (end, whole)]
            assert said[0] == said[1]
        ran = [e.block.code for e in events if isinstance(e, BlockFinished)]
        assert ran + [block.code for block in executor.blocks] == ["x\n", "y\n", "z\n"]
        # Once a block has run the workspace is as that left it; before, the input may not have come in.
        begun = any(isinstance(event, BlockStarted) for event in events)
        assert executor.workspace == ({} if begun else {"a.csv": b"1"})

    async def test_an_edited_block_that_ran_is_reported_as_edited(self) -> None:
        ask, _ = answering(Answer(decision="edit", text="other"), Answer(decision="approve"))
        done = await attempt(run("x") + run("y"), DONE, approve="always", human=ask)
        events = stored(done)
        at = next(i for i, event in enumerate(events) if isinstance(event, BlockFinished))
        end = await go_on(events[: at + 1], DONE, approve="always", human=ask)
        assert messages(end, "executor") == messages(done, "executor")

    async def test_limits_count_what_was_before(self) -> None:
        lines = [run("1"), run("2"), run("3")]
        events = stored(await attempt(*lines[:2], max_turns=4))
        end = await go_on(events, *lines[2:], max_turns=6)
        assert (end.stop_reason, end.turns) == ("max_turns", 6)
        failing = FakeExecutor([FAILED] * 3)
        events = stored(await attempt(*lines[:2], executor=failing, max_turns=4))
        assert (await go_on(events, *lines[2:], executor=failing, max_failures=3)).stop_reason == "consecutive_failures"

    def test_time_counts_only_while_it_ran(self) -> None:
        start = RunStarted(run_id="r", task="t", model="m", executor="e", limits=FakeExecutor().limits, time=100.0)
        waited = RunFinished(status="waiting", stop_reason="waiting", time=103.0)
        answered = QuestionAnswered(id="q", answer=Answer(decision="approve"), time=5000.0)
        events = [start, waited, answered, RunResumed(time=9000.0), RunFinished(
            status="waiting", stop_reason="waiting", time=9004.0
        )]  # fmt: skip
        watch = StopWatch(Deadline(10), clock=lambda: 0.0, past=events)
        assert watch.certain_after == 3.0
        assert StopWatch(Deadline(5), clock=lambda: 0.0, past=events).stopped() is not None
        assert StopWatch(MaxTurns(5), past=events).certain_after is None

    @pytest.mark.parametrize(
        ("events", "said"),
        [([], "begin with RunStarted"), ([RunResumed()], "begin with RunStarted")],
    )
    async def test_events_that_are_no_run_are_refused(self, events: list[Event], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            await go_on(events, DONE)

    async def test_another_task_or_a_solved_run_is_refused(self) -> None:
        events = stored(await attempt(DONE))
        with pytest.raises(ValueError, match="nothing to resume"):
            await go_on(events)
        with pytest.raises(ValueError, match="another task"):
            await solve("Else.", model=ScriptedModel([DONE]), executor=FakeExecutor(), resume=events)

    def test_a_log_without_a_message_cannot_be_restored(self) -> None:
        with pytest.raises(ValueError, match="no message"):
            Conversation.restore(EventLog())
