"""Whole runs, with a scripted model and a fake executor."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agentexec import ExternalStop, MaxTurns, SolveResult, TextSeen, solve, solve_sync
from agentexec.errors import ModelRateLimited
from agentexec.events import (
    BlockFinished,
    BlockOutput,
    BlockRefused,
    BlockStarted,
    Event,
    MessageAdded,
    ModelText,
    QuestionAnswered,
    QuestionAsked,
    RunFinished,
    RunStarted,
)
from agentexec.models.base import Completion, Usage
from agentexec.result import result_of
from sandboxes.errors import (
    FileTooLarge,
    SandboxError,
    SandboxLostError,
    SandboxUnavailable,
    UnknownExecutor,
    UnsafePath,
)
from sandboxes.executor import Executor
from sandboxes.fake import FakeExecutor
from sandboxes.registry import open_executor
from sandboxes.types import CodeBlock, Limits, OnOutput, Result, WorkspaceFile
from tests.agentexec.doubles import ScriptedModel, SilentModel, run

DONE = "FINAL ANSWER: 42"
FAILED = Result(verdict="failed", exit_code=1)

E = TypeVar("E", bound=Event)


def speakers(result: SolveResult) -> list[str]:
    return [event.message.sender for event in result.events if isinstance(event, MessageAdded)]


def messages(result: SolveResult, sender: str) -> list[str]:
    return [e.message.content for e in result.events if isinstance(e, MessageAdded) and e.message.sender == sender]


def of_type(result: SolveResult, kind: type[E]) -> list[E]:
    return [event for event in result.events if isinstance(event, kind)]


async def attempt(
    *lines: str | Completion | BaseException,
    executor: Executor | None = None,
    **options: Any,  # those of `solve`
) -> SolveResult:
    """Solve with a coder that says `lines`, without planner and reviewer unless told."""
    settings = {"plan": False, "review": False, **options}
    return await solve("Do it.", model=ScriptedModel(list(lines)), executor=executor or FakeExecutor(), **settings)


class TestTheCycle:
    async def test_planner_coder_reviewer_executor_to_the_answer(self) -> None:
        model = ScriptedModel([run("print(1)"), DONE])
        result = await solve("Do it.", model=model, executor=FakeExecutor({"print(1)\n": "1\n"}))
        assert speakers(result) == ["task", "planner", "coder", "reviewer", "executor", "coder", "reviewer"]
        assert (result.status, result.answer, result.stop_reason, result.turns) == (
            "solved",
            "42",
            "final_answer",
            6,
        )
        assert result.solved
        assert "1\n" in messages(result, "executor")[0]

    async def test_without_planner_and_reviewer(self) -> None:
        result = await attempt(run("print(1)"), DONE)
        assert speakers(result) == ["task", "coder", "executor", "coder"]

    async def test_the_reviewer_sends_code_back_before_it_runs(self) -> None:
        executor = FakeExecutor()
        model = ScriptedModel([run("bad"), run("good"), DONE], reviewer=["REVISE: no", "APPROVE", "APPROVE"])
        result = await solve("Do it.", model=model, executor=executor, plan=False)
        assert speakers(result) == [
            "task",
            "coder",
            "reviewer",
            "coder",
            "reviewer",
            "executor",
            "coder",
            "reviewer",
        ]
        assert [block.code for block in executor.blocks] == ["good\n"]
        assert "REVISE: no" in model.asked("coder")[1][-1].content

    async def test_the_reviewer_sends_an_answer_back(self) -> None:
        model = ScriptedModel(["FINAL ANSWER: 1", "FINAL ANSWER: 2"], reviewer=["I doubt that.", "APPROVE"])
        result = await solve("Do it.", model=model, executor=FakeExecutor(), plan=False)
        assert (result.answer, result.turns) == ("2", 4)

    async def test_code_of_others_never_runs(self) -> None:
        executor = FakeExecutor({"good\n": run("printed()")})
        model = ScriptedModel(
            [run("good"), DONE], planner=[run("planned()")], reviewer=[f"APPROVE\n{run('reviewed()')}"] * 2
        )
        result = await solve(f"Do it. {run('asked()')}", model=model, executor=executor)
        assert result.solved
        assert [block.code for block in executor.blocks] == ["good\n"]

    async def test_a_final_answer_that_a_program_prints_is_data(self) -> None:
        result = await attempt(run("x"), run("y"), DONE, executor=FakeExecutor(["FINAL ANSWER: 666\n"] * 2))
        assert (result.answer, len(result.blocks)) == ("42", 2)

    async def test_code_with_a_final_answer_runs_and_the_claim_does_not_count(self) -> None:
        result = await attempt(run("x") + "\nFINAL ANSWER: 1", DONE)
        assert (result.answer, len(result.blocks)) == ("42", 1)
        assert "does not count" in messages(result, "executor")[0]

    async def test_an_idle_reply_gets_one_nudge_and_then_is_a_stall(self) -> None:
        result = await attempt("Thank you!", "You are welcome!", DONE)
        assert (result.status, result.stop_reason) == ("not_solved", "stall")
        assert speakers(result) == ["task", "coder", "executor", "coder"]
        assert "Nothing was run" in messages(result, "executor")[0]

    async def test_a_nudge_may_help(self) -> None:
        assert (await attempt("Thank you!", run("x"), "Goodbye!", DONE)).solved

    async def test_an_idle_reply_is_not_reviewed(self) -> None:
        model = ScriptedModel(["Hello.", DONE])
        result = await solve("Do it.", model=model, executor=FakeExecutor(), plan=False)
        assert speakers(result) == ["task", "coder", "executor", "coder", "reviewer"]

    async def test_a_reply_that_was_cut_off_does_not_run_half_a_program(self) -> None:
        executor = FakeExecutor()
        cut = Completion("```python\nwhole\n```\n```python\nhalf", finish_reason="length")
        result = await attempt(cut, DONE, executor=executor)
        assert [block.code for block in executor.blocks] == ["whole\n"]
        assert "cut off at its length limit" in messages(result, "executor")[0]

    async def test_prompts_can_be_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "coder.md").write_text("You are the coder.\nSpeak Latin.")
        model = ScriptedModel([DONE])
        await solve(
            "Do it.",
            model=model,
            executor=FakeExecutor(),
            plan=False,
            prompts={"coder": tmp_path / "coder.md"},
        )
        assert model.asked("coder")[0][0].content.startswith("You are the coder.\nSpeak Latin.\n")
        assert model.asked("reviewer")[0][0].content.startswith("You are the reviewer.\n")


class TestBlocks:
    async def test_run_in_order_up_to_the_first_that_is_not_ok(self) -> None:
        executor = FakeExecutor(["", FAILED])
        result = await attempt(run("1") + run("2", "bash") + run("3"), DONE, executor=executor)
        assert [(block.code, block.language) for block in executor.blocks] == [
            ("1\n", "python"),
            ("2\n", "bash"),
        ]
        assert [(block.turn, block.language, block.result.verdict) for block in result.blocks] == [
            (1, "python", "ok"), (1, "bash", "failed"),
        ]  # fmt: skip
        assert "Block 3 of 3 (python): not run, since block 2 did not end ok" in messages(result, "executor")[0]

    @pytest.mark.parametrize("name", ["../x.py", "/etc/passwd", "~/x.py", "a\0b"])
    async def test_an_unsafe_name_is_refused_before_anybody_is_asked(self, name: str) -> None:
        executor, asked = FakeExecutor(), list[CodeBlock]()
        code = f"# filename: {name}\nx"
        result = await attempt(run(code) + run("next"), DONE, executor=executor, approve=asked.append)
        assert result.solved
        assert (executor.blocks, executor.workspace, asked) == ([], {}, [])
        [refused] = of_type(result, BlockRefused)
        assert "unsafe path" in refused.reason
        assert "refused, not run" in messages(result, "executor")[0]
        assert of_type(result, BlockStarted) == []

    @pytest.mark.parametrize("kind", [FileTooLarge, UnsafePath])
    async def test_what_an_executor_refuses_is_told_to_the_coder(self, kind: type[SandboxError]) -> None:
        def refuse(block: CodeBlock) -> str:
            raise kind("not with me")

        result = await attempt(run("x"), DONE, executor=FakeExecutor(refuse))
        assert result.solved
        assert "not with me" in messages(result, "executor")[0]
        assert result.blocks == ()

    async def test_events_of_a_block(self) -> None:
        seen: list[Event] = []
        await attempt(run("x"), DONE, executor=FakeExecutor(["hello"]), on_event=seen.append)
        block = [event for event in seen if isinstance(event, (BlockStarted, BlockOutput, BlockFinished))]
        assert [type(event) for event in block] == [BlockStarted, BlockOutput, BlockFinished]
        assert all((event.turn, event.index) == (1, 0) for event in block)
        assert isinstance(block[1], BlockOutput)
        assert block[1].data == b"hello"


class TestApproval:
    @pytest.mark.parametrize(("answer", "reason"), [(False, "not approved"), ("too risky", "not approved: too risky")])
    async def test_a_rejected_block_does_not_run_and_the_coder_is_told(self, answer: bool | str, reason: str) -> None:
        async def approve(block: CodeBlock) -> bool | str:
            return answer

        executor = FakeExecutor()
        result = await attempt(run("x") + run("y"), DONE, executor=executor, approve=approve)
        assert executor.blocks == []
        assert len(of_type(result, QuestionAsked)) == 1
        [given] = of_type(result, QuestionAnswered)
        assert (given.answer.decision, given.answer.text) == ("reject", answer or "")
        assert [event.reason for event in of_type(result, BlockRefused)] == [reason]
        assert reason in messages(result, "executor")[0]

    async def test_an_approved_block_runs_and_each_is_asked_for(self) -> None:
        asked: list[str] = []
        executor = FakeExecutor()

        def approve(block: CodeBlock) -> bool:
            asked.append(block.code)
            return True

        await attempt(run("x") + run("y"), DONE, executor=executor, approve=approve)
        assert asked == ["x\n", "y\n"] == [block.code for block in executor.blocks]

    async def test_an_approval_that_forgets_to_answer_does_not_approve(self) -> None:
        executor = FakeExecutor()
        await attempt(run("x"), DONE, executor=executor, approve=lambda block: None)
        assert executor.blocks == []

    async def test_an_approval_that_raises_ends_the_run(self) -> None:
        def approve(block: CodeBlock) -> bool:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await attempt(run("x"), DONE, approve=approve)


class TestStops:
    async def test_max_turns(self) -> None:
        result = await attempt(*[run("x")] * 9, max_turns=3)
        assert (result.status, result.stop_reason, result.turns, result.answer) == (
            "not_solved",
            "max_turns",
            3,
            None,
        )
        assert "3 turns" in result.message

    async def test_an_answer_with_the_last_turn_counts(self) -> None:
        assert (await attempt(run("x"), DONE, max_turns=3)).solved

    async def test_max_tokens_and_max_cost(self) -> None:
        assert (await attempt(*[run("x")] * 9, max_tokens=30)).stop_reason == "max_tokens"
        result = await attempt(*[run("x")] * 9, max_cost=0.02)
        assert (result.stop_reason, result.cost) == ("max_cost", Decimal("0.02"))

    async def test_a_cost_limit_with_an_unknown_price_stops_after_one_call(self) -> None:
        result = await attempt(Completion(run("x")), DONE, max_cost=100)
        assert (result.stop_reason, result.turns, result.cost) == ("max_cost", 1, None)
        assert "unknown" in result.message

    async def test_failures_in_a_row(self) -> None:
        result = await attempt(*[run("x")] * 9, executor=FakeExecutor(default=FAILED), max_failures=2)
        assert (result.stop_reason, len(result.blocks)) == ("consecutive_failures", 2)

    async def test_a_condition_of_one_s_own_is_added(self) -> None:
        result = await attempt("GIVE UP\n" + run("x"), stop=TextSeen("GIVE UP"))
        assert (result.stop_reason, result.turns) == ("text", 1)
        assert (await attempt(*[run("x")] * 9, stop=MaxTurns(2))).turns == 2

    async def test_from_outside(self) -> None:
        stop = ExternalStop()
        result = await attempt(
            *[run("x")] * 9,
            stop=stop,
            on_event=lambda event: stop.stop() if isinstance(event, BlockFinished) else None,
        )
        assert (result.status, result.stop_reason, result.turns) == ("not_solved", "stopped", 2)

    async def test_a_deadline_interrupts_a_model_call(self) -> None:
        began = time.monotonic()
        result = await solve("Do it.", model=SilentModel(), executor=FakeExecutor(), deadline=0.05)
        assert (result.status, result.stop_reason, result.turns) == ("not_solved", "deadline", 0)
        assert time.monotonic() - began < 10

    async def test_a_deadline_interrupts_a_block_and_keeps_its_output(self) -> None:
        executor = HangingExecutor()
        result = await attempt(run("x"), executor=executor, deadline=1.0)
        assert (result.status, result.stop_reason) == ("not_solved", "deadline")
        assert executor.killed
        [block] = result.blocks
        assert (block.result.verdict, block.result.stdout) == ("cancelled", "so far")

    async def test_a_deadline_interrupts_agents_that_never_wait(self) -> None:
        result = await solve(
            "x",
            model=ScriptedModel(lambda m: run("x")),
            executor=FakeExecutor(),
            deadline=0.1,
            max_turns=10**9,
        )
        assert result.stop_reason == "deadline"

    async def test_a_timeout_error_of_a_model_s_own_is_not_the_deadline(self) -> None:
        with pytest.raises(TimeoutError, match="mine"):
            await attempt(TimeoutError("mine"), deadline=60)


class HangingExecutor(FakeExecutor):
    """Prints something and never ends."""

    killed = False

    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        assert on_output is not None
        on_output("stdout", b"so far")
        try:
            await asyncio.Event().wait()
        finally:
            self.killed = True
        raise AssertionError("unreachable")


class TestFailures:
    async def test_a_model_that_fails_ends_the_run_and_everything_is_kept(self) -> None:
        result = await attempt(run("x"), ModelRateLimited("try again tomorrow"), executor=FakeExecutor(["1\n"]))
        assert (result.status, result.stop_reason, result.message) == (
            "model_failed",
            "model_failed",
            "try again tomorrow",
        )
        assert (result.turns, result.blocks[0].result.stdout, result.cost) == (2, "1\n", Decimal("0.01"))

    async def test_a_sandbox_that_fails_ends_the_run_and_everything_is_kept(self) -> None:
        result = await attempt(run("x"), run("y"), executor=FakeExecutor(failing(SandboxError("broken"), after=1)))
        assert (result.status, result.stop_reason, result.message) == (
            "sandbox_failed",
            "sandbox_failed",
            "broken",
        )
        assert (len(result.blocks), result.turns) == (1, 3)

    async def test_a_sandbox_that_does_not_start(self) -> None:
        class Unavailable(FakeExecutor):
            async def start(self) -> None:
                raise SandboxUnavailable("type: apt install bubblewrap")

        result = await attempt(executor=Unavailable())
        assert (result.status, result.message, result.turns) == (
            "sandbox_failed",
            "type: apt install bubblewrap",
            0,
        )

    async def test_a_lost_sandbox_is_restarted_once_and_the_coder_told(self) -> None:
        executor = FakeExecutor([Result(verdict="lost"), ""])
        result = await attempt(run("x") + run("y"), run("z"), DONE, executor=executor)
        assert (result.status, executor.restarts) == ("solved", 1)
        assert [block.result.verdict for block in result.blocks] == ["lost", "ok"]
        assert "lost and has been restarted" in messages(result, "executor")[0]
        assert "Block 2 of 2 (python): not run" in messages(result, "executor")[0]

    async def test_a_sandbox_that_was_lost_between_blocks_is_restarted_and_the_block_run(self) -> None:
        executor = FakeExecutor(failing(SandboxLostError("gone"), after=0, times=1))
        result = await attempt(run("x"), DONE, executor=executor)
        assert (result.status, executor.restarts, len(result.blocks)) == ("solved", 1, 1)
        assert "lost and has been restarted" in messages(result, "executor")[0]

    async def test_a_sandbox_that_stays_lost_ends_the_run(self) -> None:
        executor = FakeExecutor(failing(SandboxLostError("gone"), after=0))
        result = await attempt(run("x"), DONE, executor=executor)
        assert (result.status, result.message, executor.restarts) == ("sandbox_failed", "gone", 1)

    async def test_a_restart_that_fails_ends_the_run(self) -> None:
        class Doomed(FakeExecutor):
            async def restart(self) -> None:
                raise SandboxUnavailable("no engine")

        result = await attempt(run("x"), executor=Doomed([Result(verdict="lost")]))
        assert (result.status, result.message, result.blocks[0].result.verdict) == (
            "sandbox_failed",
            "no engine",
            "lost",
        )

    async def test_cancellation_closes_the_log_and_is_passed_on(self) -> None:
        seen: list[Event] = []
        executor = HangingExecutor()
        started = asyncio.Event()

        def on_event(event: Event) -> None:
            seen.append(event)
            if isinstance(event, BlockOutput):
                started.set()

        task = asyncio.create_task(attempt(run("x"), executor=executor, on_event=on_event))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert executor.killed
        assert isinstance(seen[-1], RunFinished)
        assert (seen[-1].status, seen[-1].stop_reason) == ("interrupted", "interrupted")
        kept = result_of(event for event in seen if not event.transient)
        assert (kept.turns, kept.blocks[0].result.stdout) == (1, "so far")

    async def test_agents_that_never_wait_can_be_cancelled(self) -> None:
        model = ScriptedModel(lambda messages: run("x"))
        task = asyncio.create_task(solve("x", model=model, executor=FakeExecutor(), max_turns=2_000))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(model.calls) < 100

    async def test_a_listener_that_raises_ends_the_run_with_its_error(self) -> None:
        seen: list[Event] = []

        def on_event(event: Event) -> None:
            seen.append(event)
            if isinstance(event, BlockStarted):
                raise ZeroDivisionError("mine")

        with pytest.raises(ZeroDivisionError, match="mine"):
            await attempt(run("x"), DONE, on_event=on_event)
        assert isinstance(seen[-1], RunFinished)
        assert (seen[-1].status, seen[-1].stop_reason) == ("interrupted", "error")

    async def test_a_listener_that_always_raises_is_heard_once(self) -> None:
        def on_event(event: Event) -> None:
            raise ZeroDivisionError(type(event).__name__)

        with pytest.raises(ZeroDivisionError, match="RunStarted"):
            await attempt(DONE, on_event=on_event)


def failing(error: SandboxError, *, after: int, times: int = 10**9) -> Callable[[CodeBlock], str]:
    """Return answers for a fake executor that raises `error`, `times` times, after so many good blocks."""
    count = 0

    def answer(block: CodeBlock) -> str:
        nonlocal count
        count += 1
        if after < count <= after + times:
            raise error
        return ""

    return answer


class TestExecutor:
    async def test_an_executor_that_was_given_is_started_and_left_open(self) -> None:
        executor = FakeExecutor()
        await attempt(run("x"), DONE, executor=executor)
        await executor.run(CodeBlock("y"))

    async def test_a_spec_string_opens_and_closes_one(self, opened: list[Closable]) -> None:
        limits = Limits(wall_time=5)
        result = await solve(
            "x", model=ScriptedModel([DONE]), executor="fake", limits=limits, workspace="/w", plan=False
        )
        [executor] = opened
        assert (executor.limits, executor.closed) == (limits, 1)
        [started] = of_type(result, RunStarted)
        assert (started.executor, started.workspace, started.limits) == ("fake", "/w", limits)

    async def test_is_closed_also_when_the_run_fails(self, opened: list[Closable]) -> None:
        await solve("x", model=ScriptedModel([ModelRateLimited("no")]), executor="fake", plan=False)
        with pytest.raises(ValueError, match="bug"):
            await solve("x", model=ScriptedModel([ValueError("bug")]), executor="fake", plan=False)
        assert [executor.closed for executor in opened] == [1, 1]

    async def test_a_close_that_fails_does_not_cost_the_answer(self, opened: list[Closable]) -> None:
        def break_it(event: Event) -> None:
            opened[0].close_error = SandboxError("stuck")

        result = await solve("x", model=ScriptedModel([DONE]), executor="fake", plan=False, on_event=break_it)
        assert (result.status, result.answer) == ("solved", "42")
        assert "closing the sandbox failed: stuck" in result.message

    async def test_an_executor_is_called_by_what_it_was_opened_from(self) -> None:
        result = await attempt(DONE, executor=open_executor("fake"))
        assert of_type(result, RunStarted)[0].executor == "fake"
        result = await attempt(DONE, executor=FakeExecutor())
        assert of_type(result, RunStarted)[0].executor == "FakeExecutor"

    async def test_limits_belong_to_the_executor(self) -> None:
        with pytest.raises(ValueError, match="belong to the executor"):
            await attempt(DONE, limits=Limits())

    async def test_an_unknown_name_is_an_error(self) -> None:
        with pytest.raises(UnknownExecutor):
            await solve("x", model=ScriptedModel([DONE]), executor="nonsense")


class Closable(FakeExecutor):
    closed = 0
    close_error: SandboxError | None = None

    async def close(self) -> None:
        await super().close()
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Closable]:
    executors: list[Closable] = []

    def open_it(spec: str, *, limits: Limits | None, workspace: object) -> Closable:
        executors.append(Closable(limits=limits))
        return executors[-1]

    monkeypatch.setattr("agentexec.solving.open_executor", open_it)
    return executors


class TestInputs:
    async def test_files_are_put_into_the_workspace_and_named_to_the_agents(self, tmp_path: Path) -> None:
        (tmp_path / "data.csv").write_bytes(b"a,b\n")
        for files in ({"data.csv": b"a,b\n"}, [tmp_path / "data.csv"], (str(tmp_path / "data.csv"),)):
            executor, model = FakeExecutor(), ScriptedModel([DONE])
            result = await solve("x", model=model, executor=executor, files=files)
            assert executor.workspace == {"data.csv": b"a,b\n"}
            assert of_type(result, RunStarted)[0].files == ("data.csv",)
            assert all("data.csv (4 bytes)" in asked[0].content for _, asked in model.calls)

    async def test_two_files_of_one_name_are_an_error(self, tmp_path: Path) -> None:
        for directory in ("a", "b"):
            (tmp_path / directory).mkdir()
            (tmp_path / directory / "x.csv").touch()
        with pytest.raises(ValueError, match=r"two input files are called 'x\.csv'"):
            await attempt(DONE, files=[tmp_path / "a/x.csv", tmp_path / "b/x.csv"])
        with pytest.raises(ValueError, match="two input files"):
            await attempt(DONE, files={"x": b"", "./x": b""})

    @pytest.mark.parametrize(
        ("files", "error"),
        [({"../x": b""}, UnsafePath), (["/nonexistent/x"], FileNotFoundError), ("x.csv", TypeError)],
    )
    async def test_files_that_make_no_sense_are_an_error(self, files: object, error: type[Exception]) -> None:
        with pytest.raises(error):
            await attempt(DONE, files=files)

    async def test_a_file_that_is_too_large_ends_the_run(self) -> None:
        executor = FakeExecutor(limits=Limits(file_size=10))
        assert (await attempt(DONE, executor=executor, files={"x": b"a" * 11})).status == "sandbox_failed"

    @pytest.mark.parametrize("options", [{"max_turns": 0}, {"deadline": 0}, {"max_cost": -1}, {"max_tokens": 0}])
    async def test_limits_that_make_no_sense_are_an_error(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="more than 0"):
            await attempt(DONE, **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"approve": "sometimes"}, "approve='sometimes': choose from never, always, risky"),
            ({"approve": True}, "approve=True: choose from"),
            ({"code_mode": "xml"}, "code_mode='xml': choose from fences, tools"),
            ({"prompts": {"codr": "p.md"}}, "no agent is called 'codr'; prompts may name planner, coder, reviewer"),
        ],
    )
    async def test_a_choice_that_there_is_not_is_an_error(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            await solve("x", model=ScriptedModel([DONE]), executor=FakeExecutor(), **options)

    async def test_a_file_is_no_team(self) -> None:
        file: Any = "team.toml"
        with pytest.raises(TypeError, match=r"write team=load_team\(FILE\)"):
            await solve("x", model=ScriptedModel([DONE]), executor=FakeExecutor(), team=file)

    @pytest.mark.parametrize("name", [".", "..", "/"])
    async def test_a_directory_is_no_input_file(self, name: str) -> None:
        with pytest.raises(IsADirectoryError, match="name the files in it"):
            await solve("x", model=ScriptedModel([DONE]), executor=FakeExecutor(), files=[name])

    async def test_an_empty_task_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="task is empty"):
            await solve(" \n", model=ScriptedModel([DONE]), executor=FakeExecutor())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"model": 3}, "a model is a name such as 'gpt-5-mini' or a Model, .*, not int"),
            ({"model": lambda messages: "42"}, "or a Model, which has a method `complete`, not function"),
            ({"stop": lambda event: True}, r"or StopWhen\(FUNCTION\), not function"),
            ({"max_turns": "5"}, "max_turns is a number, not str"),
            ({"deadline": "60"}, "deadline is a number, not str"),
            ({"human": 3}, "human is a function of a Question, .* not int"),
            ({"models": {"coder": b"x"}}, "a model is a name .* not bytes"),
            ({"executor": {}}, "a spec such as 'local' or an Executor, not dict"),
            ({"files": {"a.txt": "text"}}, r"files maps names to bytes, as in text.encode\(\), not str"),
            ({"files": {"a.txt": 3}}, "files maps names to bytes, .* not int"),
            ({"executor": "fake", "limits": "512M"}, "limits is a Limits, .* not str"),
        ],
    )
    async def test_an_argument_of_another_type_is_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(TypeError, match=message):
            await solve("x", **{"model": ScriptedModel([DONE]), "executor": FakeExecutor(), **options})

    async def test_a_model_by_name_is_made_and_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, names = ScriptedModel([DONE]), list[str]()

        def make(name: str) -> ScriptedModel:
            names.append(name)
            return model

        monkeypatch.setattr("agentexec.solving.make_model", make)
        await solve("x", model="gpt", executor=FakeExecutor(), plan=False)
        assert (names, model.closed) == (["gpt"], 1)

    async def test_a_model_that_was_given_is_left_open(self) -> None:
        model = ScriptedModel([DONE])
        await solve("x", model=model, executor=FakeExecutor(), plan=False)
        assert model.closed == 0


class TestResult:
    async def test_json_is_the_object_of_the_command_line(self) -> None:
        files = (WorkspaceFile(path="a.txt", size=1), WorkspaceFile(path="b.txt", size=1))
        executor = FakeExecutor([Result(verdict="ok", files=files), Result(verdict="ok", files=files[:1])])
        result = await attempt(run("x") + "```python filename=y.py\ny\n```", DONE, executor=executor)
        data = json.loads(result.model_dump_json())
        assert set(data) == {
            "status", "answer", "stop_reason", "message", "turns", "blocks", "usage", "cost", "agents", "files",
            "run_id",
        }  # fmt: skip
        assert [set(block) for block in data["blocks"]] == [{"turn", "language", "filename", "code", "result"}] * 2
        assert [block["filename"] for block in data["blocks"]] == [None, "y.py"]
        assert data["files"] == ["a.txt", "b.txt"]
        assert data["cost"] == 0.02
        assert data["usage"]["input_tokens"] == 20

    async def test_an_unknown_price_is_null_and_usage_what_is_known(self) -> None:
        result = await attempt(run("x"), Completion(DONE))
        assert (result.cost, result.usage) == (None, Usage(input_tokens=10, output_tokens=5))
        assert json.loads(result.model_dump_json())["cost"] is None

    async def test_no_call_costs_nothing(self) -> None:
        assert (await attempt(ModelRateLimited("no"))).cost == 0

    async def test_is_a_function_of_the_log(self) -> None:
        result = await attempt(run("x"), DONE)
        assert result_of(result.events) == result
        with pytest.raises(ValueError, match="not the log of a finished run"):
            result_of(result.events[:-1])

    async def test_listeners_see_pieces_that_the_log_does_not_keep(self) -> None:
        seen: list[Event] = []
        result = await attempt(DONE, on_event=seen.append)
        assert [event.text for event in seen if isinstance(event, ModelText)] == [DONE]
        assert [event for event in seen if not event.transient] == list(result.events)

    async def test_run_ids_differ(self) -> None:
        assert (await attempt(DONE)).run_id < (await attempt(DONE)).run_id


TWICE = """
import os, signal, sys, threading, time
from agentexec import solve_sync
from tests.agentexec.doubles import ScriptedModel, run
def press():
    for wait in (0.002, float(sys.argv[1])):
        time.sleep(wait)
        os.kill(os.getpid(), signal.SIGINT)
