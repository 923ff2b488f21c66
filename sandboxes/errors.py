"""What can go wrong with a sandbox. Code that fails is a `Result`; a sandbox that fails is one of these.

SandboxError                 anything below
├── SandboxUnavailable       cannot be used on this machine as it is; the message says what to type
├── SandboxStartError        was there, but did not come up
├── SandboxLostError         has died; `restart()` makes a new one
├── SandboxProtocolError     the other end of the stream said something it must not say
├── SandboxClosedError       was used before it was started, or after `close()`
├── LimitNotEnforceable      a limit was asked for explicitly that this backend cannot enforce
├── PoolTimeout              no executor of a pool became free in time
├── UnknownLanguage          no such language, or its interpreter is not in the sandbox
├── UnknownExecutor          no executor is registered under that name
├── UnsafePath               a path that leaves the workspace, or is not a regular file
├── FileTooLarge             a file is larger than the caller, or the file_size limit, allows
└── WorkspaceFileNotFound    no such file in the workspace (also a FileNotFoundError)
"""


class SandboxError(Exception):
    """Base of everything a sandbox or an executor raises."""


class SandboxUnavailable(SandboxError):
    """The backend cannot be used here: not installed, forbidden, image missing. Says what to type."""


class SandboxStartError(SandboxError):
    """The backend is installed but the sandbox did not come up; carries what it printed."""


class SandboxLostError(SandboxError):
    """The sandbox died. Calls raise this until `restart()`."""


class SandboxProtocolError(SandboxError):
    """The stream from the sandbox carried something that is not our protocol. The sandbox is given up."""


class SandboxClosedError(SandboxError):
    """The executor was used before it was started or after it was closed."""


class LimitNotEnforceable(SandboxError):
    """An explicitly requested limit has no mechanism on this backend and machine."""


class PoolTimeout(SandboxError):
    """All executors of a pool are in use, and none came back in time."""


class UnknownLanguage(SandboxError):
    """The language has no row in the table, or its interpreter is missing inside the sandbox."""


class UnknownExecutor(SandboxError):
    """No entry point in group `sandboxes.executors` has this name."""


class UnsafePath(SandboxError, ValueError):
    """A workspace path that is absolute, leaves the workspace, crosses a symlink or is no regular file."""


class FileTooLarge(SandboxError):
    """A file is larger than what the caller accepts or the limits allow."""


class WorkspaceFileNotFound(SandboxError, FileNotFoundError):
    """There is no such file in the workspace."""
