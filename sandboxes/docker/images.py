"""The project's own images: where their Dockerfiles are, and building them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sandboxes.docker.engine import OWN_IMAGES, Engine
from sandboxes.errors import SandboxUnavailable

BASE = "agentexec/base"
"""What `images/base/build.sh` makes from Debian's packages, where no registry is reached."""


def directory() -> Path:
    """Return the directory with one directory for each image: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "images", package.parent / "images"):
        if candidate.is_dir():
            return candidate
    raise SandboxUnavailable(f"the Dockerfiles are missing from this installation: {package / 'images'} is not there")


def names() -> list[str]:
    """Return the names of the images that can be built, without the prefix."""
    return sorted(path.parent.name for path in directory().glob("*/Dockerfile"))


def build(engine: Engine, name: str, base: str | None, on_line: Callable[[str], None]) -> str:
    """Build one of the images and return its name in the engine.

    Args:
        engine: Where to build.
        name: E.g. `data`.
        base: What to build it from, an image of a Debian or like it; None takes `agentexec/base` if the engine has
            that, else what the Dockerfile says.
        on_line: Called with each line of the engine's report.

    Raises:
        SandboxUnavailable: there is no such image.
        SandboxStartError: a step failed.
    """
    if name not in names():
        raise SandboxUnavailable(f"there is no image {name!r} to build; there are {', '.join(names())}")
    if base is None and engine.image(BASE) is not None:
        base = BASE
    full_name = OWN_IMAGES + name
    engine.build(str(directory() / name), full_name, {"BASE": base} if base else {}, on_line)
    return full_name
