"""Runs one block: feeds it to a worker, reads its output, holds it to its limits, and ends all it started."""

from __future__ import annotations

import errno
import math
import os
import resource
import select
import signal
import sys
import time

from . import linux
from .capture import HeadTail
from .channel import Channel, HostGone
from .disk import megabytes
from .frames import (
    CONTROL,
    KEPT_STDERR,
    KEPT_STDOUT,
    LIVE_STDERR,
    LIVE_STDOUT,
    FrameError,
    decode_control,
    encode,
    encode_chunks,
)
from .guard import Guard
from .spare import PIPE_SIZE, Spare
from .watch import Watch
from .worker import ENDED, EXEC_FAILED, EXIT_STATUS, job_bytes

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    from .group import ProcessCount

DRAIN = 0.2
"""Seconds to wait for the rest of the output after everything was killed (only an escaped process can use them)."""
SHARED_MEMORY = "/dev/shm"  # noqa: S108
NO_SPACE = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)
OF_THE_USER = {"RLIMIT_RTPRIO": 0, "RLIMIT_NICE": 0, "RLIMIT_SIGPENDING": 4096}
"""What blocks do not get of their user's: whoever makes music may starve the supervisor, by real-time priority, and
timers and queued signals of all the user's processes come out of one store."""


def block_rlimits(config: Dict[str, Any]) -> List[Tuple[int, int]]:
    """Return the (resource, value) pairs that a worker sets on itself; none is above what we may have ourselves."""
    limits = config["limits"]
    rlimits = [
        # 1, not 0: a core pattern that is a pipe ignores 0, and treats 1 as "none" (kernel, fs/coredump.c).
        (resource.RLIMIT_CORE, 1),
        (resource.RLIMIT_FSIZE, limits["file_size"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
    ]
    for name, most in OF_THE_USER.items():
        number = getattr(resource, name, None)  # only Linux has them
        if number is not None:
            rlimits.append((number, most))
    if limits.get("cpu_time") is not None:
        # The watcher counts the whole tree and is finer; this is for the case that it is starved.
        rlimits.append((resource.RLIMIT_CPU, math.ceil(limits["cpu_time"]) + 1))
    if config["process_cap"] == "rlimit":
        own = len(os.listdir("/proc/self/task"))  # preloaded libraries may have started threads
        rlimits.append((resource.RLIMIT_NPROC, limits["processes"] + own))
    return [(number, _at_most_ours(number, value)) for number, value in rlimits]


def _at_most_ours(number: int, value: int) -> int:
    hard = resource.getrlimit(number)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


class Block:
    """One block on its way.

    Args:
        config: The runner's configuration.
        channel: The host.
        spare: The worker that becomes the block.
        watch: The watcher that was made with it.
        live: Whether output is sent while the block runs.
        wakeup: Descriptor that becomes readable when a child ends.
        count: The sandbox's pids control group, where that is what holds forks.

    Attributes:
        leftover: Id of the main process if it is dead but has not been waited for; 0 otherwise.
    """

    def __init__(
        self,
        config: Dict[str, Any],
        channel: Channel,
        spare: Spare,
        watch: Watch,
        live: bool,
        wakeup: int,
        count: Optional[ProcessCount] = None,
    ) -> None:
        self._limits: Dict[str, Any] = config["limits"]
        self._pid_namespace: bool = config["pid_namespace"]
        self._channel = channel
        self._spare = spare
        self._live = live
        self._wakeup = wakeup
        self._count = count
        self._status = -1
        self._reaped = False
        self._cpu_time = 0.0
        self._maxrss = 0
        self._executes = False  # what runs in the worker itself can write to the page what it likes
        self.leftover = 0
        self._verdict = ""
        self._message = ""
        self.renew()
        self._live_kinds = {spare.stdout: LIVE_STDOUT, spare.stderr: LIVE_STDERR}
        self._open = {spare.stdout, spare.stderr}
        self._watch = watch
        self._poller = select.poll()
        for descriptor in (wakeup, channel.reading, spare.stdout, spare.stderr):
            self._poller.register(descriptor, select.POLLIN)
        self._guard: Optional[Guard] = None
        if config["landlock"]:
            self._guard = Guard(spare.listener(), config["landlock"], self._limits["processes"])
            self._poller.register(self._guard.listener, select.POLLIN)
        self._paused = False

    def renew(self) -> None:
        """Forget what was written so far."""
        self._captures = {
            self._spare.stdout: HeadTail(self._limits["output"]),
            self._spare.stderr: HeadTail(self._limits["output"]),
        }

    def run(self, job: Dict[str, Any]) -> Dict[str, Any]:
        """Run to the end; return the report without the files.

        Raises:
            HostGone: nobody waits for the result; the block is still running.
        """
        started = time.monotonic()
        self._executes = bool(job["argv"])
        self._spare.start(job_bytes(job))
        self._serve(started)
        duration = time.monotonic() - started
        self._kill()
        self._drain()
        return self._report(duration)

    def _serve(self, started: float) -> None:
        deadline = started + self._limits["wall_time"]
        next_sample = started + self._watch.delay
        self._take_requests()  # a cancellation may have come in one piece with the block
        while not self._ended() and not self._verdict:
            now = time.monotonic()
            if now >= deadline:
                self._end("timeout", "ran longer than %g s" % self._limits["wall_time"])
                return
            if now >= next_sample:
                breach = self._watch.sample()
                if breach is not None:
                    self._end(*breach)
                    return
                next_sample = time.monotonic() + self._watch.delay
            self._wait(max(0.0, min(deadline, next_sample) - time.monotonic()))

    def _ended(self) -> bool:
        """Whether the main process has ended, or says that nothing is left to do but to end it."""
        page = self._spare.page
        if self._status < 0 and page[0] == ENDED:
            self._status = page[EXIT_STATUS] << 8  # as wait(2) has it
        return self._status >= 0

    def _end(self, verdict: str, message: str) -> None:
        self._verdict, self._message = verdict, message

    def _wait(self, seconds: float) -> None:
        if self._channel.pending_bytes or self._paused:
            self._pause()
        ready = dict(self._poller.poll(math.ceil(seconds * 1000)))
        # Output first: what a block said before it ended belongs before its end.
        for stream in [stream for stream in self._open if stream in ready]:
            self._read(stream)
        if self._channel.pending_bytes:
            self._channel.flush()
        if self._guard is not None and self._guard.listener in ready:
            self._answer(self._guard, ready[self._guard.listener])
        if self._wakeup in ready:
            self._clear_wakeup()
            self._reap(os.WNOHANG)
        if self._channel.reading in ready:
            self._channel.read()
            self._take_requests()

    def _answer(self, guard: Guard, events: int) -> None:
        if events & select.POLLIN:
            guard.answer()
        else:  # nobody is left who could ask
            self._poller.unregister(guard.listener)

    def _pause(self) -> None:
        """Wait for the host too, while something waits for it; and do not read more than it takes."""
        channel = self._channel
        waiting = select.POLLOUT if channel.pending_bytes else 0
        if channel.writing == channel.reading:
            self._poller.register(channel.reading, select.POLLIN | waiting)
        elif waiting:
            self._poller.register(channel.writing, waiting)
        elif self._paused:
            self._poller.unregister(channel.writing)
        for stream in self._open:
            self._poller.register(stream, 0 if channel.full else select.POLLIN)
        self._paused = bool(channel.pending_bytes)

    def _clear_wakeup(self) -> None:
        try:
            os.read(self._wakeup, 4096)
        except BlockingIOError:
            pass

    def _take_requests(self) -> None:
        while True:
            kind, payload = self._channel.next_frame(wait=False)
            if not kind:
                return
            try:
                operation = decode_control(payload).get("op") if kind == CONTROL else None
            except FrameError as error:
                raise HostGone(str(error)) from None
            if operation != "cancel":
                raise HostGone("unexpected frame while a block runs")
            self._end("cancelled", "cancelled by the caller")

    def _captured(self, stream: int) -> bool:
        """Read what is there; return whether that was anything."""
        before = self._captures[stream].total
        if self._channel.full:
            self._channel.flush_all()
        return self._read(stream) and self._captures[stream].total > before

    def _read(self, stream: int) -> bool:
        """Read what is there; return false at the end of the stream."""
        for _ in range(16):
            try:
                data = os.read(stream, PIPE_SIZE)
            except BlockingIOError:
                return True
            if not data:
                self._open.discard(stream)
                self._poller.unregister(stream)
                return False
            self._captures[stream].feed(data)
            if self._live:
                self._channel.queue(encode(self._live_kinds[stream], data))
                if self._channel.full:
                    return True
            if len(data) < 4096:
                return True
        return True

    def _reap(self, options: int) -> bool:
        """Collect ended children; return false once there are none left at all."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, options)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._spare.pid:
                self._reaped = True
                if self._status < 0:
                    self._status = status
                self._maxrss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def _kill(self) -> None:
        """End everything the block started. Again and again, since the last fork may just have happened."""
        if self._is_alone():
            # To take a large process apart takes the kernel milliseconds, for which nobody has to wait: it sleeps,
            # has nobody beside it, and does not come back from this.
            self.leftover = self._spare.pid
            self._cpu_time, self._maxrss = linux.usage(self.leftover)
            os.kill(self.leftover, signal.SIGKILL)
            return
        if self._count is not None:
            self._count.hold_forks()
        try:
            self._kill_all()
        finally:
            if self._count is not None:
                self._count.release_forks()

    def _kill_all(self) -> None:
        # Who has no child left has no descendant: orphans become children of PID 1, or of the subreaper. A guard that
        # is asked about forks does not answer any more.
        while self._reap(os.WNOHANG):
            linux.signal_all(self._pid_namespace, signal.SIGKILL)
            if not self._pid_namespace:
                time.sleep(0.0005)
            elif not self._reap(0):
                return

    def _is_alone(self) -> bool:
        """Whether the main process waits to be ended, and nothing else was ever started beside it."""
        page = self._spare.page
        if page[0] != ENDED or self._verdict or self._reaped:
            return False
        if self._count is not None:
            return self._count.current() == len(os.listdir("/proc/self/task")) + 1
        if self._guard is not None:
            return self._guard.forks == 0
        return self._pid_namespace and linux.newest_process() == self._spare.pid

    def _drain(self) -> None:
        if self.leftover:  # it wrote all it had; the end of the stream comes when the kernel is done with it
            for stream in list(self._open):
                while self._captured(stream):
                    pass
            return
        end = time.monotonic() + DRAIN
        for stream in list(self._open):
            while stream in self._open:
                poller = select.poll()
                poller.register(stream, select.POLLIN)
                left = end - time.monotonic()
                if left <= 0 or not poller.poll(math.ceil(left * 1000)) or not self._read(stream):
                    break
                if self._channel.full:
                    self._channel.flush_all()

    def _report(self, duration: float) -> Dict[str, Any]:
        exit_code, signal_number = linux.split_status(self._status)
        page = self._spare.page
        if page[0] == EXEC_FAILED and self._executes and not self._verdict:
            self._end("failed", "could not start the interpreter: %s" % os.strerror(page[1]))
        verdict = self._verdict or ("ok" if self._status == 0 else "failed")
        if not self._verdict and self._watch.was_short_of_memory():
            verdict = "memory"
            self._message = "the kernel ended a process for want of memory; the limit is %s" % megabytes(
                self._limits["memory"]
            )
        if verdict == "failed":
            verdict = self._blame(verdict, exit_code, signal_number)
        out, err = self._captures[self._spare.stdout], self._captures[self._spare.stderr]
        for kind, capture in ((KEPT_STDOUT, out), (KEPT_STDERR, err)):
            for frame in encode_chunks(kind, capture.head() + capture.tail()):
                self._channel.queue(frame)
        killed = bool(self._verdict)
        return {
            "verdict": verdict,
            "exit_code": None if signal_number or killed else exit_code,
            "signal": int(signal.SIGKILL) if killed and not signal_number else signal_number or None,
            "stdout_bytes": out.total,
            "stderr_bytes": err.total,
            "stdout_head": len(out.head()),
            "stderr_head": len(err.head()),
            "duration": duration,
            "cpu_time": max(self._watch.cpu_time(), self._watch.reaped_cpu() + self._cpu_time),
            "peak_memory": max(self._watch.peak(), self._maxrss),
            "message": self._message,
        }

    def _blame(self, verdict: str, exit_code: int, signal_number: int) -> str:
        """Tell a block that failed for want of space from one that failed by itself."""
        page = self._spare.page
        if signal_number == signal.SIGXFSZ or (page[0] == ENDED and page[1] == errno.EFBIG):
            self._message = "a file reached the limit of %s" % megabytes(self._limits["file_size"])
            return "disk"
        full = self._watch.filled_up()
        if SHARED_MEMORY in full:
            self._message = "%s is full; the limit is %s" % (SHARED_MEMORY, megabytes(self._limits["memory"]))
            return "memory"
        if full or (page[0] == ENDED and page[1] in NO_SPACE):
            self._message = "no space left"
            return "disk"
        limit = self._limits.get("cpu_time")
        if signal_number == signal.SIGXCPU and limit is not None and self._watch.cpu_time() >= limit:
            self._message = "used %g s of CPU" % limit
            return "cpu_time"
        return verdict
