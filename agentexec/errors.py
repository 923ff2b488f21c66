"""What can go wrong in a conversation, apart from the sandbox (see `sandboxes.errors`).

AgentexecError
├── SettingsError              a setting is wrong; the message says which and what it may be
├── StoreError                 the store of runs cannot be used; the message says what to type
│   ├── StoreUnavailable       it cannot be opened: no permission, no directory, not a store
│   ├── StoreTooNew            a newer version of this package wrote it
│   ├── StoreDamaged           its file is damaged
│   ├── StoreFull              nothing more can be written: disk, quota or size limit
│   ├── RunNotFound            no run has that id
│   ├── NotAsked               a run asks nothing, or nothing that can be answered so
│   └── RunBusy                another process works on that run
├── SnapshotError              a workspace could not be kept, or not be brought back
│   ├── SnapshotNotFound       there is no such snapshot, or no such file in it
│   ├── SnapshotCorrupt        something of it is missing or damaged
│   ├── SnapshotTooLarge       the workspace holds more than the limits allow
│   ├── SnapshotStoreFull      the store is at its limit, or its disk is full
│   └── SnapshotGivenUp        whoever wanted the snapshot no longer does
├── Suspended                  a person will answer later; the run ends as `waiting` and can be resumed
├── HumanSilent                a person did not answer in time, and that stops the run
└── ModelError                 the model could not answer; the run so far is kept
    ├── ModelAuthError         the server refuses the key
    ├── ModelNotFound          the server does not know the model
    ├── ModelUnreachable       no connection, or none in time
    ├── ModelRateLimited       still refused after the last retry
    ├── ModelContextOverflow   the conversation is longer than the model's window
    ├── ModelStreamBroken      the reply broke off
    ├── ModelRefused           any other refusal of the request by the server
    ├── ModelReplyUnusable     the model answered, again and again, with nothing, or with what is no answer
    ├── ModelDeclined          the model, or a filter, declined to answer
    ├── ModelBudgetSpent       a budget over several runs is used up
    └── ReplayMismatch         a recorded run holds no reply to this request
"""


class AgentexecError(Exception):
    """Base of everything this package raises by itself."""


class SettingsError(AgentexecError, ValueError):
    """A setting is missing or wrong."""


class SnapshotError(AgentexecError):
    """A workspace could not be kept, or not be brought back."""


class SnapshotNotFound(SnapshotError):
    """There is no such snapshot, or no such file in it."""


class SnapshotCorrupt(SnapshotError):
    """Something of the snapshot is missing or damaged."""


class SnapshotTooLarge(SnapshotError):
    """The workspace holds more than a snapshot may."""


class SnapshotStoreFull(SnapshotError):
    """The store is at its limit, or its disk is full."""


class SnapshotGivenUp(SnapshotError):
    """Whoever wanted the snapshot no longer does."""


class Suspended(AgentexecError):
    """A question will be answered later. Raised by a human's callback; ends the run as `waiting`."""


class HumanSilent(AgentexecError):
    """Nobody answered a question in time; ends the run with stop reason `human`."""


class ModelError(AgentexecError):
    """The model could not answer.

    Attributes:
        retryable: Whether the same call may succeed later.
        retry_after: Seconds that the server asks to wait before it, or None.
    """

    retryable: bool = False
    retry_after: float | None = None


class ModelAuthError(ModelError):
    """The server refuses the key, or there is none."""


class ModelNotFound(ModelError):
    """The server does not know the model."""


class ModelUnreachable(ModelError):
    """There is no connection to the server, or it did not answer in time."""


class ModelRateLimited(ModelError):
    """The server still refuses for the rate of requests after the last retry."""


class ModelContextOverflow(ModelError):
    """The conversation is longer than the model's context window."""


class ModelStreamBroken(ModelError):
    """The reply broke off before its end, also after the last retry."""


class ModelRefused(ModelError):
    """The server refused the request for another reason, or failed on its side for too long."""


class ModelReplyUnusable(ModelError):
    """The reply was empty or malformed, also when it was asked for again."""


class ModelDeclined(ModelError):
    """The model, or a content filter, declined to answer, also when it was asked again."""


class ModelBudgetSpent(ModelError):
    """A budget over several runs is used up, or cannot be kept."""


class ReplayMismatch(ModelError):
    """A recorded run has no reply left, or none to this request."""


class StoreError(AgentexecError):
    """The store of runs cannot be used, or cannot do this."""


class StoreUnavailable(StoreError):
    """The store cannot be opened: no permission, no directory, or the file is something else."""


class StoreTooNew(StoreError):
    """A newer version of this package wrote the store."""


class StoreDamaged(StoreError):
    """The store's file is damaged."""


class StoreFull(StoreError):
    """Nothing more can be written: the disk, a quota or a limit on file sizes is exhausted."""


class RunNotFound(StoreError, LookupError):
    """No run in the store has that id, or more than one begins or ends so."""


class NotAsked(StoreError):
    """The run asks nothing, has been answered, or cannot be answered so."""


class RunBusy(StoreError):
    """Another process works on the run."""
