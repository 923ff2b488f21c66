"""A process on this machine in a control group of its own."""

from __future__ import annotations

import asyncio
import os

from sandboxes.isolation.cgroups import ControlGroup
from sandboxes.isolation.handover import Handover, close_all
from sandboxes.isolation.hierarchy import CPU, MEMORY, Place
from sandboxes.stream import ProcessStream
from sandboxes.types import Limits


def mechanisms(place: Place | None) -> dict[str, str]:
    """Return what enforces memory and CPU time, and what counts them for `Result`, with or without a group."""
    memory = place is not None and MEMORY in place.parents
    cpu = memory and place is not None and CPU in place.parents
    return {
        "cpu_time": ("control group's CPU time, " if cpu else "") + "runner's watcher and RLIMIT_CPU",
        "memory": ("memory control group and " if memory else "") + "runner's watcher",
        "peak_memory": ("memory control group and " if memory else "") + "runner's watcher",
    }


class GroupedStream(ProcessStream):
    """A stream to a runner, whose control group goes when it does.

    Attributes:
        group: The control group, if there is one.
    """

    group: ControlGroup | None = None

    def make_group(self, place: Place | None, limits: Limits, *, preload: bool) -> Place | None:
        """Make the group while the launcher is busy.

        Returns:
            The place, or None if there is none, or it looked usable and was not (a delegated group that others have
            moved into, say): then the runner's watcher holds the limits, and `Isolation` says so.
        """
        if place is None:
            return None
        try:
            self.group = ControlGroup.create(place, limits, preload=preload)
        except OSError:
            return None
        return place

    async def enter_group(self, pid: int, handover: Handover) -> None:
        """Move the runner into the group or have it move itself, and give it what it reads there.

        Raises:
            OSError: it has ended.
        """
        if self.group is None:
            return
        if not self.group.entered_from_inside:
            # Takes up to 20 ms, in which the runner's interpreter comes up: the kernel waits until no process forks.
            await asyncio.to_thread(self.group.add, pid)
        files = self.group.open_files()
        try:
            files["oom"] = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            handover.send(files)
        finally:
            close_all(files)

    def ready(self) -> None:
        if self.group is not None:
            self.group.settle()

    def sweep(self) -> None:
        super().sweep()
        if self.group is not None:
            self.group.kill()

    async def close(self) -> None:
        await super().close()
        if self.group is not None:
            self.group.close()
            self.group = None
