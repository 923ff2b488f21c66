"""Where runs outlive the process: every event of every run, in one SQLite file.

    store = Store()                                  # the user's own; or Store("directory")
    result = await solve(task, model=model, store=store)
    for run in store.runs(status="interrupted"):
        print(run.run_id, run.task)

The log of a run is the truth; a row beside it sums it up, so that lists need not read events. Only the process
that holds a run's lock adds to its log. Others leave answers for it (`Store.answer`).

Nothing here imports pydantic before an event is read or written: `agentexec runs` starts the faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentexec.store.runs import Answer, Store, default_directory
from agentexec.store.summaries import RunSummary

if TYPE_CHECKING:
    from agentexec.store.recorder import Recorder

__all__ = ["Answer", "Recorder", "RunSummary", "Store", "default_directory"]


def __getattr__(name: str) -> object:
    if name == "Recorder":
        from agentexec.store.recorder import Recorder

        return Recorder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
