"""The runner's main loop: takes requests from the host and runs blocks one at a time.

Wherever the sandbox has a PID namespace this is its PID 1: "kill everything" is then one call, nothing inside
can signal it, and its end is the end of everything. It forks a warm worker ahead of each block.
"""

from __future__ import annotations

import binascii
import json
import os
import resource
import signal
import sys
import time

from . import linux
from .block import Block, block_rlimits
from .channel import Channel, HostGone, StartError
from .confine import Confinement
from .disk import DiskMeter
from .files import DIRECTORY, Refused, empty_directory, refusal, reopen, write_file, write_new
from .frames import MAX_CODE
from .group import MemoryGroup, ProcessCount, Rank, Victim
from .hidden import remove_segments
from .kernel import Kernel
from .kernelspec import find_kernel
from .listing import Listing
from .preload import preload
from .pristine import Modes, Pristine
from .spare import Spare
from .transfer import receive_file, send_file
from .watch import Watch
from .worker import prepare_streams

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

SETTLE = 0.4
"""Seconds for measuring the workspace after a block that wrote much."""
LOOK = 0.5
"""Seconds for finding and hashing what a block wrote; the host gives a runner 1.5 s after `wall_time` in all."""
EMPTYING = 5.0
"""Seconds more for removing what a block left in memory, taken from what it has left of its `wall_time`."""
TERMINALS = ("/dev/pts", "/dev/pts/ptmx")
"""What makes terminals: blocks own it where there is one for the sandbox alone."""
KERNEL_FILES = 1 << 20
"""Bytes that a kernel may have in sockets and files of its own, where the workspace is full already."""


