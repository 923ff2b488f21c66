"""A run under the command line, a new one or one that goes on: signals, the view, the store, and what is told after."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentexec.answering import answer_from_store
from agentexec.cli.approval import Terminal
from agentexec.cli.models import Role, Speakers
from agentexec.cli.options import SANDBOX_FAILED, STORE_FAILED, USAGE, WAITING, Place, fail, make_executor
from agentexec.cli.output import CannotWrite, abandon_stderr, say, write_stdout
from agentexec.cli.signals import INTERRUPTED, interrupts
from agentexec.cli.teams import check_outside, team_maker
from agentexec.cli.tracing import tracing
from agentexec.cli.view import View, make_view
from agentexec.context import Context
from agentexec.errors import SettingsError, StoreError
from agentexec.events import Answer, Event, Question, RunFinished, RunStarted, Status
from agentexec.human import Human, later
from agentexec.log import new_run_id
from agentexec.result import SolveResult, result_of
from agentexec.settings import Settings
from agentexec.solving import STORE_STOP, solve
from agentexec.store import Recorder
from agentexec.visible import visible
from sandboxes.errors import SandboxError, UnknownExecutor

if TYPE_CHECKING:
    from agentexec.telemetry import Tracing

_STATUS = {
    "solved": 0,
    "not_solved": 1,
    "model_failed": 3,
    "waiting": WAITING,
    "sandbox_failed": SANDBOX_FAILED,
    "interrupted": INTERRUPTED,
}


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be run.

    Attributes:
        task: What to do, in plain words.
        settings: All settings.
        place: Where blocks run.
        model: Who speaks.
        workspace: Directory to work in.
        own_workspace: Whether the user did not name it, so that it is told.
        recorder: Keeps the run; None keeps nothing.
        past: The run's events so far.
        json: Whether stdout is one JSON object.
        prompts: Files with system prompts in place of the package's own, by agent.
    """

    task: str
    settings: Settings
    place: Place
    model: Speakers
    workspace: Path
    own_workspace: bool
    recorder: Recorder | None
    past: Sequence[Event] = ()
    json: bool = False
    prompts: Mapping[Role, str] = field(default_factory=dict)


def run_job(job: Job, inputs: Mapping[str, bytes]) -> int:
    """Run to the end, tell what came of it, and return the exit status of the command."""
    try:
        with tracing(job.settings.base_url) as traced, make_view(sys.stderr) as view:
            for event in job.past:
                view.count(event)
            result = asyncio.run(_Run(job, view, traced).run(inputs))
    except BaseException:
        if job.own_workspace:
            remove_if_empty(job.workspace)  # then nothing was done
        raise
    return _report(result, job)


