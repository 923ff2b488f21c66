"""What can go wrong in a conversation, apart from the sandbox (see `sandboxes.errors`).

AgentexecError
├── SettingsError              a setting is wrong; the message says which and what it may be
└── ModelError                 the model could not answer; the run so far is kept
    ├── ModelAuthError         the server refuses the key
    ├── ModelNotFound          the server does not know the model
    ├── ModelUnreachable       no connection, or none in time
    ├── ModelRateLimited       still refused after the last retry
    ├── ModelContextOverflow   the conversation is longer than the model's window
    ├── ModelStreamBroken      the reply broke off
    ├── ModelRefused           any other refusal of the request by the server
    └── ReplayMismatch         a recorded run holds no reply to this request
"""


class AgentexecError(Exception):
    """Base of everything this package raises by itself."""


class SettingsError(AgentexecError, ValueError):
    """A setting is missing or wrong."""


class ModelError(AgentexecError):
    """The model could not answer."""


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


class ReplayMismatch(ModelError):
    """A recorded run has no reply left, or none to this request."""