class Supervisor:
    """Serves one host until it goes away.

    Args:
        config: What `Sandbox.runner_options` says, `token` and `limits`.
        channel: The host.
        files: What the host handed over, see `group`.
    """

    def __init__(self, config: Dict[str, Any], channel: Channel, files: Dict[str, int]) -> None:
        self._channel = channel
        self._config = config
        self._leftover = 0
        self._ahead: Optional[Tuple[Spare, Watch]] = None
        self._kernel: Optional[Kernel] = None
        self._since = 0
        config["pid_namespace"] = os.getpid() == 1
        if not config["pid_namespace"]:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
            os.setsid()  # no terminal of the host's for the blocks
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        prepare_streams()
        if config["seccomp"]:
            linux.filter_calls(binascii.a2b_base64(config["seccomp"]))
        if not config["inherit_env"]:
            os.environ.clear()
        os.environ.update(config["env"])
        self._confinement = self._confine()
        self._wakeup = self._watch_children()
        self._root = self._open_workspace(config["workspace"])
        config["tmpfs"] = [path for path in config["tmpfs"] if os.path.ismount(path)]
        preload(config["preload"], self._channel.reading)
        self._listing = Listing(self._root)
        self._counted = [os.open(path, DIRECTORY) for path in config["counted"]]
        self._disk = self._new_meter()
        self._rlimits = block_rlimits(config)
        self._shared = [os.open(path, DIRECTORY) for path in (*config["tmpfs"], *config["scratch"])]
        used = {*config["tmpfs"], *config["scratch"], *config["counted"]}
        self._pristine = [Pristine(self._root), *(Pristine(os.open(path, DIRECTORY)) for path in sorted(used))]
        self._terminals = Modes(TERMINALS if config["pid_namespace"] else ())
        self._rank = Rank(files["oom"]) if "oom" in files else None
        self._victim = Victim(config["write_below"]) if config["memory_group"] else None
        self._group = MemoryGroup.find() if config["memory_group"] else MemoryGroup.given(files)
        if self._group is not None:
            self._group.settle()
        self._count = self._find_count(files)

    def _find_count(self, files: Dict[str, int]) -> Optional[ProcessCount]:
        """Return what holds forks, where the end of a PID namespace does not end all that is in it."""
        if self._config["pid_namespace"]:
            for name in {"processes", "most"} & set(files):
                os.close(files[name])
            return None
        count = ProcessCount.given(files)
        if count is None and self._config["landlock"] and not self._config["landlock"]["ask_forks"]:
            raise StartError("the pids control group is not there")
        return count

    def _confine(self) -> Optional[Confinement]:
        try:
            return Confinement(self._config["landlock"]) if self._config["landlock"] else None
        except OSError as error:
            raise StartError("Landlock does not work here: %s" % error) from None

    def _watch_children(self) -> int:
        wakeup, write = os.pipe()
        os.set_blocking(wakeup, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        # A handler that does nothing: what counts is the byte in the pipe.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        # What our launcher ignored, as under nohup, is no business of the blocks.
        for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
            if signal.getsignal(number) == signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        # PID 1 is immune to what it has no handler for, and Python has one for this: a block could end us with it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return wakeup

    def _open_workspace(self, path: str) -> int:
        try:
            os.chdir(path)
            return os.open(path, DIRECTORY & ~os.O_NOFOLLOW)
        except OSError as error:
            raise StartError("cannot use the workspace %s: %s" % (path, error.strerror)) from None

    def _new_meter(self) -> DiskMeter:
        return DiskMeter(self._root, *self._counted)

    def serve(self) -> None:
        """Answer requests until the host goes away.

        Raises:
            HostGone: the host went away.
            Forked: in a new worker.
        """
        if self._confinement is not None:
            self._prepare()
            self._try_confinement()
        version = "%d.%d.%d" % sys.version_info[:3]
        self._channel.send(
            {"op": "hello", "python": version, "pid_namespace": self._config["pid_namespace"], "uid": os.getuid()}
        )
        operations = {
            "run": self._run,
            "put": self._put,
            "get": self._get,
            "reset": self._reset,
            "ping": self._ping,
            "kernel": self._start_kernel,
            "kernel_alive": self._tell_of_kernel,
            "cell": self._begin_cell,
            "cell_end": self._end_cell,
            "interrupt": self._interrupt,
            "settle": self._settle_kernel,
            "stop": self._stop_kernel,
            "cancel": self._ignore,
        }
        while True:
            if self._ahead is None and self._kernel is None:
                self._prepare()
            request = self._next_request()
            operation = operations.get(request.get("op", ""))
            if operation is None:
                raise HostGone("unknown operation")
            try:
                operation(request)
            except Refused as refused:
                self._channel.send({"op": "error", "kind": refused.kind, "message": str(refused)})

    def _prepare(self) -> None:
        """Fork a worker ahead."""
        self._disk.rest()
        if self._config["pid_namespace"]:
            remove_segments()  # nobody is left who could use them, and the next block must not pay for them
        if self._config["limits"]["processes"] == 1:  # the dead count too, until they are waited for
            self._wait_for_leftover()
        spare = Spare(self._victim, self._rank, self._confinement)
        self._wait_for_leftover()  # its CPU time is the last block's, not the next one's
        self._ahead = spare, Watch(self._config, self._disk, self._group)

    def _try_confinement(self) -> None:
        """See whether a worker can be confined, before anything is to run in it."""
        assert self._ahead is not None
        try:
            self._ahead[0].listener()
        except OSError as error:
            raise StartError(str(error)) from None

    def _wait_for_leftover(self) -> None:
        if self._leftover:
            os.waitpid(self._leftover, 0)
            self._leftover = 0

    def _next_request(self) -> Dict[str, Any]:
        request = self._kernel.attend() if self._kernel is not None else None
        if request is None and self._kernel is not None and self._kernel.busy:
            return {"op": "cell_end"}  # so that the host hears of it now
        return request or self._channel.next_request()

    def _start_kernel(self, request: Dict[str, Any]) -> None:
        """Start a kernel in the place of the last one, and of all that it had started."""
        self._close_kernel()
        spec = find_kernel(str(request["name"])) if request["name"] else None
        self._disk.give(KERNEL_FILES)
        file = os.path.join(request["directory"], "connection.json")
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as connection:
            connection.write(json.dumps(request["connection"]))
        if self._ahead is None:
            self._prepare()
        assert self._ahead is not None
        spare, _ = self._ahead
        self._ahead = None
        # Between cells, and in all of them together, CPU time has no limit.
        config = dict(self._config, limits=dict(self._config["limits"], cpu_time=None))
        self._kernel = Kernel(config, self._channel, spare, Watch(config, self._disk, self._group), self._wakeup)
        self._kernel.start(
            {
                "argv": spec.command(file) if spec else [],
                "env": spec.environment() if spec else {},
                "kernel": file,
                "rlimits": [pair for pair in self._rlimits if pair[0] != resource.RLIMIT_CPU],
            }
        )
        language, interrupt = (spec.language, spec.interrupt_mode) if spec else ("python", "signal")
        self._channel.send({"op": "kernel", "language": language, "interrupt_mode": interrupt})

    def _tell_of_kernel(self, request: Dict[str, Any]) -> None:
        if self._kernel is not None and not self._kernel.alive:
            raise Refused("kernel", "the kernel has ended before it came up: " + self._kernel.last_words())
        self._channel.send({"op": "done"})

    def _begin_cell(self, request: Dict[str, Any]) -> None:
        if self._kernel is None:
            raise Refused("io", "there is no kernel")
        self._kernel.begin(Watch(self._config, self._disk, self._group), bool(request["live"]))

    def _end_cell(self, request: Dict[str, Any]) -> None:
        if self._kernel is None or not self._kernel.busy:  # it has ended, and the host was told
            return
        report = self._kernel.finish()
        if not self._kernel.alive:
            self._close_kernel()
        if report["memory_is_full"] or (report["verdict"] == "memory" and not self._kernel):
            self._empty_memory(report)  # the kernel, or the next one, could not live with what they hold
        self._reopen()
        self._disk.settle(SETTLE, self._config["limits"]["disk"])
        # Since the last cell: the kernel may have begun with this one before we were told of it.
        since, self._since = self._since, linux.change_time()
        report["files"] = self._listing.changed(since, LOOK)
        self._blame_file_size(report)
        self._channel.send(dict(report, op="result"))

    def _interrupt(self, request: Dict[str, Any]) -> None:
        if self._kernel is not None:
            self._kernel.interrupt()

    def _settle_kernel(self, request: Dict[str, Any]) -> None:
        if self._kernel is not None:
            self._kernel.settle()
        self._since = linux.change_time()
        self._channel.send({"op": "done"})

    def _stop_kernel(self, request: Dict[str, Any]) -> None:
        if self._kernel is not None:
            self._kernel.stop(str(request["verdict"]), str(request["message"]))

    def _close_kernel(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None

    def _ignore(self, request: Dict[str, Any]) -> None:
        """A cancellation that came when its block had just ended."""

    def _run(self, request: Dict[str, Any]) -> None:
        size = int(request["size"])
        if size > MAX_CODE:
            raise HostGone("too much code")
        code = bytearray()
        while len(code) < size:
            code += self._channel.next_data()
        argv: List[str] = list(request["argv"])
        program = str(request["program"])
        if program and not _which(program):
            raise Refused("no_interpreter", "%s is not installed in this sandbox" % program)
        since = linux.change_time()
        filename = request.get("filename")
        path = filename or self._unused_name(request["suffix"])
        self._write(path, bytes(code), keep=bool(filename))
        self._disk.give(len(code))
        self._disk.start(since)
        full_path = os.path.join(self._config["workspace"], path)
        job = {
            "argv": [word.replace("{file}", full_path) for word in argv],
            "path": full_path,
            "source": b"" if argv else bytes(code),
            "rlimits": self._rlimits,
        }
        report = self._run_block(job, bool(request.get("live")))
        self._reopen()
        if not filename:
            self._remove(path)
        self._disk.settle(SETTLE, self._config["limits"]["disk"])
        left = max(0.0, self._config["limits"]["wall_time"] - report["duration"])
        report["files"] = self._listing.changed(since, LOOK + left)
        self._blame_file_size(report)
        self._channel.send(dict(report, op="result"))

    def _reopen(self) -> None:
        """Make usable again what a block may have locked."""
        for directory in (self._root, *self._shared):
            reopen(directory)
        self._terminals.restore()

    def _unused_name(self, suffix: str) -> str:
        """Return a name that no earlier block could have guessed and put something in the way of."""
        while True:
            name = ".block_%s%s" % (os.urandom(4).hex(), suffix)
            try:
                os.lstat(name, dir_fd=self._root)
            except OSError:
                return name

    def _run_block(self, job: Dict[str, Any], live: bool) -> Dict[str, Any]:
        assert self._ahead is not None
        spare, watch = self._ahead
        self._ahead = None
        block = Block(self._config, self._channel, spare, watch, live, self._wakeup, self._count)
        try:
            report = block.run(job)
        finally:
            spare.close()
        self._leftover = block.leftover
        if report["verdict"] == "memory" and watch.files_weigh():
            self._empty_memory(report)
        return report

    def _empty_memory(self, report: Dict[str, Any]) -> None:
        left = self._config["limits"]["wall_time"] - report["duration"]
        end = time.monotonic() + LOOK + min(max(0.0, left), EMPTYING)
        done = [empty_directory(path, end - time.monotonic()) for path in self._config["tmpfs"]]
        what = "is removed" if all(done) else "could not all be removed in time, and may take the next block's"
        report["message"] += "; what was in memory-backed directories " + what

    def _blame_file_size(self, report: Dict[str, Any]) -> None:
        """A program that is stopped by the file size limit in a process of its own leaves a file of that size."""
        limit = self._config["limits"]["file_size"]
        if report["verdict"] == "failed" and any(file["size"] == limit for file in report["files"]):
            report["verdict"] = "disk"
            report["message"] = "a file reached the limit of %d bytes" % limit

    def _write(self, path: str, data: bytes, keep: bool) -> None:
        try:
            if keep:
                write_file(self._root, path, data)
            else:
                write_new(self._root, path, data)
        except OSError as error:
            if not keep:  # the name is ours, and means nothing to anybody
                raise Refused("io", "the block cannot be put into the workspace: %s" % error.strerror) from None
            raise refusal(error, path) from None

    def _remove(self, path: str) -> None:
        try:
            os.unlink(path, dir_fd=self._root)
        except OSError:  # the block removed it, or replaced it
            pass

    def _put(self, request: Dict[str, Any]) -> None:
        receive_file(self._channel, self._root, str(request["path"]), int(request["size"]))
        self._listing.learn(str(request["path"]))
        self._disk.forget()
        self._channel.send({"op": "done"})

    def _reset(self, request: Dict[str, Any]) -> None:
        """Forget all that blocks have left: a kernel, files, and what they have made of the directories themselves."""
        self._close_kernel()  # first, or what it has started would go on writing files
        for path in (self._config["workspace"], *self._config["tmpfs"], *self._config["scratch"]):
            empty_directory(path)
        for directory in self._pristine:
            directory.restore()
        self._terminals.restore()
        self._listing, self._disk = Listing(self._root), self._new_meter()
        if self._ahead is not None:
            self._ahead = self._ahead[0], Watch(self._config, self._disk, self._group)
        self._channel.send({"op": "done"})

    def _ping(self, request: Dict[str, Any]) -> None:
        self._channel.send({"op": "done"})

    def _get(self, request: Dict[str, Any]) -> None:
        send_file(self._channel, self._root, str(request["path"]), int(request["max_bytes"]))
        self._channel.send({"op": "done"})


def _which(command: str) -> bool:
    directories = os.environ.get("PATH", "").split(":")
    return any(os.access(os.path.join(directory, command), os.X_OK) for directory in directories)
