"""Runs a Python program as `python FILE` does.

That is: a fresh `__main__` that is a real file, its directory first on `sys.path`, and a normal end with threads
joined, exit functions run and files flushed.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # `signal` itself looks up enumerations, which copies a hundred pages
import atexit
import gc
import io
import os
import site
import sys
import weakref
from importlib.machinery import SourceFileLoader
from itertools import islice
from types import CodeType, ModuleType, TracebackType

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

compile("", "<warm>", "exec")  # the first use of the compiler costs a millisecond, here once for all workers
STARTUP = frozenset(
    [
        "__main__",
        "_collections_abc",
        "_sitebuiltins",
        "abc",
        "codecs",
        "encodings",
        "genericpath",
        "io",
        "ntpath",
        "os",
        "posixpath",
        "site",
        "stat",
    ]
)
"""Loaded before the first line of any program, so that no file beside it can take their names."""


def run_python(path: str, source: bytes, page: Any) -> int:
    """Run a program as `__main__` and end the interpreter's business; return the exit status."""
    directory = os.path.dirname(path)
    names = sys.modules["__main__"].__dict__
    names.update(__file__=path, __loader__=SourceFileLoader("__main__", path))
    sys.argv = [path]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv = [sys.executable, path]
    sys.path.insert(0, directory)
    add_user_site()
    _make_way(directory)
    failure: Optional[BaseException] = None
    try:
        code: CodeType = compile(source, path, "exec", dont_inherit=True)
        exec(code, names)  # noqa: S102 - that is the product
    except BaseException as error:
        failure = error
    # Not in the handler: an exception in the program's own hook would be said to have come while handling that.
    status = 0 if failure is None else _report(failure, page)
    # Whatever we still hold would outlive `__main__`.
    failure = None
    del names
    return _finish(directory, status, page)


def add_user_site(make: bool = False) -> None:
    """Put on `sys.path` where `pip install` puts what it may not put among the system's packages.

    The runner is isolated, so as to load nothing that blocks have written; this is for a process that is a block's own.
    Python does the same at its start, but in a virtual environment; files of the kind `.pth` are not read here.
    """
    if sys.prefix == sys.base_prefix and "HOME" in os.environ:
        site.USER_BASE = site.USER_SITE = None  # what they were when the runner began
        path = site.getusersitepackages()
        if make:  # an import of what is installed later would not look where there had been nothing
            try:
                os.makedirs(path, exist_ok=True)
            except OSError:
                return
        if path not in sys.path and os.path.isdir(path):
            sys.path.insert(before_packages(), path)


def before_packages() -> int:
    """Return the place on `sys.path` behind the standard library and before the installed packages."""
    for place, path in enumerate(sys.path):
        if os.path.basename(path) in ("site-packages", "dist-packages"):
            return place
    return len(sys.path)


_preloaded = 0


def _make_way(directory: str) -> None:
    """Forget modules of ours that have the name of one beside the program, which is the one it is to find."""
    try:
        beside = os.listdir(directory)
    except OSError:
        beside = []
    for entry in beside:
        name = entry[:-3] if entry.endswith(".py") else entry
        if name not in sys.modules or name in STARTUP or name in sys.builtin_module_names:
            continue
        if entry != name or os.path.exists(os.path.join(directory, name, "__init__.py")):
            for loaded in [loaded for loaded in sys.modules if loaded == name or loaded.startswith(name + ".")]:
                del sys.modules[loaded]
    global _preloaded
    _preloaded = len(sys.modules)


