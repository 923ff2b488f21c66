"""The options that `run` and `solve` share, and how limits are read from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

LIMITS = "Limits of each block"

Sandbox = Annotated[
    str | None,
    typer.Option("-s", "--sandbox", metavar="SPEC", help="Where code runs: local, docker, docker:IMAGE, …"),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="S", help="Wall-clock seconds of a block [60].")
]
CpuTime = Annotated[float | None, typer.Option("--cpu-time", metavar="S", help="CPU seconds of a block.")]
Memory = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="Memory of a block, e.g. 512M [1G].")
]
Processes = Annotated[
    int | None, typer.Option("--processes", metavar="N", help="Processes and threads of a block [128].")
]
Disk = Annotated[
    str | None, typer.Option("--disk", metavar="SIZE", help="What the workspace may hold [1G].")
]
FileSize = Annotated[
    str | None, typer.Option("--file-size", metavar="SIZE", help="Size of any one file [256M].")
]
OpenFiles = Annotated[
    int | None, typer.Option("--open-files", metavar="N", help="Open files of a process [1024].")
]
Output = Annotated[
    str | None,
    typer.Option("--output", metavar="SIZE", help="What is kept of stdout and of stderr [1M]."),
]
Network = Annotated[
    str | None, typer.Option("--network", metavar="off|on", help="Whether code reaches a network [off].")
]
Workspace = Annotated[
    str | None, typer.Option("--workspace", metavar="DIR", help="Directory that code works in.")
]
IsolationTier = Annotated[
    str | None,
    typer.Option(
        "--isolation",
        metavar="auto|bwrap|landlock|none",
        help="Isolation of the local sandbox [auto]; 'none' is unsafe.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout.")]


def fail(message: str, status: int) -> NoReturn:
    """End the command with one line on stderr."""
    import sys

    from agentexec.markdown import visible

    print(f"agentexec: {visible(message, keep='')}", file=sys.stderr)  # noqa: T201
    raise typer.Exit(status)


def needs_settings() -> bool:
    """Whether there is anything but flags to read settings from (reading them costs 100 ms of imports)."""
    # Names are spelled out rather than imported: agentexec.settings is what shall not be imported.
    return any(name.startswith("AGENTEXEC_") for name in os.environ) or Path("agentexec.toml").exists()


def explain_limits(error: Any, fields: Mapping[str, str]) -> str:
    """Turn a pydantic error about `Limits` into a line that names flags.

    Args:
        error: The `ValidationError`.
        fields: Flag name to field of `Limits`.
    """
    flag_of = {field: "--" + name.replace("_", "-") for name, field in fields.items()}
    parts = []
    for problem in error.errors():
        field = str(problem["loc"][0])
        message = str(problem["msg"]).removeprefix("Value error, ")
        parts.append(f"{flag_of.get(field, field)}: {message[:1].lower()}{message[1:]}")
    return "; ".join(parts)


def workspace_directory(name: str | None) -> Path | None:
    """Return the directory that `--workspace` names, made if it is missing."""
    if name is None:
        return None
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--workspace {name}: {error.strerror}", 2)
    return path.resolve()
