"""What came of a run: a function of its event log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from agentexec.events import BlockFinished, Event, MessageAdded, ModelCalled, RunFinished, RunStarted, Status
from agentexec.models.base import Usage
from sandboxes.types import Result


class BlockRecord(BaseModel):
    """A block that was run.

    Attributes:
        turn: Turn of the message that holds it.
        language: Canonical name, e.g. `python`.
        filename: Where its code was saved in the workspace, or None.
        code: Its source text.
        result: What came of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    turn: int
    language: str
    filename: str | None
    code: str
    result: Result


class AgentUsage(BaseModel):
    """What one agent's model calls used.

    Attributes:
        calls: Answers, those from a cache included.
        usage: Tokens, as far as servers counted them. None if they counted none.
        cost: USD, a number in JSON. None if the price of any call is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: int
    usage: Usage | None
    cost: Decimal | None

    @field_serializer("cost", when_used="json-unless-none")
    def _cost_as_number(self, cost: Decimal) -> float:
        return float(cost)


class SolveResult(BaseModel):
    """What came of a run. Its JSON is the object that `agentexec solve --json` prints.

    Attributes:
        status: `solved`, `not_solved`, `model_failed`, `sandbox_failed`, `interrupted`, or `waiting` (for a person).
        answer: The accepted answer, or None.
        stop_reason: `final_answer`, the name of the stop condition, or the status where something failed.
        message: For people: why it ended so.
        turns: Messages after the task, those within nested teams included.
        blocks: The blocks that were run, in order.
        usage: Tokens of all model calls, as far as servers counted them. None if they counted none.
        cost: USD, a number in JSON. None if the price of any call is unknown.
        agents: The same for each agent whose model was called.
        files: Paths of all files in the workspace that blocks created or changed, each once.
        run_id: Identity of the run; ids sort by time.
        events: The whole log. Not part of the JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Status
    answer: str | None
    stop_reason: str
    message: str
    turns: int
    blocks: tuple[BlockRecord, ...]
    usage: Usage | None
    cost: Decimal | None
    agents: Mapping[str, AgentUsage]
    files: tuple[str, ...]
    run_id: str
    events: tuple[Event, ...] = Field(exclude=True, repr=False)

    @property
    def solved(self) -> bool:
        """Whether there is an accepted answer."""
        return self.status == "solved"

    @field_serializer("cost", when_used="json-unless-none")
    def _cost_as_number(self, cost: Decimal) -> float:
        return float(cost)


def result_of(events: Iterable[Event]) -> SolveResult:
    """Return the result that a log tells of.

    Raises:
        ValueError: the log does not begin and end as a run does.
    """
    kept = tuple(events)
    if len(kept) < 2 or not isinstance(kept[0], RunStarted) or not isinstance(kept[-1], RunFinished):
        raise ValueError("not the log of a finished run: it must begin with RunStarted and end with RunFinished")
    started, finished = kept[0], kept[-1]
    calls = [event for event in kept if isinstance(event, ModelCalled)]
    blocks = [event for event in kept if isinstance(event, BlockFinished)]
    total = _used(calls)
    names = dict.fromkeys(call.agent for call in calls)
    return SolveResult(
        status=finished.status,
        answer=finished.answer,
        stop_reason=finished.stop_reason,
        message=finished.message,
        turns=sum(isinstance(event, MessageAdded) and event.message.sender != "task" for event in kept),
        blocks=tuple(
            BlockRecord(
                turn=event.turn,
                language=event.block.language,
                filename=event.block.filename,
                code=event.block.code,
                result=event.result,
            )
            for event in blocks
        ),
        usage=total.usage,
        cost=total.cost,
        agents={name: _used([call for call in calls if call.agent == name]) for name in names},
        files=tuple(dict.fromkeys(file.path for event in blocks for file in event.result.files)),
        run_id=started.run_id,
        events=kept,
    )


def _used(calls: Sequence[ModelCalled]) -> AgentUsage:
    counted = [call.usage for call in calls if call.usage is not None]
    costs = [call.cost for call in calls]
    return AgentUsage(
        calls=len(calls),
        usage=sum(counted, Usage()) if counted or not calls else None,
        cost=None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0)),
    )