class _Run:
    """One run, and what is left of it when it is interrupted."""

    def __init__(self, job: Job, view: View, traced: Tracing | None) -> None:
        self._job, self._traced = job, traced
        self._view: View | None = view
        self._events: list[Event] = list(job.past)

    async def run(self, inputs: Mapping[str, bytes]) -> SolveResult:
        """Run to the end, whatever it is."""
        with interrupts() as signals:
            try:
                return await self._solve(inputs)
            except asyncio.CancelledError:
                if not signals:
                    raise
                return self._ended("interrupted", "interrupted", "interrupted before the run began")
            except StoreError as error:
                return self._ended("interrupted", STORE_STOP, str(error))
            except SettingsError as error:
                fail(str(error), USAGE)
            except UnknownExecutor as error:
                fail(f"--sandbox: {error}", USAGE)
            except SandboxError as error:
                return self._ended("sandbox_failed", "sandbox_failed", str(error) or type(error).__name__)
            finally:
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await self._job.model.close()

    async def _solve(self, inputs: Mapping[str, bytes]) -> SolveResult:
        job, settings, place = self._job, self._job.settings, self._job.place
        check_outside("--cache", settings.cache, job.workspace)
        options: dict[str, Any] = {"max_turns": settings.max_turns} if settings.max_turns else {}
        async with contextlib.AsyncExitStack() as stack:
            if place.isolation is None:
                options.update(executor=place.sandbox, limits=place.limits, workspace=job.workspace)
            else:  # a spec string cannot carry it, so the executor is ours to open and close
                options["executor"] = executor = make_executor(place, job.workspace, bar=False)
                stack.push_async_callback(executor.close)
            return await solve(
                job.task,
                model=job.model.model,
                models=job.model.models,
                code_mode=settings.code_mode,
                context=Context(window=settings.context_window),
                files=inputs,
                team=team_maker(settings.team, job.workspace, job.model.make),
                plan=settings.plan,
                review=settings.review,
                review_plan=settings.review_plan,
                approve=settings.approve,
                human=self._human(),
                max_tokens=settings.max_tokens,
                max_cost=settings.max_cost,
                deadline=settings.deadline,
                on_event=self._on_event,
                tracing=self._traced or False,
                prompts=job.prompts,
                store=job.recorder,
                resume=job.past or None,
                **options,
            )

    def _human(self) -> Human:
        """Return who answers: the terminal, another process by way of the store, or whoever comes first of both."""
        patience, recorder = self._job.settings.answer_timeout, self._job.recorder
        terminal = Terminal(sys.stdin, sys.stderr).ask
        if recorder is None:
            return Human(terminal, patience)

        async def elsewhere(question: Question) -> Answer:
            return await answer_from_store(recorder, question)

        async def either(question: Question) -> Answer:
            return await _first(terminal(question), elsewhere(question))

        async def elsewhere_in_time(question: Question) -> Answer:
            try:
                async with asyncio.timeout(patience):
                    return await elsewhere(question)
            except TimeoutError:
                later(question)

        if sys.stdin.isatty():
            return Human(either, patience)
        if "answer_timeout" in self._job.settings.model_fields_set:
            return Human(elsewhere_in_time, None)
        return Human(later)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RunStarted) and event.workspace is None:
            job = self._job
            event = event.model_copy(update={"executor": job.place.sandbox, "workspace": str(job.workspace)})
        if not event.transient:
            self._events.append(event)
        try:
            if self._view is not None:
                self._view(event)
        except OSError:  # nobody looks any more, which must not cost the answer
            self._view = None
            abandon_stderr()

    def _ended(self, status: Status, reason: str, message: str) -> SolveResult:
        """Return the result where `solve` returned none: by its last event, or by what is said here."""
        job = self._job
        if job.own_workspace:
            remove_if_empty(job.workspace)
        events = self._events
        if not events:
            events = [
                RunStarted(
                    run_id=new_run_id() if job.recorder is None else job.recorder.run_id,
                    task=job.task,
                    model=job.model.name,
                    executor=job.place.sandbox,
                    limits=job.place.limits,
                    workspace=str(job.workspace),
                )
            ]
        if len(events) == len(job.past) or not isinstance(events[-1], RunFinished):
            events = [*events, RunFinished(status=status, stop_reason=reason, message=message)]
        return result_of(events)


async def _first(*ways: Any) -> Answer:
    """Return what the first of several ways to an answer gives, and give up the others."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        answer: Answer = done.pop().result()
        return answer
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def remove_if_empty(workspace: Path) -> None:
    """Remove a directory that nothing was put into."""
    with contextlib.suppress(OSError):
        workspace.rmdir()


def _report(result: SolveResult, job: Job) -> int:
    status = STORE_FAILED if result.stop_reason == STORE_STOP else _STATUS[result.status]
    try:
        if job.json:
            write_stdout(result.model_dump_json())
        elif result.answer is not None:
            write_answer(result.answer)
    except CannotWrite as error:
        if not error.quiet:
            say(str(error))
            status = status or error.status
    if not result.solved:
        reason = "" if result.stop_reason == result.status else f"{result.stop_reason}: "
        say(f"{result.status}: {reason}{result.message}")
    if job.own_workspace and job.workspace.exists():
        say(f"workspace kept in {job.workspace}")
    # The recorder knows whether there is anything to go on from.
    if job.recorder is not None and job.recorder.position and not result.solved:
        run_id = job.recorder.run_id
        if result.status == "waiting":
            say(
                f"to answer, type 'agentexec approve {run_id}', 'agentexec reject {run_id} --reason TEXT' or "
                f"'agentexec reply {run_id} TEXT'"
            )
        say(f"to go on, type 'agentexec resume {run_id}'")
    return status


def write_answer(answer: str) -> None:
    """Write a run's answer to stdout.

    Raises:
        CannotWrite: nobody reads, the disk is full, ….
    """
    write_stdout(visible(answer) if sys.stdout.isatty() else answer, sys.stdout.encoding)
