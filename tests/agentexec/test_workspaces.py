"""Workspaces of kept runs: saved as each block left them, beside the event loop, and honestly."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentexec.branching import branch
from agentexec.errors import SnapshotError, SnapshotGivenUp
from agentexec.events import (
    BlockFinished,
    BlockStarted,
    Event,
    MessageAdded,
    RunResumed,
    WorkspaceNotSaved,
    WorkspaceSaved,
)
from agentexec.log import EventLog
from agentexec.search.running import stored_state
from agentexec.solving import solve
from agentexec.store import Store
from agentexec.workspaces import WorkspaceSaver, is_half_done, last_saved, remove_workspace, snapshots_of, unsaved
from sandboxes.types import CodeBlock, Result
from tests.agentexec.doubles import ScriptedModel, run, slow_restore

TWO = run("open('a', 'w').write('1')") + run("open('a', 'w').write('2')")
BLOCK = CodeBlock("x")
MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as made:
        yield made


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace"
    path.mkdir()
    (path / "before").write_text("0")
    return path


async def solved(store: Store, workspace: Path, *lines: str, **options: object) -> list[Event]:
    result = await solve(
        "x",
        model=ScriptedModel([*lines, "FINAL ANSWER: done"]),
        executor="local",
        workspace=workspace,
        plan=False,
        review=False,
        store=store,
        **options,  # type: ignore[arg-type]
    )
    assert result.solved, result.message
    return store.events(result.run_id)


def started(turn: int) -> Event:
    return BlockStarted(turn=turn, index=0, block=BLOCK)


def finished(turn: int, verdict: str = "ok") -> Event:
    result = Result.model_validate({"verdict": verdict})
    return BlockFinished(turn=turn, index=0, block=BLOCK, result=result)


SAVED, NOT_SAVED = WorkspaceSaved(snapshot="s"), WorkspaceNotSaved(reason="full")


async def test_each_block_is_saved_before_anything_else_happens(store: Store, workspace: Path) -> None:
    events = await solved(store, workspace, TWO)
    after = [type(events[place + 1]) for place, event in enumerate(events) if isinstance(event, BlockFinished)]
    assert after == [WorkspaceSaved, WorkspaceSaved]
    saved = [event.snapshot for event in events if isinstance(event, WorkspaceSaved)]
    kept = snapshots_of(store)
    assert len(saved) == 3
    assert [entry.path for entry in kept.entries(saved[0])] == ["before"]
    assert [kept.read(snapshot, "a") for snapshot in saved[1:]] == [b"1", b"2"]


async def test_what_a_long_output_left_in_the_workspace_is_saved_with_it(store: Store, workspace: Path) -> None:
    events = await solved(store, workspace, run("print('long ' * 20_000)"))
    snapshot = last_saved(events)
    assert snapshot is not None
    assert ".agentexec/outputs" in [entry.path for entry in snapshots_of(store).entries(snapshot)]


async def test_a_run_that_is_cancelled_while_its_workspace_is_put_back_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    options: dict[str, Any] = {"executor": "local", "plan": False, "review": False, "store": store}
    first = await solve("x", model=ScriptedModel([TWO, run("1")]), max_turns=2, **options)
    begun = slow_restore(monkeypatch)
    task = asyncio.create_task(solve("x", model=ScriptedModel([run("1")]), resume=first.run_id, **options))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.get_running_loop().shutdown_default_executor()  # which waits for what is still at work
    assert list(place.iterdir()) == []


async def test_other_runs_go_on_meanwhile(store: Store, workspace: Path) -> None:
    (workspace / "large").write_bytes(bytes(range(256)) * (32 * MIB // 256))
    log = EventLog("r", store.record("r"))
    log.subscribe(WorkspaceSaver(log, store, lambda: workspace))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    log.append(RunResumed())
    assert len(log) == 1, "append does not wait"
    await log.settled()
    task.cancel()
    assert turns > 10
    assert [type(event) for event in log] == [RunResumed, WorkspaceSaved]


async def test_a_cancelled_snapshot_is_over_at_once_and_taken_at_the_next_try(store: Store, workspace: Path) -> None:
    for number in range(2000):
        (workspace / f"{number}").write_bytes(b"%d" % number * 1000)
    log = EventLog("r", store.record("r"))
    log.subscribe(WorkspaceSaver(log, store, lambda: workspace))
    log.append(RunResumed())
    task = asyncio.create_task(log.settled())
    objects = store.directory / "snapshots" / "objects"
    while not objects.is_dir() or not any(objects.iterdir()):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(log) == 1
    kept = sum(1 for each in objects.rglob("*") if each.is_file())
    assert kept < 2000, "it gave up on the way"
    assert sum(1 for each in objects.rglob("*") if each.is_file()) == kept, "nobody is at work any more"
    await log.settled()
    assert isinstance(log[-1], WorkspaceSaved)
    assert log[-1].files == 2001


async def test_a_failure_is_an_event_and_the_next_block_tries_again(store: Store, workspace: Path) -> None:
    in_the_way = store.directory / "snapshots"
    in_the_way.touch()

    def clear(event: Event) -> None:
        if isinstance(event, WorkspaceNotSaved):
            in_the_way.unlink()

    events = await solved(store, workspace, TWO, on_event=clear)
    told = [event for event in events if isinstance(event, WorkspaceSaved | WorkspaceNotSaved)]
    assert [type(event) for event in told] == [WorkspaceNotSaved, WorkspaceSaved, WorkspaceSaved]
    assert isinstance(told[0], WorkspaceNotSaved)
    assert "cannot keep snapshots in" in told[0].reason


async def test_what_was_read_before_a_failure_is_not_read_again(store: Store, workspace: Path) -> None:
    for number in range(50):
        (workspace / f"{number:03}").write_bytes(b"%d" % number * 1000)
    await asyncio.sleep(0.03)  # younger ones are never trusted
    kept, asked = snapshots_of(store), 0

    def given_up() -> bool:
        nonlocal asked
        asked += 1
        return asked > 60

    with pytest.raises(SnapshotGivenUp):
        kept.take(workspace, given_up=given_up)
    first, asked = asked, 0
    with pytest.raises(SnapshotGivenUp):
        kept.take(workspace, given_up=given_up)
    third = kept.take(workspace)
    assert first == asked == 61
    assert third.files == 51


def test_what_is_missing_in_the_last_snapshot() -> None:
    assert unsaved([started(1), finished(1)]) is None, "nobody knows its workspace"
    assert unsaved([SAVED, started(1), finished(1), SAVED]) is None
    assert unsaved([SAVED, started(1)]) is None
    assert unsaved([SAVED, started(1), finished(1, "cancelled")]) is None
    lost = [SAVED, started(1), finished(1), NOT_SAVED, started(2), finished(2), NOT_SAVED]
    assert str(unsaved(lost)) == "what was done from turn 1 on was not saved: full"
    assert str(unsaved([SAVED, started(3), finished(3)])).endswith(
        "turn 3 on was not saved: its process ended before that"
    )
    assert str(unsaved([NOT_SAVED])) == "it was never saved: full"
    assert unsaved([*lost, SAVED]) is None
    assert is_half_done([SAVED, started(1)])
    assert not is_half_done([SAVED, started(1), finished(1)])


async def test_a_branch_at_the_task_has_the_workspace_of_the_begin(store: Store, workspace: Path) -> None:
    events = await solved(store, workspace, TWO)
    (run_id,) = [run.run_id for run in store.runs()]
    for message in (None, "another task"):
        begun = store.events(branch(store, run_id, 0, message))
        assert isinstance(begun[-2], MessageAdded)
        assert begun[-1].model_copy(update={"time": 0}) == next(
            event.model_copy(update={"time": 0}) for event in events if isinstance(event, WorkspaceSaved)
        )
    middle = store.events(branch(store, run_id, 2, "it went otherwise"))
    assert last_saved(middle) == last_saved(events), "the message of turn 2 tells of what the blocks did"


async def test_candidates_do_not_begin_with_less_than_was_there(store: Store, workspace: Path) -> None:
    (store.directory / "snapshots").touch()
    events = await solved(store, workspace, TWO)
    with pytest.raises(SnapshotError, match="it was never saved"):
        stored_state(store, events)
    assert stored_state(store, [started(1), finished(1)]) is None


async def test_a_run_whose_workspace_was_thrown_away_goes_on_with_its_files(store: Store) -> None:
    options = {"executor": "local", "plan": False, "review": False, "store": store}
    first = await solve("x", model=ScriptedModel([TWO]), max_turns=2, **options)  # type: ignore[arg-type]
    assert first.stop_reason == "max_turns"
    again = ScriptedModel([run("print(open('a').read())"), "FINAL ANSWER: done"])
    result = await solve("x", model=again, resume=first.run_id, **options)  # type: ignore[arg-type]
    assert result.solved
    assert result.blocks[-1].result is not None
    assert result.blocks[-1].result.stdout == "2\n"

    (run_id,) = [kept.run_id for kept in store.runs()]
    other = store.branch(run_id, 1)
    shutil.rmtree(store.directory / "snapshots")
    with pytest.raises(SnapshotError, match="there is no snapshot"):
        await solve("x", model=again, resume=other, **options)  # type: ignore[arg-type]


def test_a_workspace_is_removed_however_deep_it_is(store: Store, tmp_path: Path) -> None:
    place = store.workspace("r")
    place.mkdir(parents=True)
    here = os.open(place, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.fchmod(here, 0)
    os.close(here)
    remove_workspace(store, "r")
    assert not place.exists()
    remove_workspace(store, "r")


async def test_a_workspace_that_is_gone_is_no_error(store: Store, workspace: Path) -> None:
    log = EventLog("r", store.record("r"))
    log.subscribe(WorkspaceSaver(log, store, lambda: workspace))
    shutil.rmtree(workspace)
    log.append(RunResumed())
    await log.settled()
    assert len(log) == 1
