"""Kernels that are installed in the sandbox, as Jupyter finds and starts them.

See "Kernel specs" in the documentation of jupyter_client: a directory in one of some places, named like the kernel,
with a file `kernel.json` in it.
"""

from __future__ import annotations

import json
import os
import re
import sys

from .files import Refused

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, List

SYSTEM = ("/usr/local/share/jupyter", "/usr/share/jupyter")
MAX_LISTED = 30
MAX_SPEC = 1 << 20
"""Bytes of a `kernel.json`."""
_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_]+)\}")


class KernelSpec:
    """How a kernel is started and spoken to.

    Args:
        name: Name of its directory.
        directory: Where its `kernel.json` is.

    Attributes:
        language: What it runs; empty where it does not say.
        interrupt_mode: `signal` or `message`.

    Raises:
        Refused: its `kernel.json` cannot be used.
    """

    def __init__(self, name: str, directory: str) -> None:
        self._directory = directory
        self._file = os.path.join(directory, "kernel.json")
        try:
            with open(self._file, "rb") as file:
                spec = json.loads(file.read(MAX_SPEC))
        except (OSError, ValueError, RecursionError) as error:
            raise self._refuse(str(error)) from None
        if not isinstance(spec, dict):
            raise self._refuse("it is not an object")
        self._argv = self._words(spec)
        self._env = spec.get("env") or {}
        if not isinstance(self._env, dict) or not all(isinstance(value, str) for value in self._env.values()):
            raise self._refuse("'env' is not an object of texts")
        self.language = str(spec.get("language") or "")[:100]
        self.interrupt_mode = spec.get("interrupt_mode") or "signal"
        if self.interrupt_mode not in ("signal", "message"):
            raise self._refuse("its interrupt_mode is neither 'signal' nor 'message'")
        metadata = spec.get("metadata")
        provisioner = metadata.get("kernel_provisioner") if isinstance(metadata, dict) else None
        if isinstance(provisioner, dict) and provisioner.get("provisioner_name", "local-provisioner") != (
            "local-provisioner"
        ):
            raise self._refuse("it wants a kernel provisioner, and here it is started in the sandbox itself")

    def _words(self, spec: Dict[str, Any]) -> List[str]:
        argv = spec.get("argv")
        if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
            raise self._refuse("'argv' is not a list of words")
        if not any("{connection_file}" in word for word in argv):
            raise self._refuse("its argv has no {connection_file}, so nobody could speak to it")
        return argv

    def _refuse(self, why: str) -> Refused:
        return Refused("kernel", "%s cannot be used: %s" % (self._file, why))

    def command(self, connection_file: str) -> List[str]:
        """Return its command."""
        names = {"connection_file": connection_file, "resource_dir": self._directory, "prefix": sys.prefix}
        argv = [_PLACEHOLDER.sub(lambda found: names.get(found.group(1), found.group()), word) for word in self._argv]
        ours = ("python", "python%d" % sys.version_info[0], "python%d.%d" % sys.version_info[:2])
        return [sys.executable, *argv[1:]] if argv[0] in ours else argv

    def environment(self) -> Dict[str, str]:
        """Return its variables, in which `${NAME}` is replaced by one that is there."""
        import string  # which takes a millisecond of a start to load

        return {name: string.Template(value).safe_substitute(os.environ) for name, value in self._env.items()}


def find_kernel(name: str) -> KernelSpec:
    """Return an installed kernel.

    Raises:
        Refused: there is none of that name, or it cannot be used.
    """
    installed = _installed()
    # The name is never made part of a path: what is not listed is not there.
    if name not in installed:
        listed = ", ".join(sorted(installed)[:MAX_LISTED])
        raise Refused(
            "kernel",
            "the kernel %r is not installed in this sandbox; %s. To install one, type there, as an example, "
            "'pip install bash_kernel && python -m bash_kernel.install --sys-prefix' (looked in %s)"
            % (name[:80], "installed are: " + listed if listed else "none is", ", ".join(_places())),
        )
    return KernelSpec(name, installed[name])


def _places() -> List[str]:
    paths = [path for path in os.environ.get("JUPYTER_PATH", "").split(":") if os.path.isabs(path)]
    return [os.path.join(path, "kernels") for path in (*paths, os.path.join(sys.prefix, "share", "jupyter"), *SYSTEM)]


def _installed() -> Dict[str, str]:
    """Return the directories of all kernels by their names; the first place that has one counts."""
    found: Dict[str, str] = {}
    for place in _places():
        try:
            names = os.listdir(place)
        except OSError:
            continue
        for name in names:
            if os.path.isfile(os.path.join(place, name, "kernel.json")):
                found.setdefault(name, os.path.join(place, name))
    return found
