"""Composes a run: model, executor, agents, stop conditions and event log. The work is done elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from agentexec.agents.coder import CodeMode
from agentexec.blocking import blocking
from agentexec.context import Context
from agentexec.conversation import Conversation, converse
from agentexec.defaults import MAX_TURNS
from agentexec.errors import HumanSilent, ModelError, StoreError, Suspended
from agentexec.events import (
    BlockFinished,
    BlockStarted,
    Event,
    MessageAdded,
    RunFinished,
    RunStarted,
    StateRestored,
)
from agentexec.human import Approval, Approve, Ask, Gate, Human, as_human
from agentexec.keeping import fast_forward, keep
from agentexec.log import EventLog, Listener
from agentexec.models import Model, make_model
from agentexec.parts import (
    ROLES,
    Compose,
    InputFiles,
    Parts,
    Role,
    environment,
    going_on,
    read_inputs,
    read_prompts,
    solve_team,
)
from agentexec.plan import follow_plan
from agentexec.result import SolveResult, result_of
from agentexec.stops import (
    AnyStop,
    ConsecutiveFailures,
    Deadline,
    MaxCost,
    MaxTokens,
    MaxTurns,
    RepeatedCode,
    Stop,
    StopWatch,
)
from agentexec.store import Recorder, Store
from agentexec.team import Team
from sandboxes.errors import SandboxError
from sandboxes.executor import Executor
from sandboxes.registry import open_executor
from sandboxes.types import CodeBlock, Limits, expect

if TYPE_CHECKING:
    from agentexec.telemetry import Tracing

STORE_STOP = "store"
"""Stop reason where the store can take no more."""


async def solve(
    task: str,
    *,
    model: Model | str,
    models: Mapping[Role, Model | str] | None = None,
    code_mode: CodeMode = "fences",
    context: Context | None = None,
    executor: Executor | str = "local",
    limits: Limits | None = None,
    workspace: str | Path | None = None,
    files: InputFiles = (),
    team: Compose | None = None,
    plan: bool = True,
    review: bool = True,
    review_plan: bool = False,
    approve: Approval | Approve = "never",
    human: Human | Ask | None = None,
    max_turns: int = MAX_TURNS,
    max_tokens: int | None = None,
    max_cost: Decimal | float | None = None,
    deadline: float | None = None,
    max_failures: int | None = 10,
    max_repeats: int | None = 3,
    stop: AnyStop | None = None,
    prompts: Mapping[Role, str | Path] | None = None,
    on_event: Listener | None = None,
    tracing: Tracing | bool = False,
    resume: Sequence[Event] | str | None = None,
    store: Store | Recorder | str | Path | None = None,
) -> SolveResult:
    """Let a team solve a task by writing code that runs in a sandbox.

    A model or a sandbox that fails does not raise: the result says so, and holds everything up to there.

    Args:
        task: What to do, in plain words.
        model: Who speaks for planner, coder and reviewer: a model, or a name as for `--model`.
        models: Who speaks for one of them instead, e.g. `{"reviewer": "gpt-5"}`.
        code_mode: How the coder's model sends code: in `fences`, or as `tools` by calling `execute_code`.
        context: How conversations are kept within the models' windows.
        executor: Where code runs: a spec string such as `"local"`, for which an executor is opened and closed
            here; or an executor, which is started if it is not yet, and left open.
        limits: What each block may use; only with a spec string.
        workspace: Directory to work in; only with a spec string. None takes one that is thrown away (a run that is
            resumed from a store gets one with the same files).
        files: Copied into the workspace first: a mapping of names to bytes, or paths on this machine.
        team: Makes another team of the run's parts, such as a `TeamSpec`; `plan`, `review` and `review_plan` are not
            for it. See `agentexec.parts`.
        plan: Whether a planner speaks first, and again when the coder seems stuck.
        review: Whether a reviewer judges code before it runs and the answer before it counts.
        review_plan: Whether the human approves, edits or rejects the plan.
        approve: Before which blocks the human is asked: `never`, `always`, or `risky` (see `agentexec.risks`: a
            convenience, not a boundary); or a function that decides about a block: True lets it run; False, or a
            string with the reason, does not; `ASK` asks the human.
        human: Who is asked: a callback that gets a `Question` and returns an `Answer`, or a `Human` with one and a
            time limit. See `agentexec.human`.
        max_turns: Messages after the task.
        max_tokens: Input and output together. Stops at once if the server does not count them.
        max_cost: USD. Stops at once if the model's price is unknown.
        deadline: Seconds, from now. Interrupts a model call or a block.
        max_failures: Blocks that fail in a row.
        max_repeats: Failures of the very same code, whatever ran in between.
        stop: A further stop condition. (One nudge, then `stall`, is always on in the usual team.)
        prompts: Files with system prompts in place of the package's own.
        on_event: Called with every event, transient ones too. If it raises, the run ends with that error.
        tracing: OpenTelemetry spans and metrics of the run: a `Tracing`, or True for one that uses what the
            application has set up.
        resume: The events of this run so far, to go on from where they end: give the same task, the same model
            and the same workspace again. Answers to questions may have been added (`QuestionAnswered`). Listeners
            are not told of these events again; limits count them. Or the id of a run in `store`.
        store: Where every event is written as it happens, so that the run can be resumed, also by another process
            (`agentexec.store`): a `Store`, its directory, or the `Recorder` of this run. None keeps nothing.

    Raises:
        ValueError: an argument makes no sense, or two files have one name.
        OSError: an input file or a prompt cannot be read.
        UnsafePath: the name of an input file leaves the workspace.
        UnknownExecutor: no executor has that name.
        SettingsError: the model's name makes no sense.
        ModelError: a model that was given by name could not be set up.
        StoreError: the store cannot be opened or written; what is in it can be resumed.
        SnapshotError: the workspace of a run that goes on was thrown away and cannot be put back.
        CancelledError: the task was cancelled, after the log has been closed as `interrupted`.
    """
    if not task.strip():
        raise ValueError("the task is empty; say in plain words what to do")
    person = as_human(human)
    gate = Gate(approve, person)
    if review_plan and person is None:
        raise ValueError("review_plan needs somebody to ask: give human=")
    if team is not None and not callable(team):
        raise TypeError("team is a function of the run's parts; from a file, write team=load_team(FILE)")
    condition = _stop_condition(max_turns, max_tokens, max_cost, deadline, max_failures, max_repeats, stop)
    inputs = await asyncio.to_thread(read_inputs, files) if files else {}
    system = read_prompts(prompts, code_mode)
    place = _executor(executor, limits, workspace)
    speakers, own = _speakers(model, models or {})
    further: dict[str, Model] = {}

    try:
        with keep(store, resume, secrets=[secret for each in speakers.values() for secret in each.secrets]) as kept:
            past = _past(task, kept.past)
            fast_forward(speakers.values(), past)
            where = executor if isinstance(executor, str) else executor.spec or type(executor).__name__
            note, resumed = going_on(past, place, where) if past else (environment(place, inputs), None)
            parts = Parts(speakers, place, gate, person, note, system, code_mode, context, further)
            members = (team or functools.partial(solve_team, plan=plan, review=review, review_plan=review_plan))(parts)
            log = kept.log(lambda: place.local_workspace if workspace is None else Path(workspace))
            if tracing:
                _follow(tracing, log)
            if on_event is not None:
                log.subscribe(on_event)
            # Once a block has run, the workspace has its files, as the blocks left them.
            begun = any(isinstance(event, BlockStarted) for event in past)
            run = _Run(task, log, members, place, {} if begun else inputs, condition)
            if past and isinstance(executor, str) and workspace is None:
                run.put_back = kept.put_back
            started = resumed or RunStarted(
                run_id=log.run_id,
                task=task,
                model=speakers["coder"].name,
                executor=where,
                limits=place.limits,
                workspace=None if workspace is None else str(workspace),
                files=tuple(inputs),
                environment=note,
            )
            return await run.result(started, close_executor=isinstance(executor, str))
    finally:
        async with contextlib.AsyncExitStack() as stack:
            for each in (*own, *further.values()):
                stack.push_async_callback(each.close)


class _Run:
    """One run, from its first event to its last."""

    def __init__(
        self,
        task: str,
        log: EventLog,
        team: Team,
        executor: Executor,
        inputs: Mapping[str, bytes],
        condition: AnyStop,
    ) -> None:
        self._task, self._log, self._team = task, log, team
        self._executor, self._inputs = executor, inputs
        self._watch = StopWatch(condition if team.stop is None else condition | team.stop, past=log)
        self.put_back: Callable[[Executor], Awaitable[None]] | None = None
        """Gives a workspace that was thrown away its files again."""
        log.subscribe(self._watch, self._watch.condition.hears)
        follow_plan(log)

    async def result(self, started: Event, *, close_executor: bool) -> SolveResult:
        try:
            self._log.append(started)
            try:
                finished = await self._finish()
                await self._log.settled()
            finally:
                closing = await self._close() if close_executor else ""
        except asyncio.CancelledError as error:
            self._interrupted(error, "interrupted", "the run was interrupted")
            raise
        except Exception as error:
            # A bug, or a listener or an `approve` that raised: the log is closed all the same.
            self._failed(error)
            raise
        if closing:
            message = "; ".join(part for part in (finished.message, closing) if part)
            finished = finished.model_copy(update={"message": message})
        self._log.append(finished)
        return result_of(self._log)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, StoreError):  # which may take this, though it did not take what came before
            self._interrupted(error, STORE_STOP, str(error))
        else:
            self._interrupted(error, "error", f"{type(error).__name__}: {error}")

    def _interrupted(self, error: BaseException, reason: str, message: str) -> None:
        try:
            self._log.append(RunFinished(status="interrupted", stop_reason=reason, message=message))
        except Exception as listener_error:
            # What interrupted the run matters more, above all a cancellation.
            error.add_note(f"then a listener failed: {listener_error!r}")

    async def _finish(self) -> RunFinished:
        """Run to the end, whatever it is, and return it as the last event."""
        limit = self._watch.certain_after
        try:
            async with asyncio.timeout(limit) as timer:
                return await self._converse()
        except TimeoutError:
            if limit is None or not timer.expired():
                raise
            return _stopped(
                self._watch.stopped(at_least=self._watch.condition.certain_after or limit)
                or Stop("deadline", "the deadline has passed")
            )
        except Suspended as error:
            return RunFinished(status="waiting", stop_reason="waiting", message=_words(error))
        except HumanSilent as error:
            return RunFinished(status="not_solved", stop_reason="human", message=_words(error))
        except ModelError as error:
            return RunFinished(status="model_failed", stop_reason="model_failed", message=_words(error))
        except SandboxError as error:
            return RunFinished(status="sandbox_failed", stop_reason="sandbox_failed", message=_words(error))

    async def _converse(self) -> RunFinished:
        await self._log.settled()
        await self._executor.start()
        if self.put_back is not None:
            await self.put_back(self._executor)
        if self._executor.keeps_state:
            await self._restore_state()
        for name, data in self._inputs.items():
            await self._executor.put(name, data)
        spoken = any(isinstance(event, MessageAdded) for event in self._log)
        conversation = Conversation.restore(self._log) if spoken else Conversation(self._task, self._log)
        stop = await converse(conversation, self._team.next_speaker, self._watch.stopped)
        if stop is not None:
            return _stopped(stop)
        return RunFinished(
            status="solved",
            stop_reason="final_answer",
            answer=self._team.answer(conversation),
            message="solved",
        )

    async def _restore_state(self) -> None:
        """Give a kernel its variables again, by the blocks that made them."""
        blocks: list[CodeBlock] = []
        for event in self._log:
            if isinstance(event, BlockFinished):
                if event.result.ok:
                    blocks.append(event.block)
                elif event.result.verdict == "lost":
                    blocks.clear()
        results = [await self._executor.run(block) for block in blocks]
        if blocks:
            self._log.append(StateRestored(blocks=len(blocks), failed=sum(not result.ok for result in results)))

    async def _close(self) -> str:
        """Close the executor; return what went wrong, which must not cost the answer."""
        try:
            await self._executor.close()
        except SandboxError as error:
            return f"closing the sandbox failed: {_words(error)}"
        return ""


def _follow(tracing: Tracing | bool, log: EventLog) -> None:
    from agentexec.telemetry import Tracing  # costs 50 ms, for which most runs have no use

    (Tracing() if isinstance(tracing, bool) else tracing).follow(log)


def _past(task: str, resume: Sequence[Event] | None) -> tuple[RunStarted, *tuple[Event, ...]] | tuple[()]:
    if resume is None:
        return ()
    first, *others = resume or (None,)
    if not isinstance(first, RunStarted):
        raise ValueError("resume= takes the events of a run, which begin with RunStarted")
    if first.task != task:
        raise ValueError("the run that is resumed has another task; give the same one again")
    if any(isinstance(event, RunFinished) and event.status == "solved" for event in others):
        raise ValueError("the run is solved; there is nothing to resume")
    return (first, *others)


def _stopped(stop: Stop) -> RunFinished:
    return RunFinished(status="not_solved", stop_reason=stop.reason, message=stop.message)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _stop_condition(
    max_turns: int,
    max_tokens: int | None,
    max_cost: Decimal | float | None,
    deadline: float | None,
    max_failures: int | None,
    max_repeats: int | None,
    stop: AnyStop | None,
) -> AnyStop:
    condition: AnyStop = MaxTurns(max_turns)
    further: list[AnyStop | None] = [
        None if deadline is None else Deadline(deadline),
        None if max_tokens is None else MaxTokens(max_tokens),
        None if max_cost is None else MaxCost(Decimal(str(max_cost))),
        None if max_failures is None else ConsecutiveFailures(max_failures),
        None if max_repeats is None else RepeatedCode(max_repeats),
        stop,
    ]
    for other in further:
        condition = condition if other is None else condition | other
    return condition


def _speakers(model: Model | str, models: Mapping[Role, Model | str]) -> tuple[Mapping[Role, Model], Sequence[Model]]:
    """Return each role's model, and those that were made here, by name, each once."""
    unknown = set(models) - set(ROLES)
    if unknown:
        raise ValueError(f"no agent is called {min(unknown)!r}; models may name {', '.join(ROLES)}")
    chosen = {role: models.get(role, model) for role in ROLES}
    for each in chosen.values():
        expect(each, (Model, str), "a model is a name such as 'gpt-5-mini' or a Model, which has a method `complete`")
    made = {name: make_model(name) for name in dict.fromkeys(chosen.values()) if isinstance(name, str)}
    return {role: made[each] if isinstance(each, str) else each for role, each in chosen.items()}, [*made.values()]


def _executor(executor: Executor | str, limits: Limits | None, workspace: str | Path | None) -> Executor:
    if isinstance(executor, str):
        return open_executor(executor, limits=limits, workspace=workspace)
    expect(executor, Executor, "executor is a spec such as 'local' or an Executor")
    if limits is not None or workspace is not None:
        raise ValueError("limits and workspace belong to the executor: set them where you make it")
    return executor


solve_sync = blocking(solve)
solve_sync.__name__ = solve_sync.__qualname__ = "solve_sync"
solve_sync.__doc__ = "Do what `solve` does, and wait for it. Takes the same arguments; not for use in an event loop."
