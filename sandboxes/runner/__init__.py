"""The runner: works inside any sandbox with Python 3.8 or newer, from source pushed over the byte stream.

These modules use nothing but the standard library, and refer to each other by relative imports only, since
inside a sandbox they live in a package of another name. `frames` is also the host's end of the protocol.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

MODULES = ("linux", "frames", "capture", "files", "watch", "worker", "spare", "channel", "block", "supervisor")
"""In the order of their imports."""

PACKAGE = "_agentexec_runner"

BOOTSTRAP = """\
import sys
def read(size):
    data = b""
    while len(data) < size:
        piece = stdin.read(size - len(data))
        if not piece: sys.exit(1)
        data += piece
    return data
with open(0, "rb", 0, closefd=False) as stdin:
    bundle = read(int(read(12)))
exec(bundle)
"""
"""What `python3 -I -c` is given: reads the bundle's length, in 12 digits, and the bundle, and runs it."""

_LOADER = """\
import json, sys
package = sys.modules[{package!r}] = type(sys)({package!r})
package.__path__ = []
for name, source in json.loads({sources!r}):
    module = sys.modules[{package!r} + "." + name] = type(sys)({package!r} + "." + name)
    module.__package__ = {package!r}
    module.__file__ = "<" + module.__name__ + ">"
    setattr(package, name, module)
    exec(compile(source, module.__file__, "exec"), module.__dict__)
worker = package.supervisor.main(json.loads({config!r}))
for name in [name for name in sys.modules if name.partition(".")[0] == {package!r}]:
    del sys.modules[name]
worker.main()
"""


def bootstrap_argv(python: str = "python3") -> list[str]:
    """Return the command that starts a runner; `-I` keeps the environment and the workspace out of its imports."""
    return [python, "-I", "-c", BOOTSTRAP]


@functools.cache
def _sources() -> str:
    here = resources.files(__package__)
    return json.dumps([(name, here.joinpath(f"{name}.py").read_text("utf-8")) for name in MODULES])


def bundle(config: Mapping[str, Any]) -> bytes:
    """Return what is sent to the bootstrap: the length and the program, with its configuration."""
    program = _LOADER.format(package=PACKAGE, sources=_sources(), config=json.dumps(config)).encode()
    return b"%012d" % len(program) + program
