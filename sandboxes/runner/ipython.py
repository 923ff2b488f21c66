"""Becomes an IPython kernel whose output is bounded as that of any block is."""

from __future__ import annotations

import os
import sys

from .cellinterrupts import CellInterrupts
from .program import add_user_site, before_packages, exit_status, flush

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Any, List, NoReturn


def run_kernel(connection_file: str) -> NoReturn:
    """Become an IPython kernel; `ipykernel` was imported before this process was forked, if that was asked for."""
    from importlib import import_module

    base: Any = import_module("ipykernel.kernelapp").IPKernelApp

    class App(base):  # type: ignore[misc]
        ip: str

        def init_io(self) -> None:
            # What is printed goes to our descriptors, where it is bounded and counted, and not into messages.
            self.outstream_class = None
            super().init_io()

        def init_sockets(self) -> None:
            self.names = self.ip
            self.ip = os.path.join(home, "n")
            super().init_sockets()

        def write_connection_file(self, **kwargs: Any) -> None:
            pass  # the host has written it, with the names that the sockets are going to have

        def start(self) -> None:
            self.start_kernel, self.kernel.start = self.kernel.start, self.open_doors
            super().start()

        def open_doors(self) -> None:
            """Let the host in, once it is safe.

            ipykernel 7 reads its shell socket in a thread of its own, and `Kernel.start` uses it from this one. With a
            request on its way at that moment, libzmq's mailbox gets out of order, and the kernel may never read again
            (up to one start in ten on a busy machine).
            """
            self.start_kernel()
            for name in os.listdir(home):
                if name.startswith("n-"):
                    os.rename(os.path.join(home, name), self.names + name[1:])

    home = os.path.dirname(connection_file)
    sys.argv = ["ipykernel"]
    app = App.instance()
    app.initialize(["-f", connection_file, "--quiet", "--ipython-dir=" + home, "--HistoryManager.enabled=False"])
    # Since IPython 9 it remembers every character that is printed, and every traceback, for `%notebook`.
    app.shell.history_manager.outputs = _Forgetful()
    app.shell.history_manager.exceptions = _Forgetful()
    if "" not in sys.path:  # IPython 9.7 leaves it to the interpreter, and ours is isolated
        sys.path.insert(before_packages(), "")
    add_user_site(make=True)
    CellInterrupts(app.kernel)
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
        flush(sys.stdout)
        flush(sys.stderr)
        os._exit(exit_status(error.code) if isinstance(error, SystemExit) else int(bool(error)))

    return leave
