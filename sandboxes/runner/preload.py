"""Imports ahead what blocks are going to use."""

from __future__ import annotations

import gc
import os
import select

from .channel import StartError

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import List


def _import_all(modules: List[str], reading: int) -> None:
    """Import modules. If that keeps us busy, for ever perhaps, a thread sees to it that we end when the host does."""
    import importlib
    import threading  # where nothing is preloaded, no worker has to pay for what it does after a fork

    wait, stop = os.pipe()

    def watch() -> None:
        poller = select.poll()
        poller.register(reading, select.POLLIN)  # the host says nothing before our hello, so this is its end
        poller.register(wait, select.POLLIN)
        if reading in dict(poller.poll()):
            os._exit(1)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for name in modules:
            try:
                importlib.import_module(name)
            except Exception as error:
                raise StartError("cannot preload %r: %s: %s" % (name, type(error).__name__, error)) from None
    finally:
        os.close(stop)
        thread.join()
        os.close(wait)


def preload(modules: List[str], reading: int) -> None:
    """Import modules; what is loaded then is never looked at again by a worker's collector: no copies of its pages.

    Args:
        modules: Their names.
        reading: The descriptor at whose end we end, also in the middle of an import.

    Raises:
        StartError: a module cannot be imported.
    """
    if modules:
        _import_all(modules, reading)
    gc.collect()
    gc.freeze()
