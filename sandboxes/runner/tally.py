"""CPU time of processes whose end nobody is told of, since whoever started them does not wait for them."""

from __future__ import annotations

from .hidden import STARTED
from .linux import cpu_seconds

TYPE_CHECKING = False  # as in `typing`, which takes 4 ms of a start to load
if TYPE_CHECKING:
    from typing import Dict, List, Tuple


class CpuTally:
    """Adds up what each process has used when it was last seen.

    That is less than they have used: what a process does between the last look and its end is not in it. But it is all
    that a kernel tells of children whose parent ignores their end, see wait(2), where no control group counts.

    Attributes:
        seconds: CPU time of all processes that were seen since `begin`.
        restless: Whether any has gone since the look before the last one, so that looking more often pays.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.restless = False
        self._last: Dict[Tuple[int, str], float] = {}
        self._gone = 0.0

    def begin(self, tree: Dict[int, List[str]]) -> None:
        """Count from here on what these processes use, and those that they start."""
        self._gone = 0.0
        self._last = {}
        self.look(tree)
        self._gone = -self.seconds
        self.seconds = 0.0

    def look(self, tree: Dict[int, List[str]]) -> None:
        """Look at all there are: process ids to their fields in proc(5)."""
        seen: Dict[Tuple[int, str], float] = {}
        for pid, fields in tree.items():
            key = pid, fields[STARTED]  # ids come again
            try:
                seen[key] = max(cpu_seconds(pid), self._last.get(key, 0.0))
            except OSError:
                continue
        gone = [seconds for key, seconds in self._last.items() if key not in seen]
        self._gone += sum(gone)
        self._last = seen
        self.restless = bool(gone)
        self.seconds = self._gone + sum(seen.values())
