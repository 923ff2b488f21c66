"""The process that a block runs in: forked ahead from the warm interpreter, used once.

For a Python block it behaves as `python FILE` does: a fresh `__main__` that is a real file, its directory first
on `sys.path`, a normal end with threads joined, exit functions run and files flushed. For other languages it
becomes the interpreter by exec.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # `signal` itself looks up enumerations, which copies a hundred pages
import atexit
import builtins
import gc
import io
import marshal
import os
import resource
import sys
import time
import weakref
from importlib.machinery import SourceFileLoader
from itertools import islice
from types import CodeType, ModuleType, TracebackType

from . import linux
from .confine import receive_descriptors, send_descriptors

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, List, NoReturn, Optional

    from .confine import Confinement

compile("", "<warm>", "exec")  # the first use of the compiler costs a millisecond, here once for all workers
NICE = 5
"""Blocks give way to the supervisor, which has to get a word in among as many busy processes as they may have."""
OOM_SCORE = "/proc/self/oom_score_adj"
EXIT_STATUS = 2
NOT_STARTED, RUNNING, ENDED, EXEC_FAILED = range(4)
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


class Worker:
    """A spare process, waiting for its block.

    Args:
        job: Descriptor to read the job from; end of file means that none will come. Where this process is to be
            confined, it is a socket, and the listener of its calls goes back by it.
        stdout: Descriptor that becomes 1.
        stderr: Descriptor that becomes 2.
        page: Memory shared with the supervisor: byte 0 is how far the worker got, byte 1 the errno that ended it,
            byte 2 the exit status.
        victim: Whether the kernel is to take this process first when the sandbox's control group is out of memory.
        confinement: What this process is to be confined by.
    """

    def __init__(
        self, job: int, stdout: int, stderr: int, page: Any, victim: bool, confinement: Optional[Confinement]
    ) -> None:
        self._page = page
        self._pid = os.getpid()
        if confinement is not None:
            confinement.separate()
        if os.getppid() == 1:
            os.setsid()  # so that `kill(0)` is the block's own business, and no process can join our supervisor's group
        else:
            os.setpgid(0, 0)  # elsewhere the session tells what is the sandbox's
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        # Undumpable was for the supervisor; a process that is, cannot even list its own descriptors.
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
        if os.getppid() != 1:  # PID 1 takes everything along; any other supervisor could be killed without us
            linux.prctl(linux.PR_SET_PDEATHSIG, _signal.SIGKILL)
        if victim:
            _prefer_for_oom()
        os.nice(NICE)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.dup2(job, 3)
        self._job = 3
        self._confined = confinement is not None
        if confinement is not None:
            self._confine(confinement)
        os.closerange(4, 256)
        _new_main()
        _reseed()

    def _confine(self, confinement: Confinement) -> None:
        try:
            send_descriptors(self._job, b"+", [confinement.listen()])
        except OSError as error:
            os.write(self._job, b"-" + str(error).encode())
            os._exit(1)

    def main(self) -> NoReturn:
        """Wait for the job, and do it."""
        data, sockets = receive_descriptors(self._job, 8) if self._confined else (b"", [])
        data += _read(self._job)
        if not data:
            os._exit(0)
        job = marshal.loads(data)  # noqa: S302 - from the supervisor, over a pipe nobody else has
        for name, value in job["rlimits"]:
            resource.setrlimit(name, (value, value))
        os.environ.update(job.get("env", ()))
        if job["argv"]:
            self._exec(job["argv"])
        self._page[0] = RUNNING
        if "kernel" in job:
            run_kernel(job["kernel"], sockets)
        code = run_python(job["path"], job["source"], self._page)
        if os.getpid() != self._pid:
            os._exit(code)  # a fork of the program's, which came to the end of the file as well
        self._page[EXIT_STATUS] = code & 0xFF
        self._page[0] = ENDED
        # The supervisor looks up, and ends us. It would wait longer for an end of our own making, which is only for
        # the case that it is gone.
        if self._confined:  # nobody is to be signalled from here; that nothing more will be written says it too
            os.closerange(1, 3)
            os._exit(code)
        os.kill(os.getppid(), _signal.SIGCHLD)
        time.sleep(1.0)
        os._exit(code)

    def _exec(self, argv: List[str]) -> NoReturn:
        # Python ignores these; what it starts should not.
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
        _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
        self._page[0] = RUNNING
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            self._page[0], self._page[1] = EXEC_FAILED, min(error.errno or 0, 255)
        os._exit(126)


def _read(file: int) -> bytes:
    """Read to the end; without the buffers of a file object, whose making costs more than the reading."""
    data = b""
    while True:
        piece = os.read(file, 1 << 16)
        if not piece:
            os.close(file)
            return data
        data += piece


def run_kernel(connection_file: str, sockets: List[int]) -> NoReturn:
    """Become an IPython kernel; `ipykernel` was imported before this process was forked, if that was asked for."""
    from importlib import import_module

    base: Any = import_module("ipykernel.kernelapp").IPKernelApp

    class App(base):  # type: ignore[misc]
        def init_io(self) -> None:
            # What is printed goes to our descriptors, where it is bounded and counted, and not into messages.
            self.outstream_class = None
            super().init_io()

    sys.argv = ["ipykernel"]
    app = App.instance()
    home = os.path.dirname(connection_file)
    app.initialize(["-f", connection_file, "--quiet", "--ipython-dir=" + home, "--HistoryManager.enabled=False"])
    # Since IPython 9 it remembers every character that is printed, and every traceback, for `%notebook`.
    app.shell.history_manager.outputs = _Forgetful()
    app.shell.history_manager.exceptions = _Forgetful()
    app.shell.events.register("post_run_cell", _end_forks(os.getpid()))
    app.start()
    os._exit(0)


class _Forgetful(dict):  # type: ignore[type-arg] # 3.8 has no dict[...]
    """A dictionary of lists that keeps nothing."""

    def __missing__(self, key: int) -> List[Any]:
        return []

    def __setitem__(self, key: int, value: Any) -> None:
        pass


def _end_forks(kernel: int) -> Any:
    """Return what ends, after a cell, a fork of the kernel's which came to the end of the cell as well.

    It would go on as a second kernel on the sockets of the first, and take a fork bomb through the interrupt that
    is to end it.
    """

    def leave(result: Any) -> None:
        if os.getpid() == kernel:
            return
        error = result and result.error_in_exec
        _flush(sys.stdout)
        _flush(sys.stderr)
        os._exit(_exit_status(error.code) if isinstance(error, SystemExit) else int(bool(error)))

    return leave


def _prefer_for_oom() -> None:
    try:
        file = os.open(OOM_SCORE, os.O_WRONLY)
        os.write(file, b"1000")
        os.close(file)
    except OSError:
        pass


def prepare_streams() -> None:
    """Make the standard streams, before any fork, what blocks are to find behind descriptors 0, 1 and 2."""
    # Lines go out as they are printed, so that a block that is killed has said what it said.
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(encoding="utf-8", errors=errors, line_buffering=True)
    assert isinstance(sys.stdin, io.TextIOWrapper)
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


def _new_main() -> None:
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__.update(__annotations__={}, __builtins__=builtins, __cached__=None)
    sys.dont_write_bytecode = True


def _reseed() -> None:
    # `random` reseeds itself after a fork; numpy does not.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def run_python(path: str, source: bytes, page: Any) -> int:
    """Run a program as `__main__` and end the interpreter's business; return the exit status."""
    directory = os.path.dirname(path)
    names = sys.modules["__main__"].__dict__
    names.update(__file__=path, __loader__=SourceFileLoader("__main__", path))
    sys.argv = [path]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv = [sys.executable, path]
    sys.path.insert(0, directory)
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
        return _exit_status(error.code)
    if isinstance(error, OSError) and error.errno:
        page[1] = min(error.errno, 255)
    error.__traceback__ = _without_ours(error.__traceback__)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit as leaving:
        return _exit_status(leaving.code)
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


def _exit_status(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        # What does not fit into a C long counts as -1.
        return code & 0xFF if -(1 << 63) <= code < 1 << 63 else 255
    _flush(getattr(sys, "stdout", None))
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
    flushed = _flush(getattr(sys, "stdout", None))
    _flush_files()
    if threading is None or threading.active_count() == 1:  # daemon threads would see their globals vanish
        _destroy_modules(directory)
        _flush_files()
    _flush(getattr(sys, "stderr", None))
    if status == -int(_signal.SIGINT):
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        os.kill(os.getpid(), _signal.SIGINT)
    return 120 if status == 0 and not flushed else status


def _flush_files() -> None:
    # The collector may close a descriptor before the buffer that writes to it.
    for item in gc.get_objects():
        if type(item) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
            _flush(item)


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


def _flush(stream: Any) -> bool:
    try:
        if stream is not None and not stream.closed:
            stream.flush()
    except Exception:
        return False
    return True


def job_bytes(job: Dict[str, Any]) -> bytes:
    """Return a job as the worker reads it."""
    return marshal.dumps(job)
