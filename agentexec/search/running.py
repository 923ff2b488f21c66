"""A search under way: candidates side by side, each in a sandbox and a workspace of its own."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from agentexec.errors import SnapshotError
from agentexec.events import Event, MessageAdded, ModelCalled, RunStarted
from agentexec.log import new_run_id
from agentexec.models.base import Model, Usage
from agentexec.result import SolveResult
from agentexec.search.candidates import Candidate, SearchResult, SearchStop
from agentexec.search.scoring import Score, Scorer
from agentexec.snapshots import SnapshotStore
from agentexec.solving import solve
from agentexec.stops import AnyStop, ExternalStop, MaxCost, MaxTokens
from agentexec.store import Recorder, Store
from agentexec.workspaces import in_thread, last_saved, snapshots_of, unsaved
from sandboxes.errors import SandboxError
from sandboxes.executor import Executor
from sandboxes.registry import open_executor
from sandboxes.throwaway import ThrowawayDirectory
from sandboxes.types import Limits
from sandboxes.waiting import uninterrupted

MakeExecutor = Callable[[Path | None], Executor]


def past_of(store: Store, run: str, at: int | None) -> tuple[Event, ...]:
    """Return the events of a stored run up to the end of a turn; None is its end."""
    events = store.events(run)
    return tuple(events if at is None else events[: store.position_after(run, at)])


def stored_state(store: Store, past: Iterable[Event]) -> tuple[str, SnapshotStore] | None:
    """Return the workspace of a stored run as it was at the end of `past`; None if it had none that is known.

    Raises:
        SnapshotError: it was not saved there.
    """
    events = tuple(past)
    if (missing := unsaved(events)) is not None:
        raise SnapshotError(f"no candidate can begin with the run's workspace: {missing}")
    snapshot = last_saved(events)
    return None if snapshot is None else (snapshot, snapshots_of(store))


@dataclass(frozen=True, slots=True)
class Node:
    """Where candidates go on from: a conversation, and a workspace in a snapshot store."""

    events: tuple[Event, ...] = ()
    state: tuple[str, SnapshotStore] | None = None
    run_id: str = ""
    at: int | None = None
    number: int | None = None
    depth: int = 0

    @property
    def turns(self) -> int:
        """Turns of its conversation."""
        return max((event.message.turn for event in self.events if isinstance(event, MessageAdded)), default=0)


class Budget:
    """What all candidates may spend together."""

    def __init__(self, cost: Decimal | float | None, tokens: int | None, deadline: float | None) -> None:
        self.stop = ExternalStop()
        self.reason: SearchStop | None = None
        self._end = None if deadline is None else time.monotonic() + deadline
        conditions: list[AnyStop] = [] if cost is None else [MaxCost(Decimal(str(cost)))]
        conditions += [] if tokens is None else [MaxTokens(tokens)]
        self._states = [(condition, condition.start) for condition in conditions]

    def spend(self, event: ModelCalled) -> None:
        """Count a call, and stop everything if that was the last."""
        self._states = [(condition, condition.step(state, event)) for condition, state in self._states]
        for condition, state in self._states:
            reached = condition.check(state, 0.0)
            if reached is not None and self.reason is None:
                self.reason = "max_cost" if isinstance(condition, MaxCost) else "max_tokens"
                self.stop.stop(f"of all candidates together: {reached.message}")

    @property
    def seconds(self) -> float | None:
        """What is left of the deadline."""
        return None if self._end is None else self._end - time.monotonic()

    @property
    def used_up(self) -> SearchStop | None:
        """Which budget is used up, or None."""
        if self.reason is None and self.seconds is not None and self.seconds <= 0:
            self.reason = "deadline"
        return self.reason


@dataclass(slots=True)
class Search:
    """A search under way: what its candidates share, and what came of them."""

    task: str
    models: list[Model]
    score: Scorer
    executor: str | MakeExecutor
    limits: Limits | None
    inputs: Mapping[str, bytes]
    target: float
    budget: Budget
    store: Store | None
    on_event: Callable[[int, Event], None] | None
    options: dict[str, Any]
    snapshots: SnapshotStore
    slots: asyncio.Semaphore
    keeps: bool
    kept: Mapping[str, Any] = field(default_factory=dict)
    name: str = field(default_factory=new_run_id)
    candidates: dict[int, Candidate] = field(default_factory=dict)
    states: dict[int, str] = field(default_factory=dict)
    reached: bool = False

    async def keep(self, directory: Path) -> str:
        """Take a snapshot, and return its id."""
        return (await in_thread(lambda given_up: self.snapshots.take(directory, given_up=given_up))).id

    async def grow(self, nodes: list[Node], width: int, depth: int, beam: int, turns: int) -> None:
        """Go on from the nodes, step by step."""
        for _ in range(depth):
            await self._step([node for node in nodes for _ in range(width)], turns)
            ranked = sorted(self.candidates.values(), key=lambda each: each.rank, reverse=True)
            newest = max(each.depth for each in self.candidates.values())
            going = [each for each in ranked if each.depth == newest and self._goes_on(each)]
            nodes = [self._node(each) for each in going[:beam]]
            if self.reached or self.budget.used_up or not nodes:
                return

    def _goes_on(self, candidate: Candidate) -> bool:
        # With an answer it has ended; without a workspace on this machine there is nothing to go on from.
        result = candidate.result
        return result is not None and result.stop_reason == "max_turns" and candidate.number in self.states

    def _node(self, candidate: Candidate) -> Node:
        assert candidate.result is not None
        state = self.states[candidate.number], self.snapshots
        return Node(candidate.result.events, state, candidate.run_id, None, candidate.number, candidate.depth)

    async def _step(self, nodes: list[Node], turns: int) -> None:
        """Run a candidate from each node, until all are done or one has reached the target."""
        first = len(self.candidates) + 1
        tasks = []
        for number, node in enumerate(nodes, first):
            self.candidates[number] = Candidate(number, parent=node.number, depth=node.depth + 1)
            tasks.append(asyncio.create_task(self._candidate(number, node, turns)))
        try:
            waiting = set(tasks)
            while waiting and not self.reached:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()  # raises what is wrong with the whole search
        finally:
            for each in tasks:
                each.cancel()
            await uninterrupted(asyncio.gather(*tasks, return_exceptions=True))

    async def _candidate(self, number: int, node: Node, turns: int) -> None:
        def note(**changes: Any) -> None:
            self.candidates[number] = replace(self.candidates[number], **changes)

        note(error="cancelled: another candidate had reached the target")
        async with self.slots:
            if self.reached:
                return
            if self.budget.used_up is not None:
                note(error=f"not begun: {self.budget.used_up} reached")
                return
            try:
                await self._run(number, node, turns)
            except SandboxError as error:
                note(error=f"the sandbox failed: {error or type(error).__name__}")

    async def _run(self, number: int, node: Node, turns: int) -> None:
        async with AsyncExitStack() as stack:
            workspace = None
            if node.state is not None:
                # To its end: what is being written while it is removed would stay.
                workspace = await uninterrupted(asyncio.to_thread(_restored, node.state, stack))
            executor = self._open(workspace)
            stack.push_async_callback(executor.close)
            result = await self._solve(number, node, turns, executor)
            await self._judge(number, result, executor)

    def _open(self, workspace: Path | None) -> Executor:
        if isinstance(self.executor, str):
            return open_executor(self.executor, limits=self.limits, workspace=workspace)
        if self.limits is not None:
            raise ValueError("limits belong to the executor: set them where you make it")
        return self.executor(workspace)

    async def _solve(self, number: int, node: Node, turns: int, executor: Executor) -> SolveResult:
        options = dict(self.options)
        stop: AnyStop = self.budget.stop
        if (further := options.pop("stop", None)) is not None:
            stop = stop | further
        if node.events:
            run_id, options["resume"] = self._branch(node)
            self.candidates[number] = replace(self.candidates[number], run_id=run_id)
        if (seconds := self.budget.seconds) is not None:
            options["deadline"] = max(seconds, 0.001)
        with self._recorder(number, node) as options["store"]:
            return await solve(
                self.task,
                model=self.models[(number - 1) % len(self.models)],
                executor=executor,
                files=self.inputs,
                max_turns=node.turns + turns,
                stop=stop,
                on_event=lambda event: self._heard(number, event),
                **options,
            )

    @contextmanager
    def _recorder(self, number: int, node: Node) -> Iterator[Recorder | None]:
        """Give what keeps a candidate as a run like any other, which can be resumed; None where nothing is kept."""
        if self.store is None:
            yield None
            return
        run_id = self.candidates[number].run_id
        shared = self.store.summary(node.run_id).settings if run_id else {}
        spec = self.executor if isinstance(self.executor, str) else self.kept.get("sandbox")
        recorder = self.store.record(
            run_id or new_run_id(),
            settings={**shared, **self.kept, "search": self.name, "candidate": number},
            place={} if spec is None else {"executor": spec},
        )
        try:
            yield recorder
        finally:
            recorder.close()

    def _branch(self, node: Node) -> tuple[str, str | tuple[Event, ...]]:
        """Return the id of a new branch, and what it resumes: that id in the store, or events that bear it."""
        if self.store is not None:
            run_id = self.store.branch(node.run_id, node.at)
            return run_id, run_id
        first = node.events[0]
        if not isinstance(first, RunStarted):
            raise ValueError("a branch begins with the beginning of a run")
        run_id = new_run_id()
        return run_id, (first.model_copy(update={"run_id": run_id}), *node.events[1:])

    def _heard(self, number: int, event: Event) -> None:
        if isinstance(event, ModelCalled):
            candidate = self.candidates[number]
            cost = None if event.cost is None or candidate.cost is None else candidate.cost + event.cost
            usage = candidate.usage + (event.usage or Usage())
            self.candidates[number] = replace(candidate, cost=cost, usage=usage)
            self.budget.spend(event)
        if isinstance(event, RunStarted):
            self.candidates[number] = replace(self.candidates[number], run_id=event.run_id)
        if self.on_event is not None:
            self.on_event(number, event)

    async def _judge(self, number: int, result: SolveResult, executor: Executor) -> None:
        # A branch shares its beginning, and so the id that is told there, with the run that it left.
        run_id = self.candidates[number].run_id or result.run_id
        candidate = replace(self.candidates[number], result=result, run_id=run_id, error="")
        if result.status not in ("solved", "not_solved"):
            self.candidates[number] = replace(candidate, error=f"{result.status}: {result.message}")
            return
        try:
            # Before the check, whose caches and reports are no part of what is sought.
            if self.keeps and executor.local_workspace is not None:
                self.states[number] = await self.keep(executor.local_workspace)
            given = self.score(executor, result)
            score = self._read(await given if inspect.isawaitable(given) else given)
            candidate = replace(candidate, score=score)
        except SnapshotError as error:
            candidate = replace(candidate, error=str(error))
        except Exception as error:
            # One candidate may break a scorer that others do not.
            candidate = replace(candidate, error=f"scoring failed: {type(error).__name__}: {error}")
        self.candidates[number] = candidate
        if candidate.passed and candidate.score is not None and candidate.score.value >= self.target:
            self.reached = True

    def _read(self, given: Score | float | bool) -> Score:
        if isinstance(given, Score):
            return given
        if isinstance(given, bool):
            return Score(float(given), given)
        return Score(float(given), given >= self.target)

    async def finish(self, workspace: str | Path | None) -> SearchResult:
        """Bring the best one's files to the workspace, and return what came of it all."""
        candidates = tuple(self.candidates[number] for number in sorted(self.candidates))
        best = max((each for each in candidates if each.passed), key=lambda each: each.rank, default=None)
        if best is not None and workspace is not None:
            if best.number not in self.states:
                raise SnapshotError(f"the files of candidate {best.number} are not on this machine: {best.error}")
            # To its end, so that it is not half of one, half of the other.
            await uninterrupted(asyncio.to_thread(self.snapshots.restore, self.states[best.number], workspace))
        costs = [each.cost for each in candidates]
        return SearchResult(
            candidates=candidates,
            best=best,
            stop_reason="target" if self.reached else self.budget.used_up or "exhausted",
            cost=None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0)),
            usage=sum((each.usage for each in candidates), Usage()),
        )


def _restored(state: tuple[str, SnapshotStore], stack: AsyncExitStack) -> Path:
    """Make a workspace of a snapshot; the stack removes it."""
    own = ThrowawayDirectory()
    stack.push_async_callback(lambda: uninterrupted(asyncio.to_thread(own.remove)))
    snapshot, snapshots = state
    snapshots.restore(snapshot, own.path)
    return own.path
