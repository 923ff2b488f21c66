"""What happens in a run, as values. The log keeps them in order; views, stores and tests listen to it."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentexec.models.base import Usage
from agentexec.pictures import Picture as Picture
from sandboxes.types import CodeBlock, Limits, Result, Stream

Status = Literal["solved", "not_solved", "model_failed", "sandbox_failed", "interrupted"]


class Message(BaseModel):
    """What one agent said.

    Attributes:
        sender: `task` for the user's task, else the agent's name (`planner`, `coder`, `reviewer`, `executor`, …).
        content: Markdown.
        turn: 0 for the task, then counting up by one with every message.
        cut: Whether the model's reply was cut off at its length limit, so that the end is missing.
        pictures: What goes along with the text, for models that see; the text says what they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sender: str
    content: str
    turn: int = 0
    cut: bool = False
    pictures: tuple[Picture, ...] = ()


class Event(BaseModel):
    """Base of all events.

    Attributes:
        time: Seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    transient: ClassVar[bool] = False
    """Whether listeners see the event but the log does not keep it (pieces of what a later event holds whole)."""

    time: float = Field(default_factory=time.time)


class RunStarted(Event):
    """A run began."""

    type: Literal["run_started"] = "run_started"
    run_id: str
    task: str
    model: str
    executor: str
    limits: Limits
    workspace: str | None = None
    files: tuple[str, ...] = ()


class TraceStarted(Event):
    """The run is traced by OpenTelemetry; a resumption links to this trace.

    Attributes:
        traceparent: Of the run's root span, in the form of https://www.w3.org/TR/trace-context/.
    """

    type: Literal["trace_started"] = "trace_started"
    traceparent: str


class TurnStarted(Event):
    """An agent was asked for its next message."""

    type: Literal["turn_started"] = "turn_started"
    turn: int
    agent: str


class ModelText(Event):
    """A piece of a model's reply."""

    type: Literal["model_text"] = "model_text"
    transient: ClassVar[bool] = True
    agent: str
    text: str


class ModelRetried(Event):
    """A model call failed and is tried again; pieces of it seen so far are void."""

    type: Literal["model_retried"] = "model_retried"
    agent: str
    attempt: int
    delay: float
    reason: str


class ModelCalled(Event):
    """A model answered.

    Attributes:
        usage: Tokens, or None where the server did not say.
        cost: USD, or None where unknown.
        duration: Seconds.
    """

    type: Literal["model_called"] = "model_called"
    agent: str
    model: str
    usage: Usage | None = None
    cost: Decimal | None = None
    finish_reason: str = "stop"
    duration: float = 0.0


class MessageAdded(Event):
    """A message joined the conversation."""

    type: Literal["message"] = "message"
    message: Message


class BlockStarted(Event):
    """A block goes to the executor. `index` counts the blocks of one message from 0."""

    type: Literal["block_started"] = "block_started"
    turn: int
    index: int
    block: CodeBlock


class BlockOutput(Event):
    """A piece of a running block's output."""

    type: Literal["block_output"] = "block_output"
    transient: ClassVar[bool] = True
    turn: int
    index: int
    stream: Stream
    data: bytes


class BlockFinished(Event):
    """A block ended."""

    type: Literal["block_finished"] = "block_finished"
    turn: int
    index: int
    block: CodeBlock
    result: Result


class BlockRefused(Event):
    """A block was not run: unsafe path, unknown language, or not approved."""

    type: Literal["block_refused"] = "block_refused"
    turn: int
    index: int
    block: CodeBlock
    reason: str


class ApprovalAsked(Event):
    """A person is asked whether a block may run."""

    type: Literal["approval_asked"] = "approval_asked"
    turn: int
    index: int
    block: CodeBlock


class ApprovalGiven(Event):
    """The answer to `ApprovalAsked`."""

    type: Literal["approval_given"] = "approval_given"
    turn: int
    index: int
    approved: bool
    reason: str = ""


class RunFinished(Event):
    """A run ended.

    Attributes:
        stop_reason: `final_answer`, or the name of the stop condition or failure.
        message: For people.
    """

    type: Literal["run_finished"] = "run_finished"
    status: Status
    stop_reason: str
    answer: str | None = None
    message: str = ""


AnyEvent = Annotated[
    RunStarted
    | TraceStarted
    | TurnStarted
    | ModelText
    | ModelRetried
    | ModelCalled
    | MessageAdded
    | BlockStarted
    | BlockOutput
    | BlockFinished
    | BlockRefused
    | ApprovalAsked
    | ApprovalGiven
    | RunFinished,
    Field(discriminator="type"),
]
"""Any event, told apart by `type`; use `pydantic.TypeAdapter(AnyEvent)` to read one back from JSON."""
