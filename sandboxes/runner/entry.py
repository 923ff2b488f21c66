"""What the loader calls: takes over the byte stream, serves, and leaves nothing behind."""

from __future__ import annotations

import os
import time

from . import linux
from .channel import Channel, HostGone, StartError
from .group import enter, receive
from .spare import Forked
from .supervisor import Supervisor
from .worker import Worker

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable


def main(config: Dict[str, Any]) -> Worker:
    """Serve the host; returns only in a forked worker, which is to be run by the caller."""
    files = receive(config["handover"]) if config["handover"] >= 0 else {}
    _close_all_but(files.values())  # what a launcher left open
    reading, writing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    # What was printed before our first frame (a login banner, say) ends where this token is.
    os.write(writing, config["token"].encode())
    channel = Channel(reading, writing)
    try:
        enter(files)
        Supervisor(config, channel, files).serve()
    except StartError as error:
        channel.send({"op": "fatal", "message": str(error)})
    except Forked as forked:
        return forked.worker
    except HostGone:
        pass
    except Exception as error:
        try:
            channel.send({"op": "fatal", "message": "runner: %s: %s" % (type(error).__name__, error)})
        except HostGone:
            pass
    if os.getpid() != 1:
        _end_tree()
    os._exit(0)


def _close_all_but(kept: Iterable[int]) -> None:
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, _highest() + 1)


def _highest() -> int:
    try:
        return max(int(name) for name in os.listdir("/proc/self/fd"))
    except OSError:  # no Linux
        return 255


def _end_tree() -> None:
    """End all descendants, where no PID namespace does it for us."""
    while True:
        linux.signal_all(False)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        time.sleep(0.0005)
