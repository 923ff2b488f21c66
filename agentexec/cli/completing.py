"""What the shell may complete. Everything is looked up when Tab is pressed, and a failure completes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

MOST_RUNS = 50


def complete_sandboxes(incomplete: str) -> list[str]:
    """Return executor specs that begin so."""
    from sandboxes.registry import executor_names

    return [name for name in executor_names() if name.startswith(incomplete) and name != "fake"]


def complete_languages(incomplete: str) -> list[str]:
    """Return languages that begin so."""
    from sandboxes.languages import LANGUAGES

    return [language.name for language in LANGUAGES if language.name.startswith(incomplete)]


def complete_runs(incomplete: str) -> list[tuple[str, str]]:
    """Return ids of stored runs that begin so, newest first, each with its task."""
    return list(_runs(incomplete))


def _runs(incomplete: str) -> Iterator[tuple[str, str]]:
    from agentexec.errors import StoreError
    from agentexec.store import Store
    from agentexec.visible import visible

    with contextlib.suppress(StoreError), Store(create=False) as store:
        for run in reversed(store.runs(text=incomplete or None, limit=MOST_RUNS)):
            if run.run_id.startswith(incomplete):
                yield run.run_id, visible(run.task.partition("\n")[0][:60], keep="").replace(":", " ")
