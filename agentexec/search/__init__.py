"""Several runs at one task, and the best of them: side by side (`best_of`), or step by step (`tree_search`).

    tests = check_command("python -m pytest -q")
    found = await best_of(5, "Make the tests pass.", model="gpt-5-mini", workspace="project", score=tests)
    print(found.message, found.cost)

Each candidate works in a sandbox and a copy of the workspace of its own. It is scored there, by a function of yours or
by a command. The files of the best one that passes take the place of the workspace's; all else that was made is
removed, but for what a store keeps: there each candidate is a run like any other, with its workspace after each block.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from agentexec.defaults import MAX_TURNS
from agentexec.events import Event, RunStarted
from agentexec.models import Model, make_model
from agentexec.parts import InputFiles, read_inputs
from agentexec.search.candidates import Candidate, SearchResult
from agentexec.search.running import Budget, MakeExecutor, Node, Search, past_of, stored_state
from agentexec.search.scoring import Score, Scorer, check_command
from agentexec.snapshots import SnapshotStore
from agentexec.store import Store
from sandboxes.types import Limits

__all__ = ["Candidate", "Score", "Scorer", "SearchResult", "best_of", "check_command", "tree_search"]


async def best_of(
    n: int,
    task: str | None = None,
    *,
    model: Model | str | Sequence[Model | str],
    score: Scorer,
    executor: str | MakeExecutor = "local",
    limits: Limits | None = None,
    workspace: str | Path | None = None,
    files: InputFiles = (),
    target: float = 1.0,
    concurrency: int = 4,
    max_turns: int = MAX_TURNS,
    max_cost: Decimal | float | None = None,
    max_tokens: int | None = None,
    deadline: float | None = None,
    store: Store | None = None,
    kept: Mapping[str, Any] | None = None,
    run: str | None = None,
    at: int | None = None,
    on_event: Callable[[int, Event], None] | None = None,
    **options: Any,
) -> SearchResult:
    """Solve a task several times, and keep the best.

    Args:
        n: How many candidates.
        task: What to do; None where `run` says it.
        model: As for `solve`; of several, each candidate takes the next one.
        score: Judges a candidate; see `Scorer` and `check_command`.
        executor: Spec string of the sandboxes, or a function that makes an executor for a workspace (None: for one that
            is thrown away); it is closed here.
        limits: What each block, and each check, may use.
        workspace: What each candidate begins with a copy of; becomes the best one's if that passes, and is left as it
            is otherwise. None begins with nothing, and throws everything away.
        files: Copied into each workspace first, as for `solve`.
        target: The search ends when a candidate passes with this score or a higher one; others are cancelled.
        concurrency: How many run at the same time.
        max_turns: Of each candidate.
        max_cost: USD of all together. What is on its way when it is reached may go beyond it.
        max_tokens: Of all together, likewise.
        deadline: Seconds of all together.
        store: Where the runs are kept, each as one that can be resumed.
        kept: Settings that are kept with each, as for `Store.record`: what `agentexec resume` needs.
        run: Id of a run in `store` that all candidates branch off.
        at: Turn of it after which they do; None is its end.
        on_event: Called with the number of a candidate and each of its events.
        options: Further arguments of `solve`.

    Raises:
        ValueError: an argument makes no sense.
        SnapshotError: the workspace cannot be copied, or the best one's files not be brought there.
        Further errors, as of `solve`.
    """
    _at_least_one(n=n, max_turns=max_turns)
    return await tree_search(
        task,
        model=model,
        score=score,
        width=n,
        depth=1,
        turns=max_turns,
        executor=executor,
        limits=limits,
        workspace=workspace,
        files=files,
        target=target,
        concurrency=concurrency,
        max_cost=max_cost,
        max_tokens=max_tokens,
        deadline=deadline,
        store=store,
        kept=kept,
        run=run,
        at=at,
        on_event=on_event,
        **options,
    )


async def tree_search(
    task: str | None = None,
    *,
    model: Model | str | Sequence[Model | str],
    score: Scorer,
    width: int = 3,
    depth: int = 3,
    beam: int = 1,
    turns: int = 8,
    executor: str | MakeExecutor = "local",
    limits: Limits | None = None,
    workspace: str | Path | None = None,
    files: InputFiles = (),
    target: float = 1.0,
    concurrency: int = 4,
    max_cost: Decimal | float | None = None,
    max_tokens: int | None = None,
    deadline: float | None = None,
    store: Store | None = None,
    kept: Mapping[str, Any] | None = None,
    run: str | None = None,
    at: int | None = None,
    on_event: Callable[[int, Event], None] | None = None,
    **options: Any,
) -> SearchResult:
    """Solve a task step by step: of several beginnings the best go on, each several ways.

    At each step `width` candidates run for `turns` turns and are scored where they stand; the `beam` best branch into
    `width` each, with the conversation and the workspace as they were, until one reaches the target or there were
    `depth` steps. A candidate that ended with an answer goes no further.

    Args:
        task: See `best_of`; so are the arguments that are not named here.
        model: See `best_of`.
        score: Judges a candidate, also one that has not come to an end.
        width: Ways that each goes on.
        depth: Steps.
        beam: How many go on after each.
        turns: Of each step.
        executor: See `best_of`. The workspaces have to be on this machine.
        limits: See `best_of`.
        workspace: See `best_of`.
        files: See `best_of`.
        target: See `best_of`.
        concurrency: See `best_of`.
        max_cost: See `best_of`.
        max_tokens: See `best_of`.
        deadline: See `best_of`.
        store: See `best_of`.
        kept: See `best_of`.
        run: See `best_of`.
        at: See `best_of`.
        on_event: See `best_of`.
        options: See `best_of`.

    Raises:
        As `best_of`.
    """
    _at_least_one(width=width, depth=depth, beam=beam, turns=turns, concurrency=concurrency)
    if run is not None and store is None:
        raise ValueError("run= is the id of a run in a store: say in which, with store=")
    past: tuple[Event, ...] = ()
    if run is not None and store is not None:
        run = store.find(run).run_id
        past = past_of(store, run, at)
        first = past[0]
        task = first.task if isinstance(first, RunStarted) and task is None else task
    if task is None or not task.strip():
        raise ValueError("the task is empty; say in plain words what to do")
    models = [model] if isinstance(model, (str, Model)) else list(model)
    async with AsyncExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="agentexec-search-"))
        search = Search(
            task=task,
            models=[await _opened(each, stack) for each in models],
            score=score,
            executor=executor,
            limits=limits,
            inputs=await asyncio.to_thread(read_inputs, files) if files else {},
            target=target,
            budget=Budget(max_cost, max_tokens, deadline),
            store=store,
            on_event=on_event,
            options=options,
            snapshots=SnapshotStore(scratch),
            slots=asyncio.Semaphore(concurrency),
            keeps=workspace is not None or depth > 1,
            kept=kept or {},
        )
        begin = Node(events=past, run_id=run or "", at=at)
        if workspace is not None:
            begin = replace(begin, state=(await search.keep(Path(workspace)), search.snapshots))
        if past and store is not None:
            begin = replace(begin, state=stored_state(store, past) or begin.state)
        await search.grow([begin], width, depth, beam, turns)
        return await search.finish(workspace)


def _at_least_one(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, not {value}")


async def _opened(model: Model | str, stack: AsyncExitStack) -> Model:
    if isinstance(model, Model):
        return model
    opened = make_model(model)
    stack.push_async_callback(opened.close)
    return opened
