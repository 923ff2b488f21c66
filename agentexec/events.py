"""What happens in a run, as values. The log keeps them in order; views, stores and tests listen to it."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentexec.models.base import Usage
from agentexec.pictures import Picture as Picture
from sandboxes.types import CodeBlock, Limits, Result, Stream

Status = Literal["solved", "not_solved", "model_failed", "sandbox_failed", "interrupted", "waiting"]
"""How a run ended. `waiting`: a person has to answer a question first; the run can be resumed then."""

QuestionKind = Literal["block", "plan", "input"]
"""May a block run? Is a plan good? What does the human say?"""

Decision = Literal["approve", "edit", "reject", "answer"]
"""What a human decides.

- `approve`: go on with what was shown.
- `edit`: go on with the human's text in its place.
- `reject`: do not; the text is the reason.
- `answer`: do not; the text takes the place of the result (of a block), or is what the human says (`input`).
"""


class Message(BaseModel):
    """What one agent said.

    Attributes:
        sender: `task` for the user's task, else the agent's name (`planner`, `coder`, `reviewer`, `executor`, …).
        content: Markdown.
        turn: 0 for the task, then counting up by one with every turn of the run, those of nested teams included.
        cut: Whether the model's reply was cut off at its length limit, so that the end is missing.
        pictures: What goes along with the text, for models that see; the text says what they are.
        calls: Ids of the tool calls by which a model sent its code. The last fences of `content` are these calls.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sender: str
    content: str
    turn: int = 0
    cut: bool = False
    pictures: tuple[Picture, ...] = ()
    calls: tuple[str, ...] = ()


class Question(BaseModel):
    """What a person is asked; holds all that is needed to answer it elsewhere and later.

    Attributes:
        id: The same for the same question of a run, also when it is asked again after a resumption.
        kind: What the question is about.
        text: The question in one line, for people.
        options: The decisions that are possible.
        turn: Turn of the message that the question is about.
        block: For `block`: the code, as the model wrote it.
        risks: For `block`: what it seems to do that is risky; see `agentexec.risks`.
        content: For `plan`: the plan. For `input`: the message to react to. Markdown, written by a model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: QuestionKind
    text: str
    options: tuple[Decision, ...]
    turn: int
    block: CodeBlock | None = None
    risks: tuple[str, ...] = ()
    content: str = ""


class Answer(BaseModel):
    """What a person decided.

    Attributes:
        decision: One of the question's options.
        text: `edit`: the new code or plan; `reject`: the reason; `answer`: what to say.
        always: Whether the decision (`approve` or `reject`) holds for all blocks of this kind in this run: same
            language and, to be approved, no risks beyond the question's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: Decision
    text: str = ""
    always: bool = False


