"""The backends that the shared test bodies run on. Adding one is adding a row to `BACKENDS`."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandboxes import Executor, Limits, open_executor


def require_engine(found: bool, what: str) -> None:
    """Skip the test where an engine is missing; fail it where the machine is said to have them all."""
    if found:
        return
    if os.environ.get("AGENTEXEC_REQUIRE_ENGINES") == "1":
        pytest.fail(f"{what} is missing, and AGENTEXEC_REQUIRE_ENGINES=1 says that it must not be")
    pytest.skip(f"{what} is missing")


def find_python(version: str) -> str:
    """Return the path of another interpreter, e.g. of "3.12"; skips the test where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    # Unlike Path.glob, this finds nothing in what it may not read.
    found = sorted(glob.glob(f"{pyenv}/{version}.*/bin/python3"))
    for path in (*found, shutil.which(f"python{version}")):
        if path is not None and os.access(path, os.X_OK):
            asked = subprocess.run(
                [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True
            )
            if asked.stdout.decode().strip() == version:
                return path
    pytest.skip(f"there is no Python {version} here")


def descendants() -> set[int]:
    """Return the ids of all living processes below this one."""
    alive = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    return alive


@dataclass(frozen=True)
class Backend:
    """One way to get an executor, and how to see from outside what it started.

    Attributes:
        name: For the test's id.
        spec: As `open_executor` takes it.
        engine: What has to be installed.
        installed: Whether it is.
        processes: Ids, on this machine, of all that its sandboxes run.
    """

    name: str
    spec: str
    engine: str
    installed: Callable[[], bool]
    processes: Callable[[], set[int]]

    def open(
        self, limits: Limits | None = None, workspace: Path | None = None, spec: str = "", **options: Any
    ) -> Executor:
        """Return an executor that is not started yet."""
        return open_executor(spec or self.spec, limits=limits, workspace=workspace, **options)


BACKENDS = (Backend("local", "local", "bubblewrap", lambda: shutil.which("bwrap") is not None, descendants),)
