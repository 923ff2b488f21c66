"""A worker that is forked ahead, seen from the supervisor."""

from __future__ import annotations

import fcntl
import mmap
import os

from .confine import receive_descriptors, socket_pair
from .files import write_all
from .worker import Worker

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Optional

    from .confine import Confinement
    from .group import Rank, Victim

F_SETPIPE_SZ = 1031
PIPE_SIZE = 1 << 18
"""A larger pipe lets a flood of output be read in fewer, larger pieces."""


class Forked(Exception):
    """Raised in the new process: unwinds the supervisor's stack, so that a block sees next to no frames of ours."""

    def __init__(self, worker: Worker) -> None:
        super().__init__("forked")
        self.worker = worker


class Spare:
    """A forked process that waits for a job.

    Args:
        victim: See `Worker`.
        rank: Makes the process such a victim where it cannot do that itself.
        confinement: See `Worker`.

    Attributes:
        pid: Its process id.
        stdout: Descriptor to read its standard output from; likewise `stderr`.
        page: Memory shared with it, see `Worker`.
    """

    def __init__(
        self, victim: Optional[Victim], rank: Optional[Rank] = None, confinement: Optional[Confinement] = None
    ) -> None:
        self.page: Any = mmap.mmap(-1, 4096)
        job, self._job = socket_pair() if confinement else os.pipe()
        self._listener = -1
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        if rank is not None:
            rank.step_forward()
        self.pid = os.fork()
        if self.pid == 0:
            raise Forked(Worker(job, stdout, stderr, self.page, victim, confinement))
        if rank is not None:
            rank.step_back()
        for descriptor in (job, stdout, stderr):
            os.close(descriptor)
        for descriptor in (self.stdout, self.stderr):
            os.set_blocking(descriptor, False)
            try:
                fcntl.fcntl(descriptor, F_SETPIPE_SZ, PIPE_SIZE)
            except OSError:  # the user's share of pipe memory is used up, or this is not Linux
                pass

    def listener(self) -> int:
        """Wait until the process is confined; return the descriptor at which its calls are to be answered.

        Raises:
            OSError: it could not be confined, or has died.
        """
        if self._listener < 0:
            word, descriptors = receive_descriptors(self._job, 1)
            if not descriptors:
                raise OSError("a block cannot be confined: %s" % (word[1:].decode() or "its process has died"))
            self._listener = descriptors[0]
            os.set_inheritable(self._listener, False)
        return self._listener

    def start(self, job: bytes) -> None:
        """Hand the job over, as `job_bytes` returns it. If the process has died meanwhile, its status will say so."""
        try:
            write_all(self._job, job)
        except BrokenPipeError:
            pass
        finally:
            os.close(self._job)
            self._job = -1

    def close(self) -> None:
        """Release the descriptors."""
        for descriptor in (self._job, self.stdout, self.stderr, self._listener):
            if descriptor >= 0:
                os.close(descriptor)
        self.page.close()
