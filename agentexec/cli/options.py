"""Options that several commands have, exit statuses, and where blocks run as flags and settings say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from agentexec.cli.output import say

# Pydantic, asyncio and the sandboxes are imported by what needs them: commands that only read the store do not.
if TYPE_CHECKING:
    from pydantic import ValidationError

    from sandboxes.executor import Executor
    from sandboxes.types import Limits

USAGE, SANDBOX_FAILED = 2, 125
"""Exit statuses: a command line that makes no sense, and a sandbox that failed."""

WAITING = 4
"""Exit status of a run that waits for a person's answer."""

STORE_FAILED = 5
"""Exit status: the store of runs cannot be read or written, or another process has the run."""

LIMIT_FIELDS: Mapping[str, str] = {
    "timeout": "wall_time",
    "cpu_time": "cpu_time",
    "memory": "memory",
    "processes": "processes",
    "disk": "disk",
    "file_size": "file_size",
    "open_files": "open_files",
    "output": "output",
    "network": "network",
}
"""Setting and flag (with dashes) to field of `Limits`."""

Workspace = Annotated[str | None, typer.Option("--workspace", metavar="DIR", help="Directory that code works in.")]
StoreDirectory = Annotated[
    str | None,
    typer.Option("--store", metavar="DIR", help="Where runs are kept [AGENTEXEC_STORE, or your data directory]."),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning or its end; or 'last'.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]


@dataclass(frozen=True, slots=True)
class Place:
    """Where blocks run, and within what.

    Attributes:
        sandbox: Executor spec.
        limits: Only what somebody asked for is marked as set.
        isolation: None leaves it to the sandbox.
        image: Image of the Docker sandbox if `sandbox` names none; None leaves it to that.
    """

    sandbox: str
    limits: Limits
    isolation: str | None
    image: str | None


def fail(message: str, status: int) -> NoReturn:
    """End the command with one line on stderr."""
    say(message)
    raise typer.Exit(status)


def read_place(flags: Mapping[str, Any], workspace: Path | None) -> Place:
    """Read where blocks run from flags, environment and file; ends the command where a value is wrong."""
    values: Mapping[str, Any] = flags
    # Settings cost some 20 ms of imports, which most runs of a single program can do without.
    if any(name.startswith("AGENTEXEC_") for name in os.environ) or Path("agentexec.toml").exists():
        from agentexec.errors import SettingsError
        from agentexec.settings import load_settings

        try:
            values = load_settings(flags, workspace=workspace).model_dump()
        except SettingsError as error:
            fail(str(error), USAGE)
    return place_of(values)


def place_of(values: Mapping[str, Any]) -> Place:
    """Return where blocks run by settings or flags; ends the command where a limit makes no sense."""
    from pydantic import ValidationError

    from sandboxes.types import Limits

    given = {field: values[name] for name, field in LIMIT_FIELDS.items() if values.get(name) is not None}
    if "network" in given:
        given["network"] = given["network"] == "on"
    try:
        limits = Limits(**given)
    except ValidationError as error:
        fail(_explain(error), USAGE)
    return Place(values.get("sandbox") or "local", limits, values.get("isolation"), values.get("image"))


def _explain(error: ValidationError) -> str:
    """Turn an error about `Limits` into a line that names flags."""
    flag_of = {field: "--" + name.replace("_", "-") for name, field in LIMIT_FIELDS.items()}
    parts = []
    for problem in error.errors():
        field = str(problem["loc"][0])
        message = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{flag_of.get(field, field)}: {message[:1].lower()}{message[1:]}")
    return "; ".join(parts)


def workspace_directory(name: str | None) -> Path | None:
    """Return the directory that `--workspace` names, made if it is missing."""
    if name is None:
        return None
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        fail(f"--workspace {name}: this is a file, not a directory", USAGE)
    except OSError as error:
        fail(f"--workspace {name}: {error.strerror}", USAGE)
    return path.resolve()


def make_executor(place: Place, workspace: Path | None, *, bar: bool) -> Executor:
    """Open the executor of a place; ends the command where that cannot be done.

    Args:
        place: Where blocks run.
        workspace: Directory to work in; None takes one that is thrown away.
        bar: Whether a bar may be drawn while an image is pulled.
    """
    from sandboxes.errors import SandboxError, UnknownExecutor
    from sandboxes.registry import open_executor

    options: dict[str, Any] = {} if place.isolation is None else {"isolation": place.isolation}
    if place.sandbox.partition(":")[0] in ("docker", "jupyter+docker"):
        from agentexec.cli.pull import PullReport

        options["on_pull"] = PullReport(bar=bar)
        if place.image is not None and ":" not in place.sandbox:
            options["image"] = place.image
    try:
        executor = open_executor(place.sandbox, limits=place.limits, workspace=workspace, **options)
    except UnknownExecutor as error:
        fail(f"--sandbox: {error}", USAGE)
    except TypeError as error:
        if place.isolation is None:
            raise
        fail(f"--isolation is not for the sandbox {place.sandbox!r}: {error}", USAGE)
    except SandboxError as error:
        fail(f"the sandbox failed: {error or type(error).__name__}", SANDBOX_FAILED)
    if place.sandbox.partition(":")[0] == "fake":
        say("the sandbox 'fake' runs nothing: it is a stand-in for tests")
    return executor
