"""`agentexec images` and `agentexec clean`: what the toolkit keeps in a Docker engine, and what it left behind."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from agentexec.cli.options import SANDBOX_FAILED, USAGE, fail
from agentexec.cli.output import say, write_stdout
from agentexec.visible import visible
from sandboxes.errors import SandboxError, SandboxUnavailable


def list_command() -> int:
    """Print the project's images, one a line: name in the engine, size, or how to build it."""
    from sandboxes.docker import images
    from sandboxes.docker.engine import OWN_IMAGES, Engine

    try:
        with Engine() as engine:
            built = engine.images(OWN_IMAGES)
        known = images.names()
    except SandboxError as error:
        fail(str(error), SANDBOX_FAILED)
    sizes = {tag.removeprefix(OWN_IMAGES).removesuffix(":latest"): size for tag, size in built.items()}
    for name in sorted({*known, *sizes}):
        state = f"{sizes[name] / 1e6:,.0f} MB" if name in sizes else f"not built: agentexec images build {name}"
        write_stdout(f"{OWN_IMAGES + name:<22} {state}")
    return 0


def build_command(names: Sequence[str], base: str | None) -> int:
    """Build images, all of them by default; the engine's report goes to stderr, their names to stdout."""
    from sandboxes.docker import images
    from sandboxes.docker.engine import Engine

    try:
        known = images.names()
        unknown = [name for name in names if name not in known]
        if unknown:
            fail(f"there is no image {unknown[0]!r} to build; there are {', '.join(known)}", USAGE)
        with Engine() as engine:
            for name in names or known:
                say(f"building {name} ...")
                write_stdout(images.build(engine, name, base, _show))
    except SandboxError as error:
        fail(str(error), SANDBOX_FAILED)
    return 0


def _show(line: str) -> None:
    print(f"  {visible(line, keep='')}", file=sys.stderr, flush=True)  # noqa: T201


def clean_command(removed: Sequence[str] = ()) -> int:
    """Remove what processes that are gone have left: containers, volumes, throw-away workspaces, control groups.

    Args:
        removed: What has been removed already, to be told first.
    """
    from sandboxes.isolation import cgroups
    from sandboxes.throwaway import remove_abandoned

    removed = [*removed, *(f"directory {path}" for path in remove_abandoned(grace=0))]
    with contextlib.suppress(OSError):  # there is no /proc
        removed += [f"control group {path}" for path in cgroups.remove_abandoned()]
    try:
        removed += _clean_engine()
    except SandboxUnavailable as error:
        say(f"Docker is left out: {error}")
    except SandboxError as error:
        fail(str(error), SANDBOX_FAILED)
    for name in removed:
        write_stdout(f"removed {visible(name)}")
    if not removed:
        write_stdout("nothing to remove")
    return 0


def _clean_engine() -> list[str]:
    from sandboxes.docker.engine import Engine
    from sandboxes.docker.owners import remove_abandoned

    with Engine() as engine:
        return remove_abandoned(engine)