pressing = threading.Thread(target=press)
def heard(event):
    if event.type == "block_output": pressing.start()
signal.signal(signal.SIGINT, signal.default_int_handler)
block = run("import time\\nprint('up', flush=True)\\ntime.sleep(30)")
solve_sync("x", model=ScriptedModel([block]), executor="local", plan=False, on_event=heard)
"""
"""In a process of its own, since an interrupt may come where nothing of ours takes it any more."""


class TestSync:
    def test_an_error_is_passed_on_as_it_is(self) -> None:
        with pytest.raises(ValueError, match="bug") as caught:
            solve_sync("x", model=ScriptedModel([ValueError("bug")]), executor=FakeExecutor(), plan=False)
        assert caught.value.__context__ is None, "nothing was being handled"

    def test_does_the_same(self) -> None:
        result = solve_sync("x", model=ScriptedModel([run("x"), DONE]), executor=FakeExecutor(), plan=False)
        assert result.answer == "42"

    @pytest.mark.parametrize("delay", [0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05])
    def test_control_c_twice_leaves_nothing(self, tmp_path: Path, delay: float) -> None:
        command = [sys.executable, "-c", TWICE, str(delay)]
        done = subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, timeout=40)
        assert done.returncode == -signal.SIGINT, done.stderr.decode()
        assert b"KeyboardInterrupt" in done.stderr
        assert list(tmp_path.iterdir()) == []

    async def test_in_an_event_loop_says_what_to_write(self) -> None:
        with pytest.raises(RuntimeError, match=r"await solve\("):
            solve_sync("x", model=ScriptedModel([DONE]), executor=FakeExecutor())


async def test_many_runs_at_once_do_not_mix() -> None:
    async def one(number: int) -> str | None:
        model = ScriptedModel([run(f"print({number})"), f"FINAL ANSWER: {number}"])
        return (await solve(f"Say {number}.", model=model, executor=FakeExecutor())).answer

    assert await asyncio.gather(*map(one, range(50))) == [str(number) for number in range(50)]
