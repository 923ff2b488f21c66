"""The process that a block runs in: forked ahead from the warm interpreter, used once.

For a Python block it behaves as `python FILE` does: a fresh `__main__` that is a real file, its directory first
on `sys.path`, a normal end with threads joined, exit functions run and files flushed. For other languages it
becomes the interpreter by exec.
"""

from __future__ import annotations

import atexit
import gc
import io
import marshal
import os
import resource
import signal
import sys
import threading
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any, Dict, List, NoReturn, Optional

from . import linux

compile("", "<warm>", "exec")  # the first use of the compiler costs a millisecond, here once for all workers
NICE = 10
"""Blocks give way to the supervisor, which has to get a word in among as many busy processes as they may have."""
NOT_STARTED, RUNNING, ENDED, EXEC_FAILED = range(4)


class Worker:
    """A spare process, waiting for its block.

    Args:
        job: Descriptor to read the job from; end of file means that none will come.
        stdout: Descriptor that becomes 1.
        stderr: Descriptor that becomes 2.
        page: Memory shared with the supervisor: byte 0 is how far the worker got, byte 1 the errno that ended it.
    """

    def __init__(self, job: int, stdout: int, stderr: int, page: Any) -> None:
        self._job = job
        self._page = page
        os.setpgid(0, 0)  # so that `kill(0)` is the block's own business
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Undumpable was for the supervisor; a process that is, cannot even list its own descriptors.
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
        _prefer_for_oom()
        os.nice(NICE)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.dup2(job, 3)
        self._job = 3
        os.closerange(4, 256)
        self._main = _new_main()
        _reseed()

    def main(self) -> NoReturn:
        """Wait for the job, and do it."""
        with open(self._job, "rb") as file:
            data = file.read()
        if not data:
            os._exit(0)
        job = marshal.loads(data)  # noqa: S302 - from the supervisor, over a pipe nobody else has
        for name, value in job["rlimits"]:
            resource.setrlimit(name, (value, value))
        if job["argv"]:
            self._exec(job["argv"])
        self._page[0] = RUNNING
        code = run_python(self._main, job["path"], job["source"], self._page)
        self._page[0] = ENDED
        os._exit(code)

    def _exec(self, argv: List[str]) -> NoReturn:
        # Python ignores these; what it starts should not.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        self._page[0] = RUNNING
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            self._page[0], self._page[1] = EXEC_FAILED, min(error.errno or 0, 255)
        os._exit(126)


def _prefer_for_oom() -> None:
    try:
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
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


def _new_main() -> ModuleType:
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=__builtins__, __cached__=None)
    sys.modules["__main__"] = main
    sys.dont_write_bytecode = True
    return main


def _reseed() -> None:
    # `random` reseeds itself after a fork; numpy does not.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def run_python(main: ModuleType, path: str, source: bytes, page: Any) -> int:
    """Run a program as `__main__` and end the interpreter's business; return the exit status."""
    main.__dict__.update(__file__=path, __loader__=SourceFileLoader("__main__", path))
    sys.argv = [path]
    sys.path.insert(0, os.path.dirname(path))
    status = 0
    try:
        code: CodeType = compile(source, path, "exec", dont_inherit=True)
        exec(code, main.__dict__)  # noqa: S102 - that is the product
    except BaseException as error:
        status = _report(error, page)
    return _finish(main, status, page)


def _report(error: BaseException, page: Any) -> int:
    """Do what the interpreter does with an exception that nobody caught; return the exit status."""
    if isinstance(error, SystemExit):
        return _exit_status(error.code)
    if isinstance(error, OSError) and error.errno:
        page[1] = min(error.errno, 255)
    trace = _without_ours(error.__traceback__)
    error.__traceback__ = trace
    try:
        sys.excepthook(type(error), error, trace)
    except BaseException as hook_error:
        if isinstance(hook_error, SystemExit):
            return _exit_status(hook_error.code)
        sys.stderr.write("Error in sys.excepthook:\n")
        sys.__excepthook__(type(hook_error), hook_error, hook_error.__traceback__)
        sys.stderr.write("\nOriginal exception was:\n")
        sys.__excepthook__(type(error), error, trace)
    if isinstance(error, KeyboardInterrupt):
        return -int(signal.SIGINT)
    return 1


def _without_ours(trace: Optional[TracebackType]) -> Optional[TracebackType]:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _exit_status(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    _flush(sys.stdout)
    try:
        sys.stderr.write("%s\n" % (code,))
    except Exception:  # noqa: S110 - stderr may be closed or gone; the status says it all
        pass
    return 1


def _finish(main: ModuleType, status: int, page: Any) -> int:
    """Join threads, run exit functions, destroy what `__main__` holds, flush; as a normal end does."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    except BaseException as error:
        _report(error, page)
    atexit._run_exitfuncs()
    flushed = _flush(sys.stdout)
    if threading.active_count() == 1:  # daemon threads would see their globals vanish
        _clear(main.__dict__)
        gc.collect()
    for item in gc.get_objects():
        if type(item) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
            _flush(item)
    _flush(sys.stderr)
    if status == -int(signal.SIGINT):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 120 if status == 0 and not flushed else status


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
