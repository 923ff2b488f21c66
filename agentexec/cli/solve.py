"""`agentexec solve`: a task for the team, shown as it goes, with the answer on stdout."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentexec.cli.approval import Terminal
from agentexec.cli.models import Speakers, make_speakers
from agentexec.cli.options import SANDBOX_FAILED, USAGE, Place, fail, make_executor, place_of
from agentexec.cli.output import CannotWrite, abandon_stderr, say, write_stdout
from agentexec.cli.signals import INTERRUPTED, interrupts
from agentexec.cli.tracing import tracing
from agentexec.cli.view import View, make_view
from agentexec.context import Context
from agentexec.errors import SettingsError
from agentexec.events import Event, RunFinished, RunStarted, Status
from agentexec.human import Human
from agentexec.log import new_run_id
from agentexec.markdown import visible
from agentexec.result import SolveResult, result_of
from agentexec.settings import Settings, load_settings
from agentexec.solving import read_inputs, solve
from sandboxes.errors import SandboxError, UnknownExecutor

if TYPE_CHECKING:
    from agentexec.telemetry import Tracing
WAITING = 4
"""Exit status of a run that waits for a person's answer."""

_STATUS = {
    "solved": 0,
    "not_solved": 1,
    "model_failed": 3,
    "sandbox_failed": SANDBOX_FAILED,
    "interrupted": INTERRUPTED,
    "waiting": WAITING,
}


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for, apart from settings.

    Attributes:
        task: What to do, in plain words.
        files: Paths of input files.
        workspace: Directory to work in; None makes one that is kept.
        record: Where to write the model's side of the run.
        json: Whether stdout is one JSON object.
    """

    task: str
    files: tuple[str, ...]
    workspace: Path | None
    record: str | None
    json: bool


def solve_command(request: Request, flags: Mapping[str, Any]) -> int:
    """Solve a task and return the exit status of the command.

    Args:
        request: What to do.
        flags: Values of the flags that are settings, None where not given.
    """
    try:
        settings = load_settings(flags, workspace=request.workspace)
    except SettingsError as error:
        fail(str(error), USAGE)
    _check_task(request.task)
    asks = "--review-plan" if settings.review_plan else f"--approve {settings.approve}"
    if (settings.review_plan or settings.approve != "never") and not sys.stdin.isatty():
        fail(f"{asks} asks on the terminal, and standard input is none", USAGE)
    inputs = _inputs(request.files)
    model = make_speakers(settings, request.record)
    place = place_of(settings.model_dump())
    workspace = request.workspace or Path(tempfile.mkdtemp(prefix="agentexec-"))
    try:
        with tracing(settings.base_url) as traced, make_view(sys.stderr) as view:
            run = _Run(request, settings, place, model, workspace, view, traced)
            result = asyncio.run(run.run(inputs))
    except BaseException:
        if request.workspace is None:
            _remove_if_empty(workspace)  # then nothing was done
        raise
    return _report(result, request, workspace)


def _check_task(task: str) -> None:
    if not task.strip():
        fail("the task is empty; say in plain words what to do", USAGE)
    try:
        task.encode()
    except UnicodeEncodeError:  # bytes of the argument that could not be decoded
        fail(f"the task is not text in {sys.getfilesystemencoding()}", USAGE)


def _inputs(paths: tuple[str, ...]) -> dict[str, bytes]:
    try:
        return read_inputs(paths)
    except OSError as error:
        fail(f"--file {error.filename}: {error.strerror}", USAGE)
    except ValueError as error:  # two of one name, or a name that is no path in the workspace
        fail(f"--file: {error}", USAGE)


class _Run:
    """One run under the command line: signals, view, and what is left of it when it is interrupted."""

    def __init__(
        self,
        request: Request,
        settings: Settings,
        place: Place,
        model: Speakers,
        workspace: Path,
        view: View,
        traced: Tracing | None,
    ) -> None:
        self._request, self._settings, self._place = request, settings, place
        self._traced = traced
        self._model, self._workspace = model, workspace
        self._view: View | None = view
        self._events: list[Event] = []

    async def run(self, inputs: Mapping[str, bytes]) -> SolveResult:
        """Run to the end, whatever it is."""
        task = asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            task.cancel()

        with interrupts(interrupt) as signals:
            try:
                return await self._solve(inputs)
            except asyncio.CancelledError:
                if not signals:
                    raise
                if not self._events:
                    return self._never_began("interrupted", "interrupted before the run began")
                return result_of(self._events)
            except UnknownExecutor as error:
                fail(f"--sandbox: {error}", USAGE)
            except SandboxError as error:
                return self._never_began("sandbox_failed", str(error) or type(error).__name__)
            finally:
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await self._model.close()

    async def _solve(self, inputs: Mapping[str, bytes]) -> SolveResult:
        settings, place = self._settings, self._place
        options: dict[str, Any] = {"max_turns": settings.max_turns} if settings.max_turns else {}
        async with contextlib.AsyncExitStack() as stack:
            if place.isolation is None:
                options.update(executor=place.sandbox, limits=place.limits, workspace=self._workspace)
            else:  # a spec string cannot carry it, so the executor is ours to open and close
                options["executor"] = executor = make_executor(place, self._workspace, bar=False)
                stack.push_async_callback(executor.close)
            return await solve(
                self._request.task,
                model=self._model.model,
                models=self._model.models,
                code_mode=settings.code_mode,
                context=Context(window=settings.context_window),
                files=inputs,
                plan=settings.plan,
                review=settings.review,
                review_plan=settings.review_plan,
                approve=settings.approve,
                human=Human(Terminal(sys.stdin, sys.stderr).ask, settings.answer_timeout),
                max_tokens=settings.max_tokens,
                max_cost=settings.max_cost,
                deadline=settings.deadline,
                on_event=self._on_event,
                tracing=self._traced or False,
                **options,
            )

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RunStarted) and event.workspace is None:
            event = event.model_copy(update={"executor": self._place.sandbox, "workspace": str(self._workspace)})
        if not event.transient:
            self._events.append(event)
        try:
            if self._view is not None:
                self._view(event)
        except OSError:  # nobody looks any more, which must not cost the answer
            self._view = None
            abandon_stderr()

    def _never_began(self, status: Status, message: str) -> SolveResult:
        place = self._place
        if self._request.workspace is None:
            _remove_if_empty(self._workspace)
        started = RunStarted(
            run_id=new_run_id(),
            task=self._request.task,
            model=self._model.name,
            executor=place.sandbox,
            limits=place.limits,
            workspace=str(self._workspace),
        )
        return result_of([started, RunFinished(status=status, stop_reason=status, message=message)])


def _remove_if_empty(workspace: Path) -> None:
    with contextlib.suppress(OSError):
        workspace.rmdir()


def _report(result: SolveResult, request: Request, workspace: Path) -> int:
    status = _STATUS[result.status]
    try:
        if request.json:
            write_stdout(result.model_dump_json())
        elif result.answer is not None:
            shown = visible(result.answer) if sys.stdout.isatty() else result.answer
            write_stdout(shown, sys.stdout.encoding)
    except CannotWrite as error:
        if not error.quiet:
            say(str(error))
            status = status or error.status
    if not result.solved:
        say(f"{result.status}: {result.stop_reason}: {result.message}")
    if request.workspace is None and workspace.exists():
        say(f"workspace kept in {workspace}")
    return status
