"""What the workspace holds, and whose it is."""

from __future__ import annotations

import os
import stat
import time

from .files import MIN_FILE, steps
from .hidden import unlinked_files
from .linux import change_time

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Dict, Generator, List, Optional, Tuple

    from .files import Step

    Breach = Tuple[str, str]
    """Verdict and message."""

UNSEEN = 64 << 20
"""Bytes that may be in use without being seen, before it is looked for what holds them."""


def megabytes(size: float) -> str:
    """Return a size for people."""
    return "%.0f MiB" % (size / (1 << 20))


class DiskMeter:
    """Measures what a directory holds, a slice at a time, so that a million files hold nobody up."""

    SLICE, LONG_SLICE = 0.004, 0.1
    """Seconds that it measures for at a time, and where a block may be in the wrong."""
    DOUBT = 10.0
    """Seconds to find out whether a block has used up the space that went, or somebody else."""
    SLACK = 1 << 16
    """Bytes beyond what is tolerated."""
    PAUSE = 10
    """Time between two measurements, as a multiple of what one takes."""

    def __init__(self, root: int, *others: int) -> None:
        self._root = root
        self._others = others
        self._device = os.fstat(root).st_dev
        self._walk: Optional[Generator[Step, None, None]] = None
        self._sum = 0
        self._young = 0
        self._since = 0
        self._tolerated = 0
        self._given = 0
        self._measured = False
        self._doubt = 0.0
        self._busy = 0.0
        self._next = 0.0
        self._free = self._free_bytes()

    def _free_bytes(self) -> int:
        usage = os.statvfs(self._root)
        return usage.f_bfree * usage.f_frsize

    def begin(self) -> None:
        """Begin with a block. It is not blamed for what is there already: it may clean that up, but not add to it."""
        self.rest()
        self._tolerated = self._sum
        self.start(change_time())

    def start(self, since: int) -> None:
        """Take for what is there already what can be counted now, else what has an older change time than this."""
        if not self._measured:
            self._look(self.SLICE)
            self.rest()
            self._tolerated = self._sum
        self._mark(since)

    def forget(self) -> None:
        """Count what is there anew: the host has added to it."""
        self.rest()
        self._measured, self._next = False, 0.0
        self._mark(change_time())

    def _mark(self, since: int) -> None:
        self._since, self._doubt = since, 0.0
        self._free = self._free_bytes()

    def give(self, size: int) -> None:
        """Allow a block so many bytes more: the runner has written the block's own file."""
        self._given = MIN_FILE + size

    def rest(self) -> None:
        """Give up an unfinished measurement, whose descriptors a fork would inherit."""
        if self._walk is not None:
            self._walk.close()
            self._walk, self._next, self._measured = None, 0.0, False

    def check(self, limit: int, tree: Dict[int, List[str]]) -> Optional[Breach]:
        """Measure for a slice of time; return whether the block made the directory larger than it may be."""
        self._look(self.SLICE)
        if not self._measured:
            return self._check_space(limit)
        used = self._sum
        # A file that was removed and is still open takes space too.
        unseen = self._gone() - max(0, self._sum - self._tolerated)
        if unseen > UNSEEN:
            used += unlinked_files(tree, self._device, unseen)
        # A file system takes some more room for what was there when it writes that back.
        if used <= max(limit, self._tolerated + (self._tolerated >> 10) + self._given + self.SLACK):
            return None
        return "disk", "the workspace holds %s; the limit is %s" % (megabytes(used), megabytes(limit))

    def _check_space(self, limit: int) -> Optional[Breach]:
        """Return whether too much space went, as long as what is there is still being counted for the first time.

        Others use the same disk. So a block is blamed if that much went that it would be dangerous to wait, or if it
        could not be found out in time who it was.
        """
        gone, now = self._gone(), time.monotonic()
        if gone <= limit:
            self._doubt = 0.0
            return None
        self._doubt = self._doubt or now
        if gone <= 2 * limit + UNSEEN and now - self._doubt < self.DOUBT:
            self._look(self.LONG_SLICE)
            return None
        return "disk", "wrote %s; the limit is %s" % (megabytes(gone), megabytes(limit))

    def settle(self, seconds: float, limit: int) -> None:
        """Measure to the end, within so many seconds, if a block used much space: the next one must not pay for it."""
        used = self._gone()
        if self._walk is not None or used > UNSEEN or self._sum + used > limit:
            self._walk, self._next = None, 0.0
            self._look(seconds)

    def _gone(self) -> int:
        """Return how much less space is free than when the block started."""
        return self._free - self._free_bytes()

    def _walk_all(self) -> Generator[Step, None, None]:
        for root in (self._root, *self._others):
            yield from steps(root)

    def _look(self, seconds: float) -> None:
        now = time.monotonic()
        if self._walk is None:
            if now < self._next:
                return
            self._walk, self._sum, self._young, self._busy = self._walk_all(), 0, 0, 0.0
        end = now + seconds
        try:
            for count, (_, _, _, status) in enumerate(self._walk):
                if status is not None:
                    size = _space(status)
                    self._sum += size
                    self._young += size if status.st_ctime_ns > self._since else 0
                if count % 8 == 7 and time.monotonic() > end:
                    break
            else:
                self._walk = None
        except OSError:
            self._walk = None
        self._busy += time.monotonic() - now
        if self._walk is None:
            self._next = now + self._busy * self.PAUSE
            if not self._measured:
                self._measured = True
                # The block's part is no more than what is younger than it, and no more than the space that went.
                self._tolerated = self._sum - min(self._young, max(0, self._gone()))


def _space(status: os.stat_result) -> int:
    """Return bytes that a name takes: holes do not count, names do, since an empty file is not free."""
    # A file of several names is there once. Those of a directory are its own.
    names = 1 if stat.S_ISDIR(status.st_mode) else max(1, status.st_nlink)
    return max(MIN_FILE, status.st_blocks * 512 // names)
