"""Branches: a run that shares the beginning of another and goes another way."""

from __future__ import annotations

from agentexec.events import MessageAdded, RunStarted, WorkspaceNotSaved, WorkspaceSaved
from agentexec.store import Store


def branch(store: Store, run_id: str, at: int | None = None, message: str | None = None) -> str:
    """Make a branch and return its id; `solve(resume=...)` runs on from there, with what model and limits it is given.

    Args:
        store: Where both are.
        run_id: The run to branch off.
        at: Turn whose message is the last that is shared; None shares all.
        message: Takes the place of that message, or, at 0, of the task. The sender stays.

    Raises:
        RunNotFound: there is no such run.
        ValueError: it has no such turn, or the message is empty.
        StoreError: the store cannot be written.
    """
    if message is None:
        return store.branch(run_id, at)
    if at is None:
        raise ValueError("a message takes the place of another: say which turn's, with at= (--at N)")
    if not message.strip():
        raise ValueError("the message is empty")
    events, place = store.events(run_id), store.position_of(run_id, at)
    replaced = events[place]
    assert isinstance(replaced, MessageAdded)
    new = store.branch(run_id, before=at)
    recorder = store.record(new)
    try:
        if at == 0:
            first = events[0]
            assert isinstance(first, RunStarted)
            recorder(first.model_copy(update={"task": message, "run_id": new}))
        said = replaced.message.model_copy(update={"content": message, "cut": False})
        recorder(replaced.model_copy(update={"message": said}))
        for event in events[place + 1 : store.position_after(run_id, at)]:
            if isinstance(event, WorkspaceSaved | WorkspaceNotSaved):  # it is the same one, whatever was said
                recorder(event)
    finally:
        recorder.close()
    return new
