"""The process that a block runs in: forked ahead from the warm interpreter, used once.

It runs a Python block itself, and for other languages becomes the interpreter by exec.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # `signal` itself looks up enumerations, which copies a hundred pages
import builtins
import io
import marshal
import os
import resource
import sys
import time
from types import ModuleType

from . import linux
from .confine import send_descriptors
from .ipython import run_kernel
from .program import run_python

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, List, NoReturn, Optional

    from .confine import Confinement
    from .group import Victim

NICE = 5
"""Blocks give way to the supervisor, which has to get a word in among as many busy processes as they may have."""
EXIT_STATUS = 2
NOT_STARTED, RUNNING, ENDED, EXEC_FAILED = range(4)


class Worker:
    """A spare process, waiting for its block.

    Args:
        job: Descriptor to read the job from; end of file means that none will come. Where this process is to be
            confined, it is a socket, and the listener of its calls goes back by it.
        stdout: Descriptor that becomes 1.
        stderr: Descriptor that becomes 2.
        page: Memory shared with the supervisor: byte 0 is how far the worker got, byte 1 the errno that ended it,
            byte 2 the exit status.
        victim: Makes this process the one that the kernel takes first when the control group is out of memory.
        confinement: What this process is to be confined by.
    """

    def __init__(
        self,
        job: int,
        stdout: int,
        stderr: int,
        page: Any,
        victim: Optional[Victim],
        confinement: Optional[Confinement],
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
        if victim is not None:
            victim.become()
        os.nice(NICE)
        # The supervisor's own would keep what a block makes of it (its flags, say) for the next one.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
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
            # What the user's other processes have on the way through sockets counts too, and may be a block's.
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            send_descriptors(self._job, b"+", [confinement.listen()])
        except OSError as error:
            os.write(self._job, b"-" + str(error).encode())
            os._exit(1)

    def main(self) -> NoReturn:
        """Wait for the job, and do it."""
        data = _read(self._job)
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
            run_kernel(job["kernel"])
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


def job_bytes(job: Dict[str, Any]) -> bytes:
    """Return a job as the worker reads it."""
    return marshal.dumps(job)
