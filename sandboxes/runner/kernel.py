"""A Jupyter kernel that stays: watched from cell to cell, interrupted or ended when the host says so.

The host speaks with the kernel itself, over sockets; what is written to descriptors 1 and 2 comes through here, as
the output of any block does.
"""

from __future__ import annotations

import os
import signal
import time

from . import linux
from .block import SHARED_MEMORY, Block
from .channel import Channel, HostGone
from .frames import CONTROL, FrameError, decode_control, encode_chunks
from .spare import Spare
from .watch import TICK, Watch, children_cpu
from .worker import EXEC_FAILED, job_bytes

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

RESTING = 0.25
"""Seconds between two looks at a kernel that has nothing to do."""
LAST_WORDS = 1500
"""Bytes of its output that are told of a kernel that did not come up."""


class Kernel(Block):
    """A kernel's process and all it starts.

    Args:
        config: The runner's configuration.
        channel: The host.
        spare: The worker that becomes the kernel.
        watch: A watcher that counts no CPU time.
        wakeup: Descriptor that becomes readable when a child ends.
    """

    def __init__(self, config: Dict[str, Any], channel: Channel, spare: Spare, watch: Watch, wakeup: int) -> None:
        super().__init__(config, channel, spare, watch, False, wakeup)
        self._idle = watch
        self._busy = self._interrupted = False
        self._started = 0.0
        self._cpu_before = 0.0
        self._next_sample = 0.0

    def start(self, job: Dict[str, Any]) -> None:
        """Let the worker become the kernel."""
        self._executes = bool(job["argv"])
        self._spare.start(job_bytes(job))

    @property
    def alive(self) -> bool:
        """Whether the kernel's process runs."""
        return not self._reaped and not self._verdict

    def begin(self, watch: Watch, live: bool) -> None:
        """Begin with a cell: what is written and used from here on is its own."""
        self._watch, self._live, self._busy, self._interrupted = watch, live, True, False
        if live:  # the kernel hears of its cell by another way, and may have been faster
            for stream, capture in self._captures.items():
                for frame in encode_chunks(self._live_kinds[stream], capture.head() + capture.tail()):
                    self._channel.queue(frame)
        self._started, self._cpu_before = time.monotonic(), self._cpu()
        watch.count_cpu_from(self._cpu_before)
        watch.go_on_from(self._idle)
        self._next_sample = 0.0

    def finish(self) -> Dict[str, Any]:
        """End a cell, or what is left of it if the kernel has ended; return the report without the files."""
        duration = time.monotonic() - self._started
        if self.alive:
            self._take()
        else:
            self._kill()
            self._drain()
        cpu_time = self._cpu() - self._cpu_before
        alive, status = self.alive, self._status
        # Whose file found no room is the host's to tell, by the error; where it found none is not.
        full = SHARED_MEMORY in self._watch.filled_up()
        if alive:
            self._status = 0
        report = self._report(duration)
        self._status = status
        if not alive and report["verdict"] == "ok":
            report.update(verdict="failed", message="the kernel has ended")
        self._watch, self._live, self._busy = self._idle, False, False
        self.renew()  # what is said between cells is the next one's
        return dict(report, cpu_time=max(0.0, cpu_time, report["cpu_time"]), alive=alive, memory_is_full=full)

    def last_words(self) -> str:
        """Return how a kernel that has ended did so, and what it said before."""
        self._take()
        exit_code, signal_number = linux.split_status(self._status)
        how = self._message or ("signal %d" % signal_number if signal_number else "exit status %d" % (exit_code or 0))
        if self._spare.page[0] == EXEC_FAILED and self._executes:
            how = "it could not be executed: " + os.strerror(self._spare.page[1])
        said = b"".join(capture.head() + capture.tail() for capture in self._captures.values())
        return "%s\n%s" % (how, said[-LAST_WORDS:].decode("utf-8", "replace").strip())

    def settle(self) -> None:
        """Forget what the kernel said while it came up."""
        self._take()
        self.renew()

    def stop(self, verdict: str, message: str) -> None:
        """End the kernel with this verdict, since the host asks for it."""
        self._end(verdict, message)

    def close(self) -> None:
        """End the kernel and all it has started, and release what we hold of it."""
        self._kill()  # also where the kernel has ended by itself: what it has started has not
        self._spare.close()

    def interrupt(self) -> None:
        """Interrupt what runs, and what that has started beside it; when a cell is interrupted again, only the kernel.

        Ours takes one interrupt for each cell (see `cellinterrupts`). What it has started may be ending in order.
        """
        again, self._interrupted = self._interrupted and not self._executes, True
        try:
            (os.kill if again else os.killpg)(self._spare.pid, signal.SIGINT)
        except OSError:
            pass

    @property
    def busy(self) -> bool:
        """Whether a cell runs."""
        return self._busy

    def attend(self) -> "Optional[Dict[str, Any]]":
        """Wait for the next request, and look after the kernel meanwhile; None if it and all it has started have ended.

        Raises:
            HostGone: nobody is left who could ask.
        """
        while self.alive:
            kind, payload = self._channel.next_frame(wait=False)
            if kind:
                try:
                    return decode_control(payload) if kind == CONTROL else {"op": "unknown"}
                except FrameError as error:
                    raise HostGone(str(error)) from None
            now = time.monotonic()
            if now >= self._next_sample:
                breach = self._watch.sample()
                if breach is not None:
                    self._end(*breach)
                    break
                self._next_sample = time.monotonic() + (self._watch.delay if self._busy else RESTING)
            self._wait(max(0.0, self._next_sample - time.monotonic()))
        self._kill()  # now, and not when the next cell comes: nobody watches what it has started any more
        return None

    def _take_requests(self) -> None:
        """They are taken one by one, by `attend`."""

    def _take(self) -> None:
        """Read what the kernel has written so far."""
        for stream in list(self._open):
            while self._captured(stream):
                pass

    def _cpu(self) -> float:
        ticks = 0
        for pid in linux.processes(self._pid_namespace):
            try:
                # Fields 14 to 17 of proc(5): its own time, and that of children it has waited for.
                ticks += sum(int(field) for field in linux.stat_fields(pid)[11:15])
            except (OSError, IndexError, ValueError):
                continue
        return children_cpu() + TICK * ticks
