"""What it costs to keep runs: the loop with store and tracing on, resuming, branching, listing."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable

from agentexec.events import Event, RunFinished, RunResumed
from agentexec.log import new_run_id
from agentexec.solving import solve
from agentexec.store import Store
from agentexec.store.database import transaction
from sandboxes.fake import FakeExecutor
from tests.bench import commands
from tests.bench.loop_bench import InstantModel, loop_overhead_ms
from tests.bench.measure import Row
from tests.bench.tracing import recording

ROUNDS = 5


def kept_loop() -> list[Row]:
    """Framework time per turn with store and tracing on."""
    with tempfile.TemporaryDirectory() as directory, Store(directory) as store, recording() as tracing:
        few, many = loop_overhead_ms(50, 5000, rounds=3, store=store, tracing=tracing)
        used = loop_overhead_ms(50, 5000, rounds=1, store=store, tracing=tracing, clock=time.process_time)
    return [
        Row("loop per turn, store and tracing on, 50 turns", few, "ms", most=1.5),
        Row("loop per turn, store and tracing on, 5,000 turns", many, "ms", most=1.5),
        Row("  5,000 over 50 turns, store and tracing on", many / few, "x", most=1.2),
        Row("  CPU time of it, 50 turns", used[0], "ms"),
        Row("  CPU time of it, 5,000 turns", used[1], "ms"),
    ]


def kept_runs() -> list[Row]:
    """Resuming and branching a run of 10,000 events, and listing 10,000 runs."""
    with tempfile.TemporaryDirectory() as directory, Store(directory) as store:
        run_id = asyncio.run(_long_run(store))
        resume = statistics.median(asyncio.run(_resume(store, store.branch(run_id))) for _ in range(ROUNDS))
        turns = store.summary(run_id).turns
        branch = _median(lambda: store.branch(run_id, turns - 1))
        with transaction(store.db):
            for number in range(10_000):
                status = ("solved", "not_solved", "running")[number % 3]
                store.db.execute(
                    "INSERT INTO runs (run_id, began, updated, status, task, cost) VALUES (?, ?, ?, ?, ?, '0.01')",
                    (new_run_id(), time.time(), time.time(), status, f"Task number {number} of a long list of tasks"),
                )
        latest, used = (measure("runs", "--store", directory) for measure in (commands.wall_ms, commands.cpu_ms))
        everything = commands.wall_ms("runs", "--limit", "0", "--store", directory)
    return [
        Row("resume of a run of 10,000 events", resume * 1000, "ms", most=1000),
        Row("branch of it", branch * 1000, "ms", most=50),
        Row("agentexec runs, of 10,000", latest, "ms", most=300),
        Row("  CPU time of it", used, "ms"),
        Row("agentexec runs --limit 0, all 10,000", everything, "ms", most=300),
    ]


async def _long_run(store: Store) -> str:
    events = 0

    def count(event: Event) -> None:
        nonlocal events
        events += not event.transient

    result = await solve(
        "Count.",
        model=InstantModel(),
        executor=FakeExecutor(lambda block: "12345\n" * 10),
        max_turns=3000,
        store=store,
        on_event=count,
    )
    assert events > 10_000, events
    return result.run_id


async def _resume(store: Store, run_id: str) -> float:
    """Return the seconds from the call to the first new event of a run."""
    first = 0.0

    def on_event(event: Event) -> None:
        nonlocal first
        if isinstance(event, RunFinished):
            first = first or time.perf_counter()
        assert isinstance(event, RunResumed | RunFinished), event

    began = time.perf_counter()
    result = await solve(
        "Count.",
        model=InstantModel(),
        executor=FakeExecutor(),
        max_turns=1,
        store=store,
        resume=run_id,
        on_event=on_event,
    )
    assert result.stop_reason == "max_turns"
    return first - began


def _median(call: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


MEASURES = (kept_loop, kept_runs)