def _report(error: BaseException, page: Any) -> int:
    """Do what the interpreter does with an exception that nobody caught; return the exit status."""
    if isinstance(error, SystemExit):
        return exit_status(error.code)
    if isinstance(error, OSError) and error.errno:
        page[1] = min(error.errno, 255)
    error.__traceback__ = _without_ours(error.__traceback__)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit as leaving:
        return exit_status(leaving.code)
    except BaseException as hook_error:
        hook_error.__traceback__ = _without_ours(hook_error.__traceback__)
        _say("Error in sys.excepthook:\n")
        sys.__excepthook__(type(hook_error), hook_error, hook_error.__traceback__)
        _say("\nOriginal exception was:\n")
        sys.__excepthook__(type(error), error, error.__traceback__)
    if isinstance(error, KeyboardInterrupt):
        return -int(_signal.SIGINT)
    return 1


def _without_ours(trace: Optional[TracebackType]) -> Optional[TracebackType]:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def exit_status(code: Any) -> int:
    """Return the status with which `sys.exit(code)` ends a program; print what it prints."""
    if code is None:
        return 0
    if isinstance(code, int):
        # What does not fit into a C long counts as -1.
        return code & 0xFF if -(1 << 63) <= code < 1 << 63 else 255
    flush(getattr(sys, "stdout", None))
    try:
        text = str(code)
    except Exception:
        text = ""
    _say(text + "\n")
    return 1


def _say(text: str) -> None:
    try:
        sys.stderr.write(text)
    except Exception:  # noqa: S110 - stderr may be closed or gone; the status says it all
        pass


def _finish(directory: str, status: int, page: Any) -> int:
    """Join threads, run exit functions, destroy what the program's modules hold, flush; as a normal end does."""
    threading = sys.modules.get("threading")  # most programs do without, and every page it touches is copied
    try:
        if threading is not None:
            threading._shutdown()
    except BaseException as error:
        _report(error, page)
    try:
        atexit._run_exitfuncs()
    except BaseException:  # noqa: S110 - before 3.10 it raises the last error, which it has printed
        pass
    flushed = flush(getattr(sys, "stdout", None))
    _flush_files()
    if threading is None or threading.active_count() == 1:  # daemon threads would see their globals vanish
        _destroy_modules(directory)
        _flush_files()
    flush(getattr(sys, "stderr", None))
    if status == -int(_signal.SIGINT):
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        os.kill(os.getpid(), _signal.SIGINT)
    return 120 if status == 0 and not flushed else status


def _flush_files() -> None:
    # The collector may close a descriptor before the buffer that writes to it.
    for item in gc.get_objects():
        if type(item) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
            flush(item)


def _destroy_modules(directory: str) -> None:
    """Let go of `__main__` and of modules beside it.

    The collector runs the finalizers first, while globals are still what they were; only what survives that
    is emptied name by name.
    """
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        if hasattr(sys, name):
            setattr(sys, name, None)
    survivors = [weakref.ref(sys.modules.pop(name)) for name in _modules_below(directory)]
    gc.collect()
    for survivor in survivors:
        module = survivor()
        if module is not None:
            _clear(module.__dict__)
            module = None
            gc.collect()


def _modules_below(directory: str) -> List[str]:
    found = ["__main__"] if "__main__" in sys.modules else []
    # Only what the block added, which comes last: to touch a preloaded module is to copy its page.
    for name in list(islice(reversed(sys.modules), max(0, len(sys.modules) - _preloaded))):
        module = sys.modules[name]
        if type(module) is ModuleType:  # asking others for an attribute may load them
            file = module.__dict__.get("__file__")
            beside = isinstance(file, str) and file.startswith(directory + os.sep) and file.endswith(".py")
            if beside and "site-packages" not in str(file):
                found.append(name)
    return found


def _clear(names: Dict[str, Any]) -> None:
    """Drop what a module holds, in the interpreter's order, so that finalizers run and find what they use."""
    for name in list(names):
        if name.startswith("_") and not name.startswith("__"):
            names[name] = None
    for name in list(names):
        if name != "__builtins__":
            names[name] = None


def flush(stream: Any) -> bool:
    """Flush a stream, which may be anything by now; return false if it could not be done."""
    try:
        if stream is not None and not stream.closed:
            stream.flush()
    except Exception:
        return False
    return True
