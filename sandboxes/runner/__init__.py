"""The runner: works inside any sandbox with Python 3.8 or newer, from source pushed over the byte stream.

These modules use nothing but the standard library, and refer to each other by relative imports only, since
inside a sandbox they live in a package of another name. `frames` is also the host's end of the protocol.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import marshal
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

MODULES = (
    "linux",
    "confine",
    "frames",
    "capture",
    "files",
    "listing",
    "pristine",
    "hidden",
    "group",
    "tally",
    "disk",
    "watch",
    "program",
    "cellinterrupts",
    "ipython",
    "worker",
    "spare",
    "guard",
    "channel",
    "preload",
    "block",
    "kernelspec",
    "kernel",
    "transfer",
    "supervisor",
    "entry",
)
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
stdin = open(0, "rb", 0, closefd=False)
exec(read(int(read(12))))
"""
"""What `python3 -I -c` is given: reads a program's length, in 12 digits, and the program, and runs it."""

_LOADER = """\
import json, marshal, sys
if sys.version_info < (3, 8):
    sys.exit("Python 3.8 or newer is needed here, and this is %d.%d" % sys.version_info[:2])
package = sys.modules[{package!r}] = type(sys)({package!r})
package.__path__ = []
names = [{package!r}]
from _frozen_importlib_external import MAGIC_NUMBER
same = MAGIC_NUMBER == {magic} and sys.implementation.name == "cpython"
for name, source, code in marshal.loads(read({size})):
    names.append({package!r} + "." + name)
    module = sys.modules[names[-1]] = type(sys)(names[-1])
    module.__package__ = {package!r}
    module.__file__ = "<" + name + ">"
    setattr(package, name, module)
    exec(marshal.loads(code) if same else compile(source, module.__file__, "exec"), module.__dict__)
worker = package.entry.main(json.loads({config!r}))
for name in names:
    del sys.modules[name]
worker.main()
"""


def bootstrap_argv(python: str = "python3") -> list[str]:
    """Return the command that starts a runner; `-I` keeps the environment and the workspace out of its imports."""
    return [python, "-I", "-c", BOOTSTRAP]


@functools.cache
def _modules() -> bytes:
    """Return name, source and compiled code of each module, in a format that every Python reads.

    The code is for an interpreter with bytecode like ours, which need not compile the source: a quarter of the
    time that a local sandbox takes to start.
    """
    here = Path(__file__).parent
    modules = []
    for name in MODULES:
        source = (here / f"{name}.py").read_text("utf-8")
        modules.append((name, source, marshal.dumps(_code(name, source))))
    return marshal.dumps(modules, 2)


def _code(name: str, source: str) -> CodeType:
    spec = importlib.util.find_spec(f"{__package__}.{name}")
    loader = spec.loader if spec else None
    # Python's own cache of compiled modules, if it has one.
    code = loader.get_code(f"{__package__}.{name}") if isinstance(loader, SourceFileLoader) else None
    return _renamed(code or compile(source, name, "exec"), f"<{name}>")


def _renamed(code: CodeType, filename: str) -> CodeType:
    """Return code that does not tell where on this machine it comes from."""
    constants = tuple(_renamed(item, filename) if isinstance(item, CodeType) else item for item in code.co_consts)
    return code.replace(co_filename=filename, co_consts=constants)


def bundle(config: Mapping[str, Any]) -> bytes:
    """Return what is sent to the bootstrap: the loader with its length and configuration, and the modules."""
    modules = _modules()
    program = _LOADER.format(
        package=PACKAGE, size=len(modules), magic=importlib.util.MAGIC_NUMBER, config=json.dumps(config)
    ).encode()
    return b"%012d" % len(program) + program + modules
