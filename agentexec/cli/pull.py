"""How far the pull of an image is, on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from agentexec.cli.output import say

if TYPE_CHECKING:
    from rich.progress import Progress

    from sandboxes.docker.engine import PullProgress


class PullReport:
    """Shows a bar on a terminal, and a line for the beginning elsewhere.

    Args:
        bar: Whether a bar may be drawn; not while another view draws.
    """

    def __init__(self, *, bar: bool) -> None:
        self._bar = bar and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._said = False

    def __call__(self, progress: PullProgress) -> None:
        """Show the progress; called from the thread that pulls."""
        if not self._bar:
            if not self._said:
                say(f"pulling the image {progress.image} ...")
            self._said = True
            return
        if self._progress is None:
            self._progress = _new_bar()
            self._progress.start()
            self._progress.add_task(f"pulling {progress.image}")
        self._progress.update(self._progress.task_ids[0], completed=progress.done, total=progress.total)
        if progress.finished:
            self._progress.stop()


def _new_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=Console(stderr=True), transient=True
    )
