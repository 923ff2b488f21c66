"""Where code runs: executors, the sandboxes under them, and the limits they enforce.

    async with open_executor("local", limits=Limits(memory="512M", wall_time=30)) as executor:
        result = await executor.run(CodeBlock("print(1)"))

Without an event loop it is `with open_executor_sync(...) as executor`, and no `await`.

This package knows nothing of agents, models or conversations. Importing it has no effects and takes next to no time: a
name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandboxes.docker import DockerSandbox
    from sandboxes.errors import (
        FileTooLarge,
        LimitNotEnforceable,
        PoolTimeout,
        SandboxClosedError,
        SandboxError,
        SandboxLostError,
        SandboxProtocolError,
        SandboxStartError,
        SandboxUnavailable,
        UnknownExecutor,
        UnknownLanguage,
        UnsafePath,
        WorkspaceFileNotFound,
    )
    from sandboxes.executor import Executor
    from sandboxes.fake import FakeExecutor
    from sandboxes.languages import LANGUAGES, Language, find_language
    from sandboxes.local import LocalSandbox
    from sandboxes.paths import workspace_path
    from sandboxes.pool import Pool
    from sandboxes.registry import executor_names, open_executor
    from sandboxes.sandbox import ByteStream, Sandbox
    from sandboxes.script import ScriptExecutor
    from sandboxes.stream import ProcessStream
    from sandboxes.sync import SyncExecutor, open_executor_sync
    from sandboxes.types import (
        VERDICTS,
        CodeBlock,
        Display,
        ErrorInfo,
        Isolation,
        Limits,
        OnOutput,
        Result,
        Verdict,
        WorkspaceFile,
    )

__all__ = [
    "LANGUAGES",
    "VERDICTS",
    "ByteStream",
    "CodeBlock",
    "Display",
    "DockerSandbox",
    "ErrorInfo",
    "Executor",
    "FakeExecutor",
    "FileTooLarge",
    "Isolation",
    "Language",
    "LimitNotEnforceable",
    "Limits",
    "LocalSandbox",
    "OnOutput",
    "Pool",
    "PoolTimeout",
    "ProcessStream",
    "Result",
    "Sandbox",
    "SandboxClosedError",
    "SandboxError",
    "SandboxLostError",
    "SandboxProtocolError",
    "SandboxStartError",
    "SandboxUnavailable",
    "ScriptExecutor",
    "SyncExecutor",
    "UnknownExecutor",
    "UnknownLanguage",
    "UnsafePath",
    "Verdict",
    "WorkspaceFile",
    "WorkspaceFileNotFound",
    "executor_names",
    "find_language",
    "open_executor",
    "open_executor_sync",
    "workspace_path",
]

_HOMES = {
    "docker": ("DockerSandbox",),
    "errors": (
        "FileTooLarge",
        "LimitNotEnforceable",
        "PoolTimeout",
        "SandboxClosedError",
        "SandboxError",
        "SandboxLostError",
        "SandboxProtocolError",
        "SandboxStartError",
        "SandboxUnavailable",
        "UnknownExecutor",
        "UnknownLanguage",
        "UnsafePath",
        "WorkspaceFileNotFound",
    ),
    "executor": ("Executor",),
    "fake": ("FakeExecutor",),
    "languages": (
        "LANGUAGES",
        "Language",
        "find_language",
    ),
    "local": ("LocalSandbox",),
    "paths": ("workspace_path",),
    "pool": ("Pool",),
    "registry": (
        "executor_names",
        "open_executor",
    ),
    "sandbox": (
        "ByteStream",
        "Sandbox",
    ),
    "script": ("ScriptExecutor",),
    "stream": ("ProcessStream",),
    "sync": (
        "SyncExecutor",
        "open_executor_sync",
    ),
    "types": (
        "VERDICTS",
        "CodeBlock",
        "Display",
        "ErrorInfo",
        "Isolation",
        "Limits",
        "OnOutput",
        "Result",
        "Verdict",
        "WorkspaceFile",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
