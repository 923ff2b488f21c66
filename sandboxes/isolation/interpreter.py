"""Finds what a Python interpreter needs to run: its prefix, wherever it is."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sandboxes.errors import SandboxUnavailable

PARTS = ("bin", "lib", "lib64", "lib32", "libexec", "include", "share", "ssl", "pyvenv.cfg")
"""What of a prefix is shown inside. Not the whole: a virtual environment made in a project's own directory
would bring the project, and its secrets, along."""
MARKS = (".gitignore", ".lock", "CACHEDIR.TAG")
"""What venv and uv leave there for other programs."""

_ASK = (
    "import json, sys; print(json.dumps([sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix,"
    " list(sys.version_info[:2])]))"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python on this machine.

    Attributes:
        executable: Absolute path, as it is to be started (a virtual environment's own, not what it links to).
        prefixes: Directories that hold its libraries, e.g. a virtual environment and the Python it was made from.
        links: Symlinks between the executable and the real one that lie outside the prefixes.
    """

    executable: str
    prefixes: tuple[str, ...]
    links: tuple[str, ...] = ()

    def parts(self) -> list[str]:
        """Return the existing files and directories to show inside, none of them below another."""
        return [*self._shown([]), *self.links]

    def paths(self) -> list[str]:
        """Return the same with a prefix in place of its parts where there is nothing else in it."""
        return [*self._shown([prefix for prefix in self.prefixes if _is_all_shown(prefix)]), *self.links]

    def _shown(self, whole: list[str]) -> list[str]:
        shown: list[str] = []
        for path in sorted([*whole, *(os.path.join(prefix, part) for prefix in self.prefixes for part in PARTS)]):
            if os.path.exists(path) and not any(path.startswith(outer + os.sep) for outer in shown):
                shown.append(path)
        return shown


def _is_all_shown(prefix: str) -> bool:
    try:
        return {*PARTS, *MARKS}.issuperset(os.listdir(prefix))
    except OSError:
        return False


@functools.cache
def find_interpreter(python: str | None = None) -> Interpreter:
    """Return what there is to know of an interpreter.

    Args:
        python: Path or name of a Python 3.8 or newer; None means the one that runs us.

    Raises:
        SandboxUnavailable: there is none, or it is too old.
    """
    if python is None:
        return _describe(sys.executable, [sys.prefix, sys.base_prefix, sys.exec_prefix])
    path = shutil.which(os.path.expanduser(python))
    if path is None:
        raise SandboxUnavailable(f"no such interpreter: {python}; give the path of a Python 3.8 or newer")
    try:
        answer = subprocess.run([path, "-I", "-c", _ASK], capture_output=True, timeout=20, check=True)
        executable, prefix, base, exec_prefix, version = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SandboxUnavailable(f"{python} is not a working Python: {error}") from None
    if version < [3, 8]:
        raise SandboxUnavailable(f"{python} is Python {version[0]}.{version[1]}; 3.8 or newer is needed")
    return _describe(executable, [prefix, base, exec_prefix])


def _describe(executable: str, prefixes: list[str]) -> Interpreter:
    executable = os.path.abspath(executable)
    known = {os.path.abspath(prefix) for prefix in prefixes} | {os.path.realpath(prefix) for prefix in prefixes}
    links = []
    hop = executable
    while os.path.islink(hop):
        hop = os.path.normpath(os.path.join(os.path.dirname(hop), os.readlink(hop)))
        if not any(Path(hop).is_relative_to(prefix) for prefix in known):
            links.append(hop)
    return Interpreter(executable, tuple(sorted(known)), tuple(links))
