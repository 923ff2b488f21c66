"""Executors by name. Built-ins come through the same door as plug-ins."""

from __future__ import annotations

import functools
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from sandboxes.errors import UnknownExecutor
from sandboxes.executor import Executor
from sandboxes.types import Limits, expect

GROUP = "sandboxes.executors"


class ExecutorFactory(Protocol):
    """What an entry point in group `sandboxes.executors` is."""

    def __call__(self, arg: str | None, *, limits: Limits, workspace: Path | None, **options: Any) -> Executor:
        """Make an executor that is not started yet.

        Args:
            arg: What follows the colon in `NAME:ARG`.
            limits: What each block may use.
            workspace: The directory to work in; None makes one that is thrown away at close.
            options: Backend-specific; a factory refuses what it does not know with a `TypeError`.
        """


def executor_names() -> list[str]:
    """Return the names of all registered executors."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def open_executor(
    spec: str = "local",
    *,
    limits: Limits | None = None,
    workspace: str | Path | None = None,
    **options: Any,
) -> Executor:
    """Make the executor that a spec string names, to be entered with `async with`.

    Args:
        spec: `NAME` or `NAME:ARG`, e.g. `"local"` or `"docker:python:3.12-slim"`.
        limits: What each block may use; the defaults suit most tasks.
        workspace: An existing directory to work in; None makes one that is thrown away at close.
        options: Passed to the backend, e.g. `preload=["numpy"]`. They are those of `LocalSandbox` for `local` and
            `jupyter`, and those of `DockerSandbox` for `docker` and `jupyter+docker`.

    Raises:
        UnknownExecutor: nothing is registered under that name; the message lists what is.
        TypeError: an argument has the wrong type, or the backend has no such option.
    """
    expect(spec, str, "spec is a string such as 'local' or 'docker:python:3.12-slim'")
    expect(limits, (Limits, type(None)), 'limits is a Limits, as in Limits(memory="512M")')
    name, colon, arg = spec.partition(":")
    if colon and not arg.strip():
        raise UnknownExecutor(f"nothing is named after the colon of {spec!r}: say {name!r}, or name something")
    directory = None if workspace is None else Path(workspace)
    try:
        executor = _factory(name)(arg or None, limits=limits or Limits(), workspace=directory, **options)
    except TypeError as error:
        for limit in options.keys() & Limits.model_fields.keys():
            if f"keyword argument '{limit}'" in str(error):
                example = f"limits=Limits({limit}={options[limit]!r})"
                raise TypeError(f"{limit} is a limit: write open_executor({spec!r}, {example})") from error
        raise
    executor.spec = spec
    return executor


# To look a name up is to read a file of every installed distribution: 12 ms where there are a hundred. One that is not
# found is looked for again, since it may have been installed meanwhile.
@functools.cache
def _factory(name: str) -> ExecutorFactory:
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise UnknownExecutor(f"no executor is called {name!r}; known are {', '.join(executor_names())}")
    factory: ExecutorFactory = found[0].load()
    return factory
