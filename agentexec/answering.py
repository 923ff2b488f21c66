"""Answers from another process: a run that waits for a person, and how its question is answered by way of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agentexec.errors import NotAsked
from agentexec.events import Answer, Event, Question, QuestionAnswered, QuestionAsked
from agentexec.store import Recorder, Store

POLL = 0.2
"""Seconds between two looks into the store, by a process that waits for an answer."""


def pending_question(events: Iterable[Event]) -> Question | None:
    """Return the question of a run that nobody has answered yet, if there is one."""
    pending: Question | None = None
    for event in events:
        if isinstance(event, QuestionAsked):
            pending = event.question
        elif isinstance(event, QuestionAnswered) and pending is not None and event.id == pending.id:
            pending = None
    return pending


def leave_answer(store: Store, run_id: str, answer: Answer) -> Question:
    """Answer the question that a run waits with, for the process that runs it or that will resume it.

    Returns:
        The question.

    Raises:
        NotAsked: the run asks nothing, was answered already, or the answer is none of the question's options.
        StoreError: the store cannot be written.
    """
    question = pending_question(store.events(run_id))
    if question is None:
        raise NotAsked(f"run {run_id} asks nothing: 'agentexec show {run_id}' tells where it stands")
    if any(left.content.get("question") == question.id for left in store.answers(run_id)):
        raise NotAsked(f"run {run_id} has been answered already: type 'agentexec resume {run_id}'")
    if answer.decision not in (*question.options, "reject"):
        raise NotAsked(f"{question.text!r} cannot be answered by {answer.decision}, only by {_either(question)}")
    store.answer(run_id, {"question": question.id, "answer": answer.model_dump()})
    return question


def take_answers(recorder: Recorder, events: list[Event]) -> list[Event]:
    """Return a run's events with the answer that was left for its question, which is now in the store's log too."""
    question = pending_question(events)
    answer = None if question is None else _left(recorder, question)
    if question is None or answer is None:
        return events
    event = QuestionAnswered(id=question.id, answer=answer)
    recorder(event)
    return [*events, event]


async def answer_from_store(recorder: Recorder, question: Question) -> Answer:
    """Wait until another process leaves an answer to a question, and return it."""
    while (answer := _left(recorder, question)) is None:  # noqa: ASYNC110 - the other process cannot set an event
        await asyncio.sleep(POLL)
    return answer


def _left(recorder: Recorder, question: Question) -> Answer | None:
    """Return what was left for a question. It stays in the store: who is killed now must find it again.

    Answers to earlier questions have been written into the log, or came too late; they are dropped.
    """
    found = None
    for left in recorder.store.answers(recorder.run_id):
        if left.content.get("question") != question.id:
            recorder.store.drop(left)
        elif found is None:
            found = Answer.model_validate(left.content["answer"])
    return found


def _either(question: Question) -> str:
    return ", ".join(question.options)
