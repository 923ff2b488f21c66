"""How two runs differ: what came of them, and where they part."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence

from agentexec.events import Event, RunFinished, RunResumed
from agentexec.store import RunSummary
from agentexec.transcript import price, transcript_of

_CONTEXT = 3


def compare(one: RunSummary, events: Iterable[Event], other: RunSummary, others: Iterable[Event]) -> Iterator[str]:
    """Yield what differs: a line for each value, then both transcripts as a unified diff; nothing if they are the same.

    How long things took is left out, and where a process ended and another went on.
    """
    left, right = _values(one), _values(other)
    changed = [name for name in left if left[name] != right[name]]
    said, heard = _said(events), _said(others)
    if not changed and said == heard:
        return
    yield f"--- {one.run_id}"
    yield f"+++ {other.run_id}"
    for name in changed:
        yield f"-{name}: {left[name]}"
        yield f"+{name}: {right[name]}"
    diff = difflib.unified_diff(said, heard, lineterm="", n=_CONTEXT)
    yield from list(diff)[2:]  # without its two lines for file names


def _values(run: RunSummary) -> dict[str, str]:
    return {
        "status": run.status,
        "model": run.model,
        "sandbox": run.executor,
        "turns": str(run.turns),
        "tokens": "unknown" if run.tokens is None else f"{run.tokens:,}",
        "cost": price(run.cost),
    }


def _said(events: Iterable[Event]) -> Sequence[str]:
    kept = [event for event in events if not isinstance(event, RunResumed)]
    last = len(kept) - 1
    told = [event for place, event in enumerate(kept) if place == last or not isinstance(event, RunFinished)]
    return list(transcript_of(told, times=False))