class Event(BaseModel):
    """Base of all events.

    Attributes:
        time: Seconds since the epoch.
        team: Where it happened: empty for the run's own conversation, else the path of a nested team's, such as
            `research#3` (what the team `research` did for message 3).
        type: Which event it is, in one word; each kind has its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    transient: ClassVar[bool] = False
    """Whether listeners see the event but the log does not keep it (pieces of what a later event holds whole)."""

    time: float = Field(default_factory=time.time)
    team: str = ""

    if TYPE_CHECKING:

        @property
        def type(self) -> str: ...


class RunStarted(Event):
    """A run began.

    Attributes:
        workspace: Directory to work in, or None where nobody named one.
        files: Names of the input files.
        environment: What the agents are told about the computer.
    """

    type: Literal["run_started"] = "run_started"
    run_id: str
    task: str
    model: str
    executor: str
    limits: Limits
    workspace: str | None = None
    files: tuple[str, ...] = ()
    environment: str = ""


class RunResumed(Event):
    """A run that had ended, or whose process had, goes on from its events.

    Attributes:
        executor: Where code runs from here on; None is where it did before, and likewise the next two.
        limits: Within what.
        environment: What the agents are told about the computer from here on.
    """

    type: Literal["run_resumed"] = "run_resumed"
    executor: str | None = None
    limits: Limits | None = None
    environment: str | None = None


class TraceStarted(Event):
    """The run is traced by OpenTelemetry; a resumption links to this trace.

    Attributes:
        traceparent: Of the run's root span, in the form of https://www.w3.org/TR/trace-context/.
    """

    type: Literal["trace_started"] = "trace_started"
    traceparent: str


class WorkspaceSaved(Event):
    """The workspace was kept as it is now; see `agentexec.snapshots`.

    Attributes:
        snapshot: Its id, the same one if nothing has changed.
        files: How many files are in it.
        size: Their bytes.
        skipped: How many it does not hold: too large, or no files; see `agentexec.snapshots.Skipped`.
    """

    type: Literal["workspace_saved"] = "workspace_saved"
    snapshot: str
    files: int = 0
    size: int = 0
    skipped: int = 0


class WorkspaceNotSaved(Event):
    """The workspace could not be kept as it is now. It is tried again after the next block.

    Attributes:
        reason: Why, and what to do about it.
    """

    type: Literal["workspace_not_saved"] = "workspace_not_saved"
    reason: str


class StateRestored(Event):
    """A kernel of a resumed run has its variables again: blocks that had ended `ok` were run once more.

    Attributes:
        blocks: How many.
        failed: How many of them did not end `ok` this time.
    """

    type: Literal["state_restored"] = "state_restored"
    blocks: int
    failed: int = 0


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
        cached: Whether the answer came from a cache of ours, and cost nothing.
    """

    type: Literal["model_called"] = "model_called"
    agent: str
    model: str
    usage: Usage | None = None
    cost: Decimal | None = None
    finish_reason: str = "stop"
    duration: float = 0.0
    cached: bool = False


class ContextTrimmed(Event):
    """What an agent's model is sent was cut down to fit its window. The conversation itself stays whole.

    Attributes:
        agent: Whose model.
        shortened: Messages of which long quotations were shortened.
        dropped: Messages that are left out from now on.
        tokens_before: Estimated tokens before it.
        tokens_after: Estimated tokens after it.
        reason: `window`: it would not have fitted; `refused`: the server said so.
        summary: What a model made of the messages that are left out, if it was asked to sum them up.
        problem: Why there is no summary, if the model that was asked for one failed.
    """

    type: Literal["context_trimmed"] = "context_trimmed"
    agent: str
    shortened: int
    dropped: int
    tokens_before: int
    tokens_after: int
    reason: Literal["window", "refused"] = "window"
    summary: str = ""
    problem: str = ""


class MessageAdded(Event):
    """A message joined the conversation."""

    type: Literal["message"] = "message"
    message: Message


class Step(BaseModel):
    """One step of a plan, and whether it is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    done: bool = False


class PlanUpdated(Event):
    """The plan changed: it was written, a step was ticked off, or it was written anew."""

    type: Literal["plan_updated"] = "plan_updated"
    steps: tuple[Step, ...]


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


class QuestionAsked(Event):
    """A person is asked. The same question may be asked again, after a resumption."""

    type: Literal["question_asked"] = "question_asked"
    question: Question


class QuestionAnswered(Event):
    """The answer to a question.

    Another process answers a run that waits by adding this event to the stored ones before it is resumed.

    Attributes:
        id: The question's.
    """

    type: Literal["question_answered"] = "question_answered"
    id: str
    answer: Answer


class RunFinished(Event):
    """A run ended, or waits: one that is resumed has further events after this one, up to the next.

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
    | RunResumed
    | StateRestored
    | WorkspaceSaved
    | WorkspaceNotSaved
    | TurnStarted
    | ModelText
    | ModelRetried
    | ModelCalled
    | ContextTrimmed
    | MessageAdded
    | PlanUpdated
    | BlockStarted
    | BlockOutput
    | BlockFinished
    | BlockRefused
    | QuestionAsked
    | QuestionAnswered
    | RunFinished,
    Field(discriminator="type"),
]
"""Any event, told apart by `type`; use `pydantic.TypeAdapter(AnyEvent)` to read one back from JSON."""
