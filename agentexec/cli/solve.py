"""`agentexec solve`: a task for the team, shown as it goes, with the answer on stdout."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentexec.cli.models import Speakers, make_speakers
from agentexec.cli.options import USAGE, Place, fail, place_of
from agentexec.cli.running import Job, run_job
from agentexec.cli.runs import fail_store
from agentexec.cli.teams import read_team_file
from agentexec.errors import SettingsError, StoreError, StoreUnavailable
from agentexec.log import new_run_id
from agentexec.models import REPLAY_PREFIX
from agentexec.parts import read_inputs
from agentexec.settings import Settings, load_settings
from agentexec.store import Recorder, Store

NOT_KEPT = ("api_key", "base_url", "store")
"""Settings that are not kept with a run: secrets, addresses that may hold some, and where it is kept."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for, apart from settings.

    Attributes:
        task: What to do, in plain words.
        files: Paths of input files.
        workspace: Directory to work in; None makes one that is kept.
        record: Where to write the model's side of the run.
        json: Whether stdout is one JSON object.
        keep: Whether the run is kept in the store.
    """

    task: str
    files: tuple[str, ...]
    workspace: Path | None
    record: str | None
    json: bool
    keep: bool = True


def solve_command(request: Request, flags: Mapping[str, Any]) -> int:
    """Solve a task and return the exit status of the command.

    Args:
        request: What to do.
        flags: Values of the flags that are settings, None where not given.
    """
    try:
        settings = load_settings(flags, workspace=request.workspace)
        read_team_file(settings.team, request.workspace)
    except SettingsError as error:
        fail(str(error), USAGE)
    check_task(request.task)
    asks = "--review-plan" if settings.review_plan else f"--approve {settings.approve}"
    if (settings.review_plan or settings.approve != "never") and not request.keep and not sys.stdin.isatty():
        fail(f"{asks} with --no-store asks on the terminal, and standard input is none", USAGE)
    inputs = read_files(request.files)
    model = make_speakers(settings, request.record)
    place = place_of(settings.model_dump())
    with contextlib.ExitStack() as stack:
        recorder = _recorder(request, settings, place, model, stack) if request.keep else None
        workspace = request.workspace or _new_workspace(recorder)
        return run_job(
            Job(
                request.task,
                settings,
                place,
                model,
                workspace,
                request.workspace is None,
                recorder,
                json=request.json,
            ),
            inputs,
        )


def _recorder(
    request: Request, settings: Settings, place: Place, model: Speakers, stack: contextlib.ExitStack
) -> Recorder:
    """Open the store and begin to keep a run in it; ends the command where that cannot be done."""
    try:
        store = stack.enter_context(Store(settings.store, secrets=model.secrets))
        run_id = new_run_id()
        workspace = request.workspace or store.workspace(run_id)
        recorder = store.record(
            run_id,
            settings=kept_settings(settings, request.files),
            place={"executor": place.sandbox, "workspace": str(workspace)},
        )
    except StoreUnavailable as error:
        fail(f"{error}; --no-store keeps nothing", USAGE)
    except StoreError as error:
        fail_store(error)
    stack.callback(recorder.close)
    return recorder


def _new_workspace(recorder: Recorder | None) -> Path:
    if recorder is None:
        return Path(tempfile.mkdtemp(prefix="agentexec-"))
    return make_workspace(recorder.store, recorder.run_id)


def make_workspace(store: Store, run_id: str) -> Path:
    """Make the directory in which a kept run works; ends the command where that cannot be done."""
    path = store.workspace(run_id).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        fail(f"cannot make the workspace {path}: {error.strerror}; name one with --workspace", USAGE)
    return path


def kept_settings(settings: Settings, files: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what is kept with a run so that it can go on in another process, from any directory."""
    values = settings.model_dump(mode="json", exclude_none=True, exclude=set(NOT_KEPT))
    if settings.cache is not None:
        values["cache"] = str(Path(settings.cache).absolute())
    for name in ("model", "planner_model", "coder_model", "reviewer_model", "fallback_model"):
        if (model := values.get(name, "")).startswith(REPLAY_PREFIX):
            values[name] = REPLAY_PREFIX + str(Path(model.removeprefix(REPLAY_PREFIX)).absolute())
    if "answer_timeout" not in settings.model_fields_set:
        values.pop("answer_timeout", None)
    return {**values, "files": [str(Path(file).absolute()) for file in files]}


def check_task(task: str) -> None:
    """End the command where the task is none."""
    if not task.strip():
        fail("the task is empty; say in plain words what to do", USAGE)
    try:
        task.encode()
    except UnicodeEncodeError:  # bytes of the argument that could not be decoded
        fail(f"the task is not text in {sys.getfilesystemencoding()}; type 'export LC_ALL=C.UTF-8'", USAGE)


def read_files(paths: tuple[str, ...]) -> dict[str, bytes]:
    """Return the input files by name; ends the command where one cannot be read."""
    try:
        return read_inputs(paths)
    except OSError as error:
        fail(f"--file {error.filename}: {error.strerror}", USAGE)
    except ValueError as error:  # two of one name, or a name that is no path in the workspace
        fail(f"--file: {error}", USAGE)
