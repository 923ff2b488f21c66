"""`agentexec resume`, `approve`, `reject` and `reply`: a kept run goes on, or gets what it waits for."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentexec.answering import leave_answer, pending_question, take_answers
from agentexec.cli.models import Role, make_speakers
from agentexec.cli.options import STORE_FAILED, USAGE, fail, place_of
from agentexec.cli.output import CannotWrite, say
from agentexec.cli.running import Job, run_job, write_answer
from agentexec.cli.runs import SEARCH_MARKS, fail_store, opened
from agentexec.cli.solve import kept_settings, make_workspace, read_files
from agentexec.errors import RunNotFound, SettingsError, SnapshotError, StoreError
from agentexec.events import Answer, BlockFinished, Event, MessageAdded, RunFinished, RunStarted
from agentexec.parts import ROLES
from agentexec.settings import Settings, load_settings
from agentexec.snapshots.copying import copy_workspace
from agentexec.store import Recorder, RunSummary, Store
from agentexec.store.codec import UnknownEvent
from agentexec.visible import visible
from agentexec.workspaces import is_half_done, restore, unsaved

_NAMED = 5
"""How many files are named that a snapshot does not hold."""


def resume_command(
    path: str | None,
    run: str,
    flags: Mapping[str, Any],
    *,
    workspace: Path | None = None,
    prompts: Sequence[str] = (),
    json: bool = False,
) -> int:
    """Go on with a run where it ended, and return the exit status of the command.

    Args:
        path: Directory of the store, or None.
        run: Abbreviated id.
        flags: Settings to change from here on, None where not given.
        workspace: Where its workspace is now; None is where it was.
        prompts: `AGENT=FILE`: system prompts from here on.
        json: Whether stdout is one JSON object.
    """
    changed = _prompts(prompts)
    with contextlib.ExitStack() as stack:
        try:
            store = stack.enter_context(Store(path, create=False))
            summary = store.find(run)
            recorder = store.record(summary.run_id)
            stack.callback(recorder.close)
            events = take_answers(recorder, store.events(summary.run_id))
        except StoreError as error:
            fail_store(error)
        return _resume(recorder, summary, events, flags, workspace, changed, json)


def _resume(
    recorder: Recorder,
    summary: RunSummary,
    events: list[Event],
    flags: Mapping[str, Any],
    workspace: Path | None,
    changed: Mapping[Role, str],
    json: bool,
) -> int:
    started = _started(events, summary)
    if (solved := _answer(events)) is not None:
        return _already_solved(solved, summary)
    settings = _settings(summary, flags, workspace)
    model = make_speakers(settings, None)
    place = place_of(settings.model_dump())
    recorder.store.secrets = (*recorder.store.secrets, *model.secrets)
    own = workspace is None and summary.workspace in (None, str(recorder.store.workspace(summary.run_id).absolute()))
    directory = workspace or _workspace(recorder.store, summary, events)
    inputs: dict[str, bytes] = {}
    files = tuple(summary.settings.get("files", ()))
    if not any(isinstance(event, MessageAdded) for event in events):
        inputs = read_files(files)  # it ended before they were all in the workspace
    prompts = {**summary.settings.get("prompts", {}), **changed}
    for role, file in prompts.items():
        if (problem := _unreadable(file)) is not None:
            fail(f"the prompt of the {role}, {file}: {problem}; name another with --prompt {role}=FILE", USAGE)
    marks = {name: summary.settings[name] for name in SEARCH_MARKS if name in summary.settings}
    kept = {**kept_settings(settings, files), "prompts": prompts, **marks}
    recorder.move(str(directory))
    try:
        recorder.store.update(summary.run_id, workspace=str(directory), settings=kept)
    except StoreError as error:
        fail_store(error)
    job = Job(started.task, settings, place, model, directory, own, recorder, events, json, prompts)
    return run_job(job, inputs)


def _prompts(given: Sequence[str]) -> dict[Role, str]:
    """Read `AGENT=FILE` options; ends the command where one makes no sense."""
    found: dict[Role, str] = {}
    for option in given:
        name, _, file = option.partition("=")
        role = next((role for role in ROLES if role == name), None)
        if role is None or not file:
            fail(f"--prompt {option}: write AGENT=FILE, with an agent of {', '.join(ROLES)}", USAGE)
        if (problem := _unreadable(file)) is not None:
            fail(f"--prompt {option}: {problem}", USAGE)
        found[role] = str(Path(file).absolute())
    return found


def _unreadable(file: str) -> str | None:
    """Return why a file is no text that can be read, or None if it is."""
    try:
        Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or "not UTF-8"
    return None


def _started(events: list[Event], summary: RunSummary) -> RunStarted:
    unknown = {event.name for event in events if isinstance(event, UnknownEvent)}
    if unknown:
        fail(
            f"run {summary.run_id} holds events that a newer agentexec wrote ({', '.join(sorted(unknown))}): "
            "type 'pip install --upgrade agentexec-toolkit' to go on with it",
            STORE_FAILED,
        )
    if not events or not isinstance(events[0], RunStarted):
        fail(f"run {summary.run_id} ended before it began; solve its task anew", USAGE)
    return events[0]


def _answer(events: list[Event]) -> str | None:
    last = events[-1]
    return (last.answer or "") if isinstance(last, RunFinished) and last.status == "solved" else None


def _already_solved(answer: str, summary: RunSummary) -> int:
    say(f"run {summary.run_id} is solved; 'agentexec branch {summary.run_id} --at N' goes another way from turn N")
    try:
        write_answer(answer)
    except CannotWrite as error:
        return error.status
    return 0


def _settings(summary: RunSummary, flags: Mapping[str, Any], workspace: Path | None) -> Settings:
    kept = {name: value for name, value in summary.settings.items() if name in Settings.model_fields}
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return load_settings({**kept, **given}, workspace=workspace or Path(summary.workspace or "."))
    except SettingsError as error:
        fail(str(error), USAGE)


def _workspace(store: Store, summary: RunSummary, events: list[Event]) -> Path:
    """Return the directory to go on in: where the run was, or, for a branch, one that is made what it was then."""
    own = store.workspace(summary.run_id).absolute()
    if summary.workspace is None:
        return _branched_workspace(store, summary, events)
    path = Path(summary.workspace)
    if path != own and not path.is_dir():
        fail(
            f"the workspace of run {summary.run_id}, {path}, is gone; if it is elsewhere now, name it with --workspace",
            USAGE,
        )
    # What is not ours is left as it is: somebody may have worked there since.
    if path == own and not path.is_dir():
        if not _restore(store, events, make_workspace(store, summary.run_id), "the workspace is gone") and any(
            isinstance(event, BlockFinished) for event in events
        ):
            say(f"the workspace {path} is gone and was not saved: going on in an empty one")
    elif path == own and is_half_done(events):
        if (missing := unsaved(events)) is None:
            _restore(store, events, path, "a block was interrupted")
        else:  # what earlier blocks did is worth more
            say(f"a block was interrupted, and runs again on what it left; the workspace cannot be put back: {missing}")
    return path


def _branched_workspace(store: Store, summary: RunSummary, events: list[Event]) -> Path:
    path = make_workspace(store, summary.run_id)
    why = "the branch begins" if summary.parent else "its own was thrown away"
    if not _restore(store, events, path, why) and (source := _parent_workspace(store, summary)):
        try:
            copy_workspace(source, path)
        except (OSError, RecursionError, SnapshotError) as error:
            why = getattr(error, "strerror", None) or str(error)[:500]
            fail(f"cannot copy the workspace {source} for the branch: {why}", STORE_FAILED)
        say(f"the branch begins with a copy of {source} as it is now, since it was not saved")
    return path


def _restore(store: Store, events: list[Event], path: Path, why: str) -> bool:
    """Put a workspace back, and say so, and what is missing; return whether there was anything to put back."""
    try:
        restored = restore(store, events, path)
    except SnapshotError as error:
        say(f"the workspace is not put back: {error}")
        return False
    if restored is None:
        return False
    say(f"{why}: the workspace is as it was when it was last saved")
    if (missing := unsaved(events)) is not None:
        say(f"it is not what it was in the end; {missing}")
    if restored.skipped:
        names = ", ".join(f"{each.path} ({each.reason})" for each in restored.skipped[:_NAMED])
        more = f" and {restored.skipped_count - _NAMED} more" if restored.skipped_count > _NAMED else ""
        say(f"not kept, and so not there: {visible(names, keep='')}{more}")
    return True


def _parent_workspace(store: Store, summary: RunSummary) -> Path | None:
    with contextlib.suppress(RunNotFound):
        while summary.parent is not None:
            summary = store.summary(summary.parent)
            if summary.workspace is not None:
                return Path(summary.workspace) if Path(summary.workspace).is_dir() else None
    return None


def answer_command(path: str | None, run: str, answer: Answer) -> int:
    """Answer the question of a run that waits, and tell what comes next."""
    with opened(path) as store:
        summary = store.find(run)
        question = leave_answer(store, summary.run_id, answer)
        busy = store.is_busy(summary.run_id)
    say(f"{answer.decision}: {visible(question.text, keep='')}")
    if busy:
        say(f"run {summary.run_id} goes on by itself")
    else:
        say(f"to go on, type 'agentexec resume {summary.run_id}'")
    return 0


def reply_command(path: str | None, run: str, text: str) -> int:
    """Say something to a run that waits: the input it asks for, or what stands for a block's result."""
    with opened(path) as store:
        question = pending_question(store.events(store.find(run).run_id))
    if question is not None and "answer" not in question.options:
        fail(
            f"{visible(question.text, keep='')} It takes no reply: use 'agentexec approve', or 'agentexec reject' "
            "with --reason",
            USAGE,
        )
    return answer_command(path, run, Answer(decision="answer", text=text))


def read_edit(path: str | None) -> Answer:
    """Return approval, of what was asked about or of the text of a file in its place."""
    if path is None:
        return Answer(decision="approve")
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        fail(f"--edit {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}", USAGE)
    return Answer(decision="edit", text=text)
