"""`agentexec solve --best-of N --check CMD`: several runs at one task, and the best of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentexec.cli.models import Speakers, make_speakers
from agentexec.cli.options import SANDBOX_FAILED, USAGE, Place, fail, make_executor, place_of
from agentexec.cli.output import CannotWrite, say, write_stdout
from agentexec.cli.runs import fail_store
from agentexec.cli.signals import INTERRUPTED, interrupts
from agentexec.cli.solve import Request, check_task, kept_settings, read_files
from agentexec.cli.teams import read_team_file, team_maker
from agentexec.cli.tracing import tracing
from agentexec.context import Context
from agentexec.defaults import MAX_TURNS
from agentexec.errors import SettingsError, SnapshotError, StoreError
from agentexec.events import BlockFinished, Event, RunFinished, RunStarted
from agentexec.search import Candidate, SearchResult, best_of, check_command
from agentexec.settings import Settings, load_settings
from agentexec.store import Store
from agentexec.visible import visible
from sandboxes.errors import SandboxError

_FAILED = {"model_failed": 3, "sandbox_failed": SANDBOX_FAILED}


@dataclass(frozen=True, slots=True)
class Contest:
    """How many candidates there are, and what makes one good.

    Attributes:
        n: How many.
        check: Shell command that runs in each one's workspace; status 0 passes.
        target: Score at which the others are no longer waited for.
    """

    n: int
    check: str
    target: float


def read_contest(best_of: int | None, check: str | None, target: float | None) -> Contest:
    """Return what the flags ask for; ends the command where they make no sense."""
    if best_of is None:
        fail("--check and --target go with --best-of N", USAGE)
    if best_of < 1:
        fail(f"--best-of is at least 1, not {best_of}", USAGE)
    if check is None or not check.strip():
        fail("--best-of needs --check CMD, a command that ends with status 0 where a candidate will do", USAGE)
    return Contest(best_of, check, 1.0 if target is None else target)


def best_command(request: Request, flags: Mapping[str, Any], contest: Contest) -> int:
    """Solve a task several times, keep the best, and return the exit status of the command."""
    try:
        settings = load_settings(flags, workspace=request.workspace)
        read_team_file(settings.team, request.workspace)
    except SettingsError as error:
        fail(str(error), USAGE)
    check_task(request.task)
    if settings.review_plan or settings.approve != "never":
        fail("--best-of asks nobody: leave out --approve and --review-plan", USAGE)
    if settings.cache is not None:
        fail("--cache would give all candidates the same answers: leave it out with --best-of", USAGE)
    if request.record is not None:
        fail("--record records one run, and --best-of makes several", USAGE)
    inputs = read_files(request.files)
    model = make_speakers(settings, None)
    place = place_of(settings.model_dump())
    workspace = request.workspace or Path(tempfile.mkdtemp(prefix="agentexec-"))
    try:
        with contextlib.ExitStack() as stack:
            traced = stack.enter_context(tracing(settings.base_url))
            options: dict[str, Any] = {"tracing": traced} if traced is not None else {}
            if request.keep:
                options["store"] = stack.enter_context(Store(settings.store, secrets=model.secrets))
                options["kept"] = kept_settings(settings, request.files)
            job = _Job(request, settings, place, model, workspace, contest, {**options, "files": inputs})
            found = asyncio.run(job.run())
    except StoreError as error:
        fail_store(error)
    finally:
        if request.workspace is None:
            with contextlib.suppress(OSError):
                workspace.rmdir()  # if nothing came into it
    if found is None:
        say("interrupted: the workspaces of the candidates are removed")
        _tell_workspace(request, workspace)
        _tell_kept(request)
        return INTERRUPTED
    return _report(found, request, workspace)


class _Job:
    """The search under the command line: signals, and a line for each candidate that begins and ends."""

    def __init__(
        self,
        request: Request,
        settings: Settings,
        place: Place,
        model: Speakers,
        workspace: Path,
        contest: Contest,
        options: dict[str, Any],
    ) -> None:
        self._request, self._settings, self._place = request, settings, place
        self._model, self._workspace, self._contest, self._options = model, workspace, contest, options

    async def run(self) -> SearchResult | None:
        """Search to the end; None if a signal came."""
        with interrupts() as signals:
            try:
                return await self._search()
            except asyncio.CancelledError:
                if not signals:
                    raise
                return None
            except SandboxError as error:
                fail(f"the sandbox failed: {error or type(error).__name__}", SANDBOX_FAILED)
            except SnapshotError as error:
                fail(str(error), SANDBOX_FAILED)
            finally:
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await self._model.close()

    async def _search(self) -> SearchResult:
        settings = self._settings
        return await best_of(
            self._contest.n,
            self._request.task,
            model=self._model.model,
            models=self._model.models,
            score=check_command(self._contest.check),
            target=self._contest.target,
            executor=lambda workspace: make_executor(self._place, workspace, bar=False),
            workspace=self._workspace,
            max_turns=settings.max_turns or MAX_TURNS,
            max_tokens=settings.max_tokens,
            max_cost=settings.max_cost,
            deadline=settings.deadline,
            plan=settings.plan,
            review=settings.review,
            code_mode=settings.code_mode,
            team=team_maker(settings.team, self._workspace, self._model.make),
            context=Context(window=settings.context_window),
            on_event=_tell,
            **self._options,
        )


def _tell(number: int, event: Event) -> None:
    if isinstance(event, RunStarted):
        say(f"candidate {number}: run {event.run_id}")
    elif isinstance(event, BlockFinished):
        say(f"candidate {number}: {event.block.language} block {event.result.verdict}, {event.result.duration:.2f} s")
    elif isinstance(event, RunFinished):
        say(f"candidate {number}: {event.status}: {event.stop_reason}")


def _report(found: SearchResult, request: Request, workspace: Path) -> int:
    for each in found.candidates:
        say(_line(each))
    say(found.message)
    status = 0 if found.best is not None else _failure(found)
    try:
        if request.json:
            write_stdout(json.dumps(_as_json(found)))
        elif found.best is not None and found.best.result is not None and found.best.result.answer is not None:
            answer = found.best.result.answer
            write_stdout(visible(answer) if sys.stdout.isatty() else answer, sys.stdout.encoding)
    except CannotWrite as error:
        if not error.quiet:
            say(str(error))
            status = status or error.status
    _tell_workspace(request, workspace)
    _tell_kept(request)
    return status


def _tell_workspace(request: Request, workspace: Path) -> None:
    if request.workspace is None and workspace.exists():
        say(f"workspace kept in {workspace}")


def _tell_kept(request: Request) -> None:
    if request.keep:
        say("each candidate is kept as a run: 'agentexec runs' lists them, 'agentexec resume RUN' goes on with one")


def _line(candidate: Candidate) -> str:
    score = "not scored" if candidate.score is None else f"score {candidate.score.value:g}"
    passed = ", passes" if candidate.passed else ""
    cost = "" if not candidate.cost else f", ${candidate.cost:.4f}"
    why = f": {candidate.error}" if candidate.error else ""
    return f"candidate {candidate.number}: {score}{passed}{cost}{why}"


def _failure(found: SearchResult) -> int:
    """Return the exit status for a search without a best one: of the failure, where all failed alike."""
    kinds = {"" if each.result is None else each.result.status for each in found.candidates}
    return _FAILED.get(kinds.pop(), 1) if len(kinds) == 1 else 1


def _as_json(found: SearchResult) -> dict[str, Any]:
    best = found.best
    result = None if best is None or best.result is None else best.result.model_dump(mode="json")
    return {
        "best": None if best is None else best.number,
        "result": result,
        "stop_reason": found.stop_reason,
        "cost": None if found.cost is None else float(found.cost),
        "usage": found.usage.model_dump(),
        "candidates": [
            {
                "number": each.number,
                "run_id": each.run_id,
                "status": None if each.result is None else each.result.status,
                "answer": None if each.result is None else each.result.answer,
                "score": None if each.score is None else each.score.value,
                "passed": each.passed,
                "check": None if each.score is None else each.score.detail,
                "turns": None if each.result is None else each.result.turns,
                "cost": None if each.cost is None else float(each.cost),
                "error": each.error or None,
            }
            for each in found.candidates
        ],
    }
