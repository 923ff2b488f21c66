"""The pull of an image, which may take minutes, and which nobody has to wait for who no longer wants it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace

from sandboxes.docker.engine import Engine, PullProgress
from sandboxes.errors import SandboxUnavailable


class Pull:
    """Pulls an image, in a thread of its own: one of the event loop's would keep the process from ending.

    Args:
        engine: Where to.
        image: Its name.
        on_progress: Called from the thread, and for the last time, with `finished`, before `done` is over.
    """

    def __init__(self, engine: Engine, image: str, on_progress: Callable[[PullProgress], None] | None) -> None:
        self._engine, self._image, self._on_progress = engine, image, on_progress
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._given_up = threading.Event()
        self._telling = threading.Lock()
        self._told: PullProgress | None = None

    async def done(self) -> None:
        """Pull, and wait for the end.

        Raises:
            SandboxUnavailable: no registry has it, or `give_up` was called.
        """
        threading.Thread(target=self._work, name=f"pull {self._image}", daemon=True).start()
        try:
            await self._end
        finally:
            self._given_up.set()
            self._tell_end()

    def give_up(self) -> None:
        """Wait no longer. The engine stops with the next layer, or when this process ends."""
        self._settle(SandboxUnavailable(f"the image {self._image} is not in the engine, and its pull was given up"))

    def _work(self) -> None:
        error: Exception | None = None
        try:
            self._engine.pull(self._image, self._tell, self._given_up.is_set)
        except Exception as failure:  # whatever it is, it is raised where somebody waits
            error = failure
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._settle, error)

    def _tell(self, progress: PullProgress) -> None:
        with self._telling:
            if self._on_progress is not None and not self._given_up.is_set():
                self._told = progress
                self._on_progress(progress)

    def _tell_end(self) -> None:
        """Say that it is finished, if the thread has begun to tell of it and did not get to that."""
        with self._telling:
            if self._on_progress is not None and self._told is not None and not self._told.finished:
                self._on_progress(replace(self._told, finished=True))

    def _settle(self, error: Exception | None) -> None:
        if self._end.done():
            return
        if error is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(error)
