"""Best of several runs, with a scripted model server and real sandboxes."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentexec.errors import ModelUnreachable
from agentexec.events import Event, RunStarted
from agentexec.models.base import ChatMessage, Completion, Model
from agentexec.models.openai import OpenAIModel
from agentexec.result import SolveResult
from agentexec.search import Score, SearchResult, best_of, check_command, tree_search
from agentexec.snapshots import SnapshotStore
from agentexec.solving import solve
from agentexec.store import Store
from sandboxes.executor import Executor
from tests.agentexec.doubles import COST, ScriptedModel, role_of, run, slow_restore
from tests.openai_server import OpenAIServer, Said

ONE_AGENT: dict[str, Any] = {"plan": False, "review": False}


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workspaces and snapshots of candidates are gone afterwards."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert list(place.iterdir()) == []


class Server(OpenAIServer):
    """Answers by the model that is asked: each has a script of its own."""

    def __init__(self, **scripts: list[str]) -> None:
        super().__init__()
        self.scripts = {name.replace("_", "-"): list(lines) for name, lines in scripts.items()}

    def reply_to(self, body: dict[str, Any]) -> Said:
        lines = self.scripts[body["model"]]
        return Said(lines.pop(0) if len(lines) > 1 else lines[0])


def models(server: OpenAIServer, *names: str) -> list[Model | str]:
    return [OpenAIModel(name, base_url=server.url, api_key="k") for name in names]


def writes(text: str) -> list[str]:
    return [run(f"open('answer', 'w').write({text!r})"), f"FINAL ANSWER: {text}"]


def read(workspace: Path) -> str:
    return (workspace / "answer").read_text()


async def closed(used: Sequence[Model | str]) -> None:
    for each in used:
        assert isinstance(each, Model)
        await each.close()


async def test_the_best_of_three_real_runs_is_kept(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/given").write_text("given")
    (tmp_path / "work/given").chmod(0o640)
    with Server(a=writes("wrong"), b=writes("right"), c=writes("worse")) as server:
        used = models(server, "a", "b", "c")
        found = await best_of(
            3,
            "Write the answer.",
            model=used,
            workspace=tmp_path / "work",
            score=check_command("cat given > seen && touch report && grep -q right answer"),
            target=2,  # beyond reach: all are tried
            **ONE_AGENT,
        )
        await closed(used)
    assert [(each.number, each.passed) for each in found.candidates] == [(1, False), (2, True), (3, False)]
    assert found.best is found.candidates[1]
    assert found.best.result is not None
    assert found.best.result.answer == "right"
    assert found.stop_reason == "exhausted"
    assert len({each.run_id for each in found.candidates}) == 3
    assert read(tmp_path / "work") == "right"
    # what the check wrote is no part of it
    assert sorted(os.listdir(tmp_path / "work")) == ["answer", "given"]
    assert (tmp_path / "work/given").stat().st_mode & 0o777 == 0o640


async def test_a_number_on_the_last_line_is_the_score(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with Server(a=writes("3"), b=writes("70.5"), c=writes("nan")) as server:
        used = models(server, "a", "b", "c")
        found = await best_of(
            3,
            "x",
            model=used,
            workspace=tmp_path / "work",
            score=check_command("echo scores:; cat answer; echo; test $(cat answer) != 3"),
            target=100,
            **ONE_AGENT,
        )
        await closed(used)
    assert [each.score and (each.score.value, each.score.passed) for each in found.candidates] == [
        (3.0, False),
        (70.5, True),
        (1.0, True),
    ]
    assert read(tmp_path / "work") == "70.5"


async def test_none_passes_and_the_workspace_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/mine").write_text("mine")
    with Server(a=writes("x")) as server:
        used = models(server, "a")
        found = await best_of(
            2, "x", model=used, workspace=tmp_path / "work", score=check_command("exit 3"), **ONE_AGENT
        )
        await closed(used)
    assert found.best is None
    assert "none of 2 candidates passes (exhausted): it does not pass" in found.message
    assert os.listdir(tmp_path / "work") == ["mine"]


def scripted(*lines: Any) -> ScriptedModel:
    return ScriptedModel(list(lines))


class Waiting(Model):
    """Answers when it is told to."""

    name = "waiting"

    def __init__(self) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def complete(self, messages: Sequence[ChatMessage], **options: Any) -> Completion:
        self.asked.set()
        await self.go.wait()
        return Completion("FINAL ANSWER: late", cost=COST)


async def test_others_are_cancelled_once_one_reaches_the_target() -> None:
    slow = Waiting()

    async def score(executor: Executor, result: SolveResult) -> bool:
        await slow.asked.wait()
        return True

    quick = scripted("FINAL ANSWER: 1")
    found = await best_of(2, "x", model=[quick, slow], score=score, executor="fake", **ONE_AGENT)
    assert found.stop_reason == "target"
    assert found.best is not None
    assert found.best.number == 1
    assert found.candidates[1].error == "cancelled: another candidate had reached the target"
    assert found.candidates[1].result is None


async def test_failures_of_single_candidates_are_told_and_cost_no_other() -> None:
    def score(executor: Executor, result: SolveResult) -> float:
        if result.answer == "3":
            raise KeyError("broken scorer")
        return 0.5

    used = [scripted(unreachable()), scripted("FINAL ANSWER: 2"), scripted("FINAL ANSWER: 3")]
    found = await best_of(3, "x", model=used, score=score, executor="fake", target=0.5, concurrency=1, **ONE_AGENT)
    assert found.candidates[0].error.startswith("model_failed: ")
    assert found.best is found.candidates[1]
    found = await best_of(
        2,
        "x",
        model=[scripted(unreachable()), scripted("FINAL ANSWER: 3")],
        score=score,
        executor="fake",
        **ONE_AGENT,
    )
    assert found.best is None
    assert "scoring failed: KeyError" in found.message
    assert "model_failed" in found.message


def unreachable() -> Exception:
    return ModelUnreachable("no connection")


async def test_a_budget_is_one_for_all() -> None:
    used = [ScriptedModel(lambda messages: run("1")) for _ in range(4)]
    found = await best_of(
        4, "x", model=used, score=lambda e, r: False, executor="fake", max_cost=0.05, concurrency=2, **ONE_AGENT
    )
    assert found.stop_reason == "max_cost"
    assert found.cost is not None
    assert Decimal("0.05") <= found.cost <= Decimal("0.06")
    assert found.cost == sum(each.cost or 0 for each in found.candidates)
    assert [bool(each.result) for each in found.candidates] == [True, True, False, False]
    assert found.candidates[3].error == "not begun: max_cost reached"


async def test_the_deadline_is_one_for_all() -> None:
    found = await best_of(
        3, "x", model=Waiting(), score=lambda e, r: False, executor="fake", deadline=0.2, concurrency=1, **ONE_AGENT
    )
    assert found.stop_reason == "deadline"
    assert found.candidates[2].error == "not begun: deadline reached"
    assert found.candidates[0].result is not None
    assert found.candidates[0].result.stop_reason == "deadline"


async def test_equal_scores_go_to_the_first_and_order_is_that_of_numbers() -> None:
    used = [scripted(f"FINAL ANSWER: {number}") for number in range(5)]
    seen: list[int] = []

    def on_event(number: int, event: Event) -> None:
        if isinstance(event, RunStarted):
            seen.append(number)

    found = await best_of(
        5, "x", model=used, score=lambda e, r: 0.5, executor="fake", target=0.5, on_event=on_event, concurrency=1,
        **ONE_AGENT,
    )  # fmt: skip
    assert seen == [1]  # the first reached it
    found = await best_of(
        5, "x", model=[scripted(f"FINAL ANSWER: {n}") for n in range(5)], executor="fake", target=9,
        score=lambda e, r: Score(0.5, passed=True), **ONE_AGENT,
    )  # fmt: skip
    assert [each.number for each in found.candidates] == [1, 2, 3, 4, 5]
    assert found.best is found.candidates[0]


async def test_cancelled_search_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    slow = Waiting()
    task = asyncio.create_task(
        best_of(2, "x", model=slow, score=lambda e, r: True, workspace=tmp_path / "work", **ONE_AGENT)
    )
    await slow.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # the fixture looks for what is left


async def test_search_that_is_cancelled_while_a_workspace_is_restored_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = slow_restore(monkeypatch)
    task = asyncio.create_task(climb(tmp_path))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("name", ["take", "restore"])
async def test_search_that_is_cancelled_at_its_snapshots_leaves_no_thread_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = tmp_path / "work"
    place.mkdir()
    begun, ended = asyncio.Event(), list[str]()
    loop, method = asyncio.get_running_loop(), getattr(SnapshotStore, name)

    def slowly(*arguments: Any, **options: Any) -> object:
        if place in arguments:
            loop.call_soon_threadsafe(begun.set)
            time.sleep(0.2)
        try:
            return method(*arguments, **options)
        finally:
            ended.append(str(arguments[-1]))

    monkeypatch.setattr(SnapshotStore, name, slowly)
    task = asyncio.create_task(
        best_of(1, "x", model=scripted(*writes("1")), score=lambda e, r: True, workspace=place, **ONE_AGENT)
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert str(place) in ended
    assert (place / "answer").exists() == (name == "restore"), "whole, or not at all"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 0}, "n is at least 1"),
        ({"task": " "}, "the task is empty"),
        ({"run": "x"}, "say in which, with store="),
        ({"concurrency": 0}, "concurrency is at least 1"),
    ],
)
async def test_arguments_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {
        "n": 2, "task": "x", "model": scripted(), "score": lambda e, r: True, "executor": "fake", **options
    }  # fmt: skip
    with pytest.raises(ValueError, match=said):
        await best_of(**arguments)
    with pytest.raises(ValueError, match="the check is empty"):
        check_command(" ")


async def climb(tmp_path: Path, **options: Any) -> SearchResult:
    """Each step may add one to a counter in the workspace; the second of three ways does."""

    def coder(messages: Sequence[ChatMessage]) -> str:
        assert role_of(messages) == "coder"
        return run("n = int(open('n').read()); open('n', 'w').write(str(n + 1))")

    lazy = ScriptedModel(lambda messages: run("pass"))
    busy = ScriptedModel(coder)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/n").write_text("0")

    async def score(executor: Executor, result: SolveResult) -> Score:
        value = float(await executor.get("n"))
        return Score(value, passed=value >= 3)

    return await tree_search(
        "Count to three.",
        model=[lazy, busy, lazy],
        workspace=tmp_path / "work",
        score=score,
        turns=2,
        target=3,
        **{"width": 3, "depth": 5, **ONE_AGENT, **options},
    )


async def test_tree_search_goes_on_from_the_best(tmp_path: Path) -> None:
    found = await climb(tmp_path)
    assert found.stop_reason == "target"
    assert found.best is not None
    assert (found.best.depth, found.best.parent) == (3, 5)
    assert [(each.parent, each.depth) for each in found.candidates[3:6]] == [(2, 2)] * 3
    assert [each.score.value for each in found.candidates[:6] if each.score] == [0, 1, 0, 1, 2, 1]
    assert (tmp_path / "work/n").read_text() == "3"
    result = found.best.result
    assert result is not None
    assert result.turns == 6  # the conversation, too, went on
    assert len(result.blocks) == 3
    # each paid for its own turns only
    assert found.best.cost == COST
    assert len({each.run_id for each in found.candidates}) == len(found.candidates)


async def test_tree_search_ends_at_its_depth(tmp_path: Path) -> None:
    found = await climb(tmp_path, depth=2)
    assert (found.stop_reason, found.best) == ("exhausted", None)
    assert len(found.candidates) == 6
    assert (tmp_path / "work/n").read_text() == "0"


@pytest.mark.parametrize("at", [None, 2])
async def test_candidates_branch_off_a_stored_run(tmp_path: Path, at: int | None) -> None:
    (tmp_path / "work").mkdir()
    first = scripted(run("open('log', 'a').write('a')"), run("open('log', 'a').write('b')"), *["Well."] * 9)
    with Store(tmp_path / "store") as store:
        begun = await solve("Write.", model=first, workspace=tmp_path / "work", store=store, max_turns=4, **ONE_AGENT)
        assert (begun.status, begun.turns) == ("not_solved", 4)
        (tmp_path / "other").mkdir()
        used = [scripted(run(f"open('log', 'a').write('{name}')"), "FINAL ANSWER: 1") for name in "xy"]
        found = await best_of(
            2,
            model=used,
            score=check_command("cat log; grep -q y log"),
            workspace=tmp_path / "other",
            store=store,
            run=begun.run_id[:-1],
            at=at,
            target=2,
            **ONE_AGENT,
        )
        assert found.best is not None, found
        assert found.best.number == 2
        # the conversation and the workspace as they were at that turn
        assert (tmp_path / "other/log").read_text() == ("ay" if at else "aby")
        assert (tmp_path / "work/log").read_text() == "ab"
        ids = {each.run_id for each in found.candidates}
        assert len(ids) == 2
        assert begun.run_id not in ids
        assert {summary.run_id for summary in store.runs()} == ids | {begun.run_id}
        told = [role for role, _ in used[1].calls]
        assert told == ["coder", "coder"]
